"""User and service accounts: credential files and access tokens."""

import json
import threading
from pathlib import Path
from urllib.parse import parse_qs

from cryptography.hazmat.primitives.asymmetric import rsa

from drive_stand_in.authority import private_pem
from drive_stand_in.contents import SHARED_DRIVE
from drive_stand_in.messages import Response, json_response

TOKEN_URI = "https://oauth2.googleapis.com/token"
CLIENT_ID = "stand-in.apps.googleusercontent.com"
CLIENT_SECRET = "not-a-secret"
REFRESH_TOKEN = "1//stand-in-refresh-token"
JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

USER, SERVICE = "user", "service"
FOLDER_TITLE = "VLM3D_Task2_Backup"


def remote_options(folder: Path, account: str, title: str = FOLDER_TITLE) -> dict[str, str]:
    """Return the options of a DVC remote, and write its credentials to `folder`.

    A user's remote is in My Drive, a service account's in a shared drive, since it has no storage.
    """
    if account == USER:
        credentials = folder / "user-credentials.json"
        _write_user_credentials(credentials)
        return {
            "url": f"gdrive://root/{title}",
            "gdrive_client_id": CLIENT_ID,
            "gdrive_client_secret": CLIENT_SECRET,
            "gdrive_user_credentials_file": str(credentials),
        }
    key = folder / "service-account.json"
    _write_service_key(key)
    return {
        "url": f"gdrive://{SHARED_DRIVE}/{title}",
        "gdrive_use_service_account": "true",
        "gdrive_service_account_json_file_path": str(key),
    }


def write_remote(root: Path, name: str, options: dict[str, str]) -> None:
    """Set DVC's default remote in .dvc/config.local.

    Written directly, since `dvc remote` takes seconds and fails for non-ASCII paths.
    """
    lines = ["[core]", f"remote = {name}", f"['remote \"{name}\"']"]
    lines += [f"{option} = {value}" for option, value in options.items()]
    (root / ".dvc/config.local").write_text("\n".join(lines) + "\n")


class Accounts:
    """Issues access tokens and maps them to accounts. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owners: dict[str, str] = {}

    def owner(self, authorization: str | None) -> str | None:
        """Return the account of an Authorization header's token, or None."""
        with self._lock:
            return self._owners.get((authorization or "").removeprefix("Bearer "))

    def grant(self, form: bytes) -> Response:
        """Token endpoint: accepts a refresh token or the service account's signed assertion."""
        fields = {key: values[0] for key, values in parse_qs(form.decode()).items()}
        if fields.get("refresh_token") == REFRESH_TOKEN:
            owner = USER
        elif fields.get("grant_type") == JWT_GRANT and fields.get("assertion"):
            owner = SERVICE
        else:
            return refusal("invalid_grant", "Bad Request")
        with self._lock:
            token = f"ya29.stand-in-{owner}-{len(self._owners)}"
            self._owners[token] = owner
        return json_response({"access_token": token, "expires_in": 3600, "token_type": "Bearer"})


def refusal(error: str, description: str) -> Response:
    return json_response({"error": error, "error_description": description}, 400)


def _write_service_key(path: Path) -> None:
    """Write a service account's JSON key, as created by Google's console."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    content = {
        "type": "service_account",
        "project_id": "stand-in",
        "private_key_id": "stand-in",
        "private_key": private_pem(key).decode(),
        "client_email": "backup@stand-in.iam.gserviceaccount.com",
        "client_id": "100000000000000000000",
        "token_uri": TOKEN_URI,
    }
    path.write_text(json.dumps(content))


def _write_user_credentials(path: Path) -> None:
    """Write credentials as saved by dvc-gdrive after a login, with an expired access token."""
    content = {
        "access_token": "ya29.run-out",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "refresh_token": REFRESH_TOKEN,
        "token_expiry": "2020-01-01T00:00:00Z",
        "token_uri": TOKEN_URI,
        "user_agent": None,
        "revoke_uri": "https://oauth2.googleapis.com/revoke",
        "id_token": None,
        "id_token_jwt": None,
        "token_response": None,
        "scopes": [],
        "token_info_uri": None,
        "invalid": False,
        "_class": "OAuth2Credentials",
        "_module": "oauth2client.client",
    }
    path.write_text(json.dumps(content))
