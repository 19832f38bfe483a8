"""A local rehearsal hub: ModelScope's download protocol on 127.0.0.1, for the bundled models.

The real client downloads from it without a network, so that interrupting, resuming and repairing can be practised. It
is plain HTTP without logins, redirects or speed limits: nothing about it says how fast or how reliable the real hub is.

Source: the requests that modelscope_hub 0.5.1 sends (``_legacy_api.py``, ``_download.py``).
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from helpers import models
from helpers.language import say
from helpers.ports import HOST, no_proxy

HEADING = f"[{say('本地演练用的 hub', 'local rehearsal hub', ' | ')}]"
OWNER = "course"  # owner of the bundled models' ids on the rehearsal hub: course/qwen3-tiny
REVISION = "master"
NOT_FOUND = {"Code": 10010205001, "Success": False, "Message": "record not found", "RequestId": "local"}


class Request(NamedTuple):
    """One answered request for a file: path in the repository, the Range header ("" without one), HTTP status."""

    path: str
    range: str
    status: int


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # a client that went away is no news
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers the list of a model's files, and a file or a range of it; anything else is 404."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub, *arguments):
        self.hub = hub
        super().__init__(*arguments)

    def do_GET(self):
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        found = re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/(repo|repo/files)", address.path)
        files = self.hub.files.get(found[1]) if found else None
        if found is None or files is None or query.get("Revision", REVISION) != REVISION:
            return self.send_json(404, NOT_FOUND)
        if found[2] == "repo/files":
            return self.send_json(200, self.listing(files, query.get("Root", "").strip("/")))
        if (path := query.get("FilePath", "")) not in files:  # only listed files, so no path leads out of the folder
            return self.send_json(404, NOT_FOUND)
        self.send_file(path, self.hub.folders[found[1]] / path, files[path]["Size"])

    def listing(self, files: dict[str, dict], root: str) -> dict:
        chosen = [entry for path, entry in files.items() if not root or path.startswith(root + "/")]
        return {"Code": 200, "Success": True, "Message": "", "RequestId": "local", "Data": {"Files": chosen}}

    def send_file(self, path: str, file: Path, size: int) -> None:
        wanted = self.headers.get("Range", "")
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
        start = int(asked[1]) if asked else 0
        end = min(int(asked[2] or size - 1), size - 1) if asked else size - 1  # the last byte, included
        status = 200 if not asked else 206 if start <= end else 416
        self.hub.requests.append(Request(path, wanted, status))
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        elif status == 416:
            self.send_header("Content-Range", f"bytes */{size}")
        length = 0 if status == 416 else end - start + 1
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if length:
            self.send_body(path, file, start, length)

    def send_body(self, path: str, file: Path, start: int, length: int) -> None:
        self.wfile.flush()
        with file.open("rb") as opened:
            self.connection.sendfile(opened, start, length)

    def send_json(self, status: int, answer: dict) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        """No access log between a lesson's outputs; ``Hub.requests`` has what was asked."""


class Hub:
    """``with Hub() as hub:`` serves models until the block ends; clients started inside it talk to this hub.

    models: hub id -> folder; by default every bundled model as ``course/NAME``. cache: folder for downloads, kept
    afterwards; by default a temporary one. Inside the block ``os.environ`` holds ``hub.environment``, afterwards what
    it held before. ``hub.requests`` lists the files asked for, ``hub.url`` is the address.
    """

    handler = Handler

    def __init__(self, models: dict[str, Path] | None = None, cache: Path | None = None):
        self.folders = {name: Path(folder) for name, folder in (models or bundled()).items()}
        self.files = {name: _entries(folder) for name, folder in self.folders.items()}
        self.requests: list[Request] = []
        self.cache = cache

    def __enter__(self) -> "Hub":
        self._end = contextlib.ExitStack()
        scratch = self._end.enter_context(tempfile.TemporaryDirectory(prefix="rehearsal-hub-"))
        server = self._end.enter_context(_Server((HOST, 0), partial(self.handler, self)))
        self.cache = Path(self.cache or Path(scratch, "cache"))
        self.url = f"http://{HOST}:{server.server_port}"
        self.environment = {
            "MODELSCOPE_ENDPOINT": self.url,
            "MODELSCOPE_CACHE": str(self.cache),
            "MODELSCOPE_HOME": str(Path(scratch, "home")),  # without the learner's login
            **no_proxy(HOST),
        }
        before = {name: os.environ.get(name) for name in self.environment}
        self._end.callback(set_environment, before)
        set_environment(self.environment)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self._end.callback(server.shutdown)
        print(HEADING, *self.folders)
        return self

    def __exit__(self, *exc_info) -> None:
        self._end.close()


def bundled() -> dict[str, Path]:
    """The rehearsal hub's id -> folder of each model that comes with the course."""
    return {f"{OWNER}/{config.parent.name}": config.parent for config in sorted(models.BUNDLED.glob("*/config.json"))}


def _entries(folder: Path) -> dict[str, dict]:
    entries = {}
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder).as_posix()
        if file.is_file() and not path.startswith("."):
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            entries[path] = {"Path": path, "Type": "blob", "Size": file.stat().st_size, "Sha256": digest}
    return entries


def set_environment(values: Mapping[str, str | None]) -> None:
    """Set variables, None removes one; a ModelScope client that is already imported reads them anew."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if config := sys.modules.get("modelscope_hub.config"):
        config.set_default_config(None)  # read once in a process
