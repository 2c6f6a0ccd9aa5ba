"""A stand-in for Kaggle on the loopback interface, as far as `diffad kaggle push` goes.

The real client, told that its server is ``http://localhost`` (its own switch KAGGLE_API_ENVIRONMENT=LOCALHOST), reaches
this one as its HTTP proxy, so no client code is replaced and no privileged port is needed.
"""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

USER, KEY = "somebody", "not-a-real-key"


class FakeKaggle(ThreadingHTTPServer):
    """Keeps what was uploaded. `failing`: kernels that end with an error. Each kernel takes two polls to finish."""

    daemon_threads = True

    def __init__(self, failing: tuple[str, ...] = ()):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.failing = failing
        self.calls: list[str] = []
        self.names: dict[str, str] = {}  # token -> file name
        self.blobs: dict[str, bytes] = {}  # file name -> content
        self.datasets: dict[str, list] = {}  # id -> versions, each a list of file names
        self.kernels: dict[str, list[dict]] = {}  # id -> requests
        self.polls: dict[str, int] = {}
        self.most_at_once = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def environment(self, home: Path) -> dict[str, str]:
        """What sends the client here, with credentials that are none."""
        address = f"http://127.0.0.1:{self.server_address[1]}"
        return {
            "HOME": str(home),
            "KAGGLE_CONFIG_DIR": str(home),
            "KAGGLE_USERNAME": USER,
            "KAGGLE_KEY": KEY,
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "http_proxy": address,
            "HTTP_PROXY": address,
            "no_proxy": "",
            "NO_PROXY": "",
        }

    def answer(self, call: str, body: dict) -> tuple[int, dict]:
        self.calls.append(call)
        if call == "StartBlobUpload":
            token = f"token-{len(self.names)}"
            self.names[token] = body["name"]
            return 200, {"token": token, "createUrl": f"http://localhost/upload/{token}"}
        if call == "GetDatasetStatus":
            name = f"{body['ownerSlug']}/{body['datasetSlug']}"
            return (200, {"status": "READY"}) if name in self.datasets else (404, {"code": 404, "message": "Not found"})
        if call in ("CreateDataset", "CreateDatasetVersion"):
            name = f"{body['ownerSlug']}/{body.get('slug') or body['datasetSlug']}"
            files = (body.get("body") or body)["files"]
            self.datasets.setdefault(name, []).append([self.names[file["token"]] for file in files])
            return 200, {"ref": name, "url": "", "status": "ok"}
        if call == "SaveKernel":
            name = body["slug"]
            unknown = [source for source in body.get("kernelDataSources", []) if source not in self.kernels]
            self.kernels.setdefault(name, []).append(body)
            self.polls[name] = 0
            self.most_at_once = max(self.most_at_once, sum(count < 2 for count in self.polls.values()))
            return 200, {
                "ref": name,
                "url": "",
                "versionNumber": len(self.kernels[name]),
                "invalidKernelSources": unknown,
            }
        if call == "GetKernelSessionStatus":
            name = f"{body['userName']}/{body['kernelSlug']}"
            if name not in self.kernels:
                return 404, {"code": 404, "message": "Not found"}
            self.polls[name] += 1
            if self.polls[name] < 2:
                return 200, {"status": "RUNNING"}
            failed = name in self.failing
            return 200, {"status": "ERROR" if failed else "COMPLETE"} | (
                {"failureMessage": "out of memory"} if failed else {}
            )
        return 404, {"code": 404, "message": f"no such call: {call}"}


class _Handler(BaseHTTPRequestHandler):
    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _reply(self, code: int, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        body = json.loads(self._body() or b"{}")
        expected = "Basic " + base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            return self._reply(401, {"code": 401, "message": "Unauthenticated"})
        return self._reply(*self.server.answer(self.path.rsplit("/", 1)[1], body))

    def do_PUT(self) -> None:
        self.server.blobs[self.server.names[self.path.rsplit("/", 1)[1]]] = self._body()
        self._reply(200, {})

    def log_message(self, *_) -> None:
        pass
