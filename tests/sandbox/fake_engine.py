"""A Docker engine for tests: real HTTP on a real unix socket, answers as told, nothing behind them.

What it stands for is the engine's side of the API as the SDK uses it. It runs no container.
"""

import json
import re
import shutil
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any, Self
from urllib.parse import urlsplit

from sandbox.engine import BASE_LABEL, BOOTSTRAP_LABEL, IMAGE
from sandbox.source import SOURCE_LABEL, source_hash

HANGS = object()  # an answer that does not come

VERSION = {
    "Version": "20.10.24",
    "ApiVersion": "1.41",
    "MinAPIVersion": "1.12",
    "Components": [{"Name": "Engine", "Version": "20.10.24"}, {"Name": "runc", "Version": "1.3.3"}],
}
INFO = {
    "MemoryLimit": True,
    "SwapLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "CgroupVersion": "2",
    "SecurityOptions": ["name=seccomp,profile=default"],
    "LiveRestoreEnabled": False,
    "DockerRootDir": "/",
    "Runtimes": {"runc": {"path": "runc"}},
    "Warnings": None,
}


def image(**labels: str) -> dict[str, Any]:
    """A sandbox image that is current unless the labels say otherwise."""
    current = {SOURCE_LABEL: source_hash(), BASE_LABEL: "sha256:base", BOOTSTRAP_LABEL: "true"}
    return {"Id": "sha256:image", "Size": 900 << 20, "Config": {"Labels": current | labels}}


class FakeEngine:
    """Answers by `METHOD /path` (without the API version); a status other than 200 as a pair; unknown paths get 404.

    `asked` collects method, path with query, and the parsed body of every request.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "GET /version": VERSION,
            "GET /info": INFO,
            f"GET /images/{IMAGE}/json": image(),
            "GET /containers/json": [],
        }
        self.asked: list[tuple[str, str, Any]] = []
        self.closing = threading.Event()
        self.directory = Path(tempfile.mkdtemp(prefix="move37-engine-"))  # short: a socket's path has 108 bytes
        self.directory.chmod(0o755)
        self.socket = self.directory / "docker.sock"

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    def __enter__(self) -> Self:
        self._server = _Server(str(self.socket), _Handler)
        self._server.fake = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        shutil.rmtree(self.directory)


class _Server(ThreadingUnixStreamServer):
    daemon_threads = False
    fake: FakeEngine


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def _answer(self) -> None:
        fake = self.server.fake
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = re.sub(r"^/v[0-9.]+/", "/", self.path)
        fake.asked.append((self.command, path, json.loads(body) if body else None))
        answer = fake.answers.get(f"{self.command} {urlsplit(path).path}", (404, {"message": "no such thing"}))
        if answer is HANGS:
            fake.closing.wait()
            return
        status, content = answer if isinstance(answer, tuple) else (200, answer)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = do_HEAD = _answer

    def address_string(self) -> str:
        return "a unix socket"

    def log_message(self, *_: object) -> None:
        """Says nothing."""
