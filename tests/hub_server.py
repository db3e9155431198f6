"""A server that speaks the part of the Hugging Face hub's HTTP interface that downloads use, over a folder.

    with HubServer(folder) as hub: os.environ["HF_ENDPOINT"] = hub.url       # folder/models/owner/name, folder/datasets/...

It answers repository information, trees, path information and file downloads with the headers the real one sends.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """Serves until the end of the `with` block; `damage` names files that arrive changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_POST(self) -> None:
                hub.answer(self)

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                hub.requests.append(f"{self.command} {self.path} {code}")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = [unquote(part) for part in urlsplit(request.path).path.strip("/").split("/")]
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if parts[0] == "api":
            self._answer_api(request, parts[1:], body)
        elif "resolve" in parts:
            self._answer_file(request, parts)
        else:
            _send(request, 404, b"{}")

    def _answer_api(self, request: BaseHTTPRequestHandler, parts: list[str], body: bytes) -> None:
        kind, owner, name, *rest = [*parts, "", "", ""][: max(3, len(parts))]
        repository = self.root / kind / owner / name
        if not (owner and name and repository.is_dir()):
            _send(request, 404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            return
        if rest[:1] == ["tree"]:
            recursive = "recursive" in parse_qs(urlsplit(request.path).query)
            answer: Any = self._tree(repository, "/".join(rest[2:]), recursive=recursive)
        elif rest[:1] == ["paths-info"]:
            try:
                wanted = json.loads(body)["paths"]
            except ValueError:
                wanted = parse_qs(body.decode())["paths"]
            wanted = [wanted] if isinstance(wanted, str) else wanted
            answer = [_entry(repository, repository / path) for path in wanted if (repository / path).exists()]
        elif not rest or rest[0] == "revision":
            files = sorted(path for path in repository.rglob("*") if path.is_file())
            siblings = [_sibling(repository, path) for path in files]
            answer = {"id": f"{owner}/{name}", "sha": COMMIT, "private": False, "gated": False, "disabled": False}
            answer |= {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0}
        else:
            _send(request, 404, b"{}")
            return
        _send(request, 200, json.dumps(answer).encode(), {"X-Repo-Commit": COMMIT})

    def _tree(self, repository: Path, below: str, *, recursive: bool) -> list[dict[str, Any]]:
        found = (repository / below).rglob("*") if recursive else (repository / below).glob("*")
        return [_entry(repository, path) for path in sorted(found)]

    def _answer_file(self, request: BaseHTTPRequestHandler, parts: list[str]) -> None:
        kind = "datasets" if parts[0] == "datasets" else "models"
        names = parts[1:] if kind == "datasets" else parts
        path = self.root / kind / names[0] / names[1] / "/".join(names[4:])
        if not path.is_file():
            _send(request, 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        content = path.read_bytes()
        damaged = path.with_name(f".{path.name}.damaged")
        etag = hashlib.sha256(content).hexdigest() if _is_large(path) else blob_id(content)
        if damaged.exists():
            content = damaged.read_bytes()
        _send(request, 200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "none"})


def _is_large(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin", ".parquet")


def _sibling(repository: Path, path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    row: dict[str, Any] = {"rfilename": str(path.relative_to(repository)), "size": len(content)}
    row["blobId"] = blob_id(content)
    if _is_large(path):
        row["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
    return row


def _entry(repository: Path, path: Path) -> dict[str, Any]:
    if path.is_dir():
        return {"type": "directory", "oid": COMMIT, "size": 0, "path": str(path.relative_to(repository))}
    row = _sibling(repository, path)
    entry = {"type": "file", "oid": row["blobId"], "size": row["size"], "path": row["rfilename"]}
    if "lfs" in row:
        entry["lfs"] = {"oid": row["lfs"]["sha256"], "size": row["size"], "pointerSize": 100}
    return entry


def _send(request: BaseHTTPRequestHandler, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    request.send_response(code)
    for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
