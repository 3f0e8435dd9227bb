"""Files and folders of the stand-in, as described by Drive v2."""

import hashlib
import itertools
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = "application/vnd.google-apps.folder"
MY_DRIVE = "0AMyDriveStandInUk9PVA"
SHARED_DRIVE = "0ASharedStandInUk9PVA"


@dataclass
class Item:
    """A file or folder. `drive` is the id of its shared drive, or None in My Drive."""

    id: str
    title: str
    mime_type: str
    parent: str | None
    drive: str | None
    size: int = 0
    md5: str = ""
    trashed: bool = False

    def resource(self) -> dict[str, Any]:
        resource: dict[str, Any] = {
            "kind": "drive#file",
            "id": self.id,
            "title": self.title,
            "mimeType": self.mime_type,
            "labels": {"trashed": self.trashed},
            "parents": [],
        }
        if self.parent:
            is_root = self.parent in (MY_DRIVE, SHARED_DRIVE)
            resource["parents"] = [{"id": self.parent, "isRoot": is_root}]
        if self.mime_type != FOLDER:
            resource |= {"fileSize": str(self.size), "md5Checksum": self.md5}
        if self.drive:
            resource |= {"driveId": self.drive, "teamDriveId": self.drive}
        return resource


class Contents:
    """A My Drive and a shared drive; the files' bytes are stored in `folder`. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._items = {
            MY_DRIVE: Item(MY_DRIVE, "My Drive", FOLDER, None, None),
            SHARED_DRIVE: Item(SHARED_DRIVE, "Shared", FOLDER, None, SHARED_DRIVE),
        }

    def get(self, item_id: str) -> Item | None:
        with self._lock:
            return self._items.get(self.resolve(item_id))

    @staticmethod
    def resolve(item_id: str) -> str:
        """Resolve the alias `root` of My Drive's top folder."""
        return MY_DRIVE if item_id == "root" else item_id

    def add(
        self, title: str, parent: str, mime_type: str = FOLDER, content: Path | None = None
    ) -> Item:
        """Add a folder, or a file whose content is moved here. Titles need not be unique."""
        md5, size = "", 0
        if content:
            size = content.stat().st_size
            with content.open("rb") as file:
                md5 = hashlib.file_digest(file, "md5").hexdigest()
        with self._lock:
            above = self._items[self.resolve(parent)]
            item_id = f"1StandIn{next(self._numbers):025d}"  # same length as Drive's ids
            item = Item(item_id, title, mime_type, above.id, above.drive, size, md5)
            if content:
                content.replace(self.path(item))
            self._items[item_id] = item
        return item

    def path(self, item: Item) -> Path:
        return self.folder / item.id

    def find(
        self, parents: Iterable[str], title: str | None, trashed: bool, drive: str | None
    ) -> list[Item]:
        """Return children of `parents` in stable order. Drive ignores the case of titles."""
        parents = {self.resolve(parent) for parent in parents}
        with self._lock:
            return [
                item
                for item in self._items.values()
                if item.parent in parents
                and item.trashed == trashed
                and (title is None or item.title.casefold() == title.casefold())
                and (drive is None or item.drive == drive)
            ]

    def change(self, item: Item, title: str | None, parent: str | None) -> None:
        with self._lock:
            item.title = title or item.title
            item.parent = self.resolve(parent) if parent else item.parent

    def delete(self, item: Item) -> None:
        """Delete permanently, including all children."""
        with self._lock:
            for child in [other for other in self._items.values() if other.parent == item.id]:
                self.delete(child)
            self._items.pop(item.id, None)
        self.path(item).unlink(missing_ok=True)

    def used(self) -> int:
        """Return the bytes used in My Drive, including the trash, as in Google's quota."""
        with self._lock:
            return sum(item.size for item in self._items.values() if not item.drive)

    def files(self) -> dict[str, Item]:
        """Return all files outside the trash by their path from the drive's root."""
        with self._lock:
            items = list(self._items.values())
            return {
                self._full_path(item): item
                for item in items
                if item.mime_type != FOLDER and not item.trashed
            }

    def _full_path(self, item: Item) -> str:
        above = self._items.get(item.parent) if item.parent else None
        return f"{self._full_path(above)}/{item.title}" if above and above.parent else item.title
