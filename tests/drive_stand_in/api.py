"""The part of Drive's v2 REST API that PyDrive2 and dvc-gdrive use."""

import itertools
import re
from collections.abc import Callable

from drive_stand_in.accounts import SERVICE, Accounts
from drive_stand_in.contents import Contents, Item
from drive_stand_in.messages import Request, Response, error_response, json_response
from drive_stand_in.query import parse
from drive_stand_in.uploads import Uploads

HOSTS = ("www.googleapis.com", "oauth2.googleapis.com")
QUOTA = 15 * 10**9

_FILES = "/drive/v2/files"
# A call's name, its method and its path; `alt=media` makes a `get` a `download`.
ROUTES = (
    ("token", "POST", "/token"),
    ("about", "GET", "/drive/v2/about"),
    ("list", "GET", _FILES),
    ("insert", "POST", _FILES),
    ("upload_start", "POST", f"/upload{_FILES}"),
    ("upload", "PUT", f"/upload{_FILES}"),
    ("get", "GET", f"{_FILES}/([^/]+)"),
    ("patch", "PATCH", f"{_FILES}/([^/]+)"),
    ("delete", "DELETE", f"{_FILES}/([^/]+)"),
    ("trash", "POST", f"{_FILES}/([^/]+)/trash"),
)
NO_STORAGE = (
    "Service Accounts do not have storage quota. Leverage shared drives, or use OAuth delegation "
    "instead."
)


class DriveApi:
    """Handles API requests. `page_size` is the maximum number of items per page of a list."""

    def __init__(self, contents: Contents, page_size: int) -> None:
        self.contents = contents
        self.accounts = Accounts()
        self.page_size = page_size
        self._uploads = Uploads(contents)
        self._pages: dict[str, list[Item]] = {}
        self._page_numbers = itertools.count()

    @staticmethod
    def route(request: Request) -> tuple[str, str]:
        """Return a call's name and the id of its item, or ("unknown", "")."""
        for name, method, path in ROUTES:
            match = re.fullmatch(path, request.path)
            if match and method == request.method:
                item_id = match.group(1) if match.groups() else ""
                media = name == "get" and request.query.get("alt") == "media"
                return ("download" if media else name), item_id
        return "unknown", ""

    def answer(self, call: str, item_id: str, request: Request) -> Response:
        if call == "token":
            return self.accounts.grant(request.read())
        owner = self.accounts.owner(request.headers["Authorization"])
        if not owner:
            return error_response(401, "authError", "Invalid Credentials")
        if call in ("insert", "upload_start"):
            return self._create(call, request, owner)
        if call == "upload":
            return self._uploads.receive(request)
        whole: dict[str, Callable[[Request], Response]] = {"about": self._about, "list": self._list}
        if call in whole:
            return whole[call](request)
        item = self.contents.get(item_id)
        if call == "unknown" or not item:
            return error_response(404, "notFound", f"File not found: {item_id or request.path}")
        one: dict[str, Callable[[Item, Request], Response]] = {
            "get": self._get,
            "download": self._download,
            "patch": self._patch,
            "trash": self._trash,
            "delete": self._delete,
        }
        return one[call](item, request)

    def _about(self, _request: Request) -> Response:
        used = str(self.contents.used())
        return json_response({"quotaBytesTotal": str(QUOTA), "quotaBytesUsed": used})

    def _list(self, request: Request) -> Response:
        token = request.query.get("pageToken")
        if token:
            items = self._pages.pop(token, [])
        else:
            try:
                query = parse(request.query["q"])
            except ValueError as error:
                return error_response(400, "invalid", str(error))
            items = self.contents.find(*query, drive=request.query.get("driveId"))
        size = min(self.page_size, int(request.query.get("maxResults", "100")))
        page = {"items": [item.resource() for item in items[:size]]}
        if items[size:]:
            following = f"page-{next(self._page_numbers)}"
            self._pages[following] = items[size:]
            page["nextPageToken"] = following
        return json_response(page)

    def _create(self, call: str, request: Request, owner: str) -> Response:
        metadata = request.json()
        parent = self.contents.get(metadata.get("parents", [{"id": "root"}])[0]["id"])
        if not parent:
            return error_response(404, "notFound", "File not found: .")
        if call == "insert":
            return json_response(self.contents.add(metadata["title"], parent.id).resource())
        if owner == SERVICE and not parent.drive:
            return error_response(403, "storageQuotaExceeded", NO_STORAGE)
        return self._uploads.start(request, metadata["title"], parent.id)

    def _get(self, item: Item, request: Request) -> Response:
        resource = item.resource()
        fields = request.query.get("fields")
        if fields:
            resource = {key: resource[key] for key in fields.split(",") if key in resource}
        return json_response(resource)

    def _download(self, item: Item, request: Request) -> Response:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"] or "")
        start = int(match.group(1)) if match else 0
        if match and start >= item.size:
            return Response(416, headers={"Content-Range": f"bytes */{item.size}"})
        end = min(int(match.group(2)) + 1, item.size) if match else item.size
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{item.size}"} if match else {}
        return Response(
            206 if match else 200,
            headers=headers,
            file=self.contents.path(item),
            start=start,
            length=end - start,
        )

    def _patch(self, item: Item, request: Request) -> Response:
        changes = request.json()
        parents = changes.get("parents")
        self.contents.change(item, changes.get("title"), parents[0]["id"] if parents else None)
        return json_response(item.resource())

    def _trash(self, item: Item, _request: Request) -> Response:
        item.trashed = True
        return json_response(item.resource())

    def _delete(self, item: Item, _request: Request) -> Response:
        self.contents.delete(item)
        return Response(204)
