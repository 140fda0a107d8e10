"""A Hub on the loopback interface: enough of its protocol to create repositories and commit files, and to misbehave.

The endpoints and fields are those that huggingface_hub 2.4 uses for `create_repo` and `create_commit` with files that
travel inside the commit (`uploadMode` regular).
"""

import base64
import hashlib
import json
import socket
import struct
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_loopback_test_token"


class FakeHub:
    """The server; use it as a context manager.

    Attributes:
        repos: Files of each repository, `{repo_id: {path: content}}`.
        private: Which repositories are private.
        faults: What to do wrong, by step (`create`, `info`, `validate`, `preupload`, `commit`) and consumed one a
            request: a status code, `"reset"` (break off in the middle of the body), `"hang"` (never answer) or
            `"lost"` (do the work, then break off before the answer). A status is for ever if the list ends in `"..."`.
        requests: Steps in the order of their requests.
        commits: Title and paths of each commit.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.faults: dict[str, list[int | str]] = defaultdict(list)
        self.requests: list[str] = []
        self.commits: list[tuple[str, list[str]]] = []
        self.headers: dict[str, str] = {}
        self.tokens: set[str | None] = set()
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeHub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def next_fault(self, step: str) -> int | str | None:
        faults = self.faults[step]
        if not faults:
            return None
        if faults[-1] == "..." and len(faults) == 2:
            return faults[0]
        return faults.pop(0)

    def answer(self, step: str, repo_id: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Do what a request asks for: (status, answer)."""
        if step == "create":
            request = json.loads(body)
            repo_id = f"{request['organization'] or 'owner'}/{request['name']}"
            known = repo_id in self.repos
            self.repos.setdefault(repo_id, {})
            self.private.setdefault(repo_id, request.get("visibility") == "private")
            return (409 if known else 200), {"url": f"{self.endpoint}/{repo_id}"}
        if step == "validate":
            return 200, {"errors": [], "warnings": []}
        if repo_id not in self.repos:
            return 404, {"error": "Repository not found"}
        if step == "info":
            return 200, {"id": repo_id, "private": self.private[repo_id], "sha": "0" * 40, "siblings": [], "tags": []}
        if step == "preupload":
            files = json.loads(body)["files"]
            return 200, {"files": [self._upload_mode(repo_id, file["path"]) for file in files]}
        return 200, self._commit(repo_id, body)

    def _upload_mode(self, repo_id: str, path: str) -> dict[str, Any]:
        content = self.repos[repo_id].get(path)
        oid = None if content is None else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": oid}

    def _commit(self, repo_id: str, body: bytes) -> dict[str, Any]:
        lines = [json.loads(line) for line in body.splitlines()]
        files = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
        self.repos[repo_id].update({path: base64.b64decode(content) for path, content in files.items()})
        self.commits.append((lines[0]["value"]["summary"], sorted(files)))
        return {"commitUrl": f"{self.endpoint}/{repo_id}/commit/{'1' * 40}", "commitOid": "1" * 40}


def _step_and_repo(path: str) -> tuple[str, str]:
    parts = path.split("?")[0].strip("/").split("/")
    if parts[:2] == ["api", "repos"]:
        return "create", ""
    if parts[:2] == ["api", "validate-yaml"]:
        return "validate", ""
    step = parts[4] if len(parts) > 4 else "info"
    return ("info" if step == "revision" else step), "/".join(parts[2:4])


class _Server(ThreadingHTTPServer):
    hub: FakeHub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement
    server: _Server

    def _serve(self) -> None:
        step, repo_id = _step_and_repo(self.path)
        if not self.path.startswith(("/api/models/", "/api/repos/", "/api/validate-yaml")):
            # huggingface_hub also asks for things that have nothing to do with a push.
            self._send(404, {"error": "not here"})
            return
        self.server.hub.requests.append(step)
        self.server.hub.tokens.add(self.headers.get("Authorization"))
        length = int(self.headers.get("Content-Length", 0))
        fault = self.server.hub.next_fault(step)
        if fault == "reset":
            self.rfile.read(length // 2)
            self._reset()
            return
        body = self.rfile.read(length)
        if fault == "hang":
            self.server.hub.closing.wait()
            self._reset()
        elif isinstance(fault, int):
            self._send(fault, {"error": f"made to answer {fault}"})
        else:
            status, answer = self.server.hub.answer(step, repo_id, body)
            if fault == "lost":
                self._reset()
            else:
                self._send(status, answer)

    do_GET = do_POST = _serve

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in self.server.hub.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _reset(self) -> None:
        # With a linger time of 0 closing sends RST: the client sees "connection reset by peer".
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def finish(self) -> None:
        if self.connection.fileno() != -1:
            super().finish()

    def log_message(self, *_: object) -> None:
        pass
