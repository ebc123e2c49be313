"""The requests that the loopback Hub answers, and the faults that it can be given."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.support.loopback_hub import LFS_SUFFIXES, Answer, File, LoopbackHub, Refusal, Repository

LFS_LIMIT = 10 * 2**20  # bytes; a larger file is an LFS file, whatever its name


def _lfs(row: dict[str, Any]) -> dict[str, Any] | None:
    lfs = row.get("lfs")
    return lfs and {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}


ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = []
_PARTS = {"kind": "(?P<kind>models|datasets)", "name": "(?P<name>[^/]+/[^/]+)", "revision": "(?P<revision>[^/]+)"}


def route(methods: str, path: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        ROUTES.append((methods, re.compile(path.format(**_PARTS)), function))
        return function

    return add


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Print nothing: `hub.requests` records every request."""

    @property
    def hub(self) -> LoopbackHub:
        return self.server.hub  # type: ignore[attr-defined]

    # --- one request --------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        url = urlsplit(self.path)
        request = f"{self.command} {url.path}"
        with self.hub.lock:
            fault = next((f for f in self.hub.faults if f.strikes(request)), None)
        kind = fault.kind if fault else None
        length = int(self.headers.get("Content-Length") or 0)
        if kind in ("reset", "truncated"):
            part = b"" if kind == "reset" else self.rfile.read(length // 2)
            self._count(url.path, part)
            return self._break(str(kind))
        body = self._body(length)
        self._count(url.path, body)
        if kind == "hang":
            self.hub.closing.wait(self.hub.hang_seconds)
            return self._break("hang")
        if kind == "late":
            self.hub.late = partial(self._carry_out, url.path, body, {})
            return self._break("late")
        if isinstance(kind, int):
            return self._send(Answer(b"upstream error", fault.headers, kind))  # type: ignore[union-attr]
        with self.hub.lock:
            if callable(kind):
                kind(self.hub)
            try:
                answer = self._carry_out(url.path, body, {k: v[-1] for k, v in parse_qs(url.query).items()})
            except Refusal as refusal:
                headers = {"X-Error-Message": refusal.message} | (
                    {"X-Error-Code": refusal.code} if refusal.code else {}
                )
                answer = Answer({"error": refusal.message}, headers, refusal.status)
        if kind == "lost":
            return self._break("lost")
        return self._send(answer, cut=kind == "cut")

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = serve

    def _body(self, length: int) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(length)
        out = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            out += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return out

    def _count(self, path: str, body: bytes) -> None:
        if path.startswith("/_lfs/") and self.command == "PUT":
            with self.hub.lock:
                self.hub.received[path.removeprefix("/_lfs/")] += len(body)

    def _carry_out(self, path: str, body: bytes, query: dict[str, str]) -> Answer:
        for methods, pattern, function in ROUTES:
            match = pattern.fullmatch(path)
            if match and self.command in methods.split("|"):
                parts = match.groupdict()
                if parts.get("kind"):
                    parts["kind"] = parts["kind"].removesuffix("s")
                answer = function(self, body, query, **parts)
                return answer if isinstance(answer, Answer) else Answer(answer)
        raise Refusal(404, f"Not found: {self.command} {path}")

    def _send(self, answer: Answer, cut: bool = False) -> None:
        payload = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.hub.requests.append((self.command, self.path, answer.status))
        self.send_response(answer.status)
        kind = "application/octet-stream" if isinstance(answer.body, bytes) else "application/json"
        for name, value in {"Content-Length": len(payload), "Content-Type": kind, **answer.headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload[: len(payload) // 2] if cut else payload)
        if cut:
            self.close_connection = True

    def _break(self, why: str) -> None:
        """Reset the connection."""
        self.hub.requests.append((self.command, f"{self.path} ({why})", 0))
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    # --- permissions -------------------------------------------------------------------------------------------------

    def _user(self) -> dict[str, Any]:
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if given and given not in self.hub.users:
            raise Refusal(401, "Invalid username or password.")
        return self.hub.users.get(given, {"name": None, "role": "none"})

    def _repository(self, kind: str, name: str, write: bool = False) -> Repository:
        user, found = self._user(), self.hub.repository(unquote(name), kind)
        mine = user["name"] == name.split("/")[0]
        if found is None or (found.private and not mine):
            raise Refusal(401 if user["name"] is None else 404, "Repository not found", "RepoNotFound")
        if write and not (mine and user["role"] == "write"):
            raise Refusal(403, f"Forbidden: you must use a write token to upload to {name}.")
        return found

    @route("GET", "/api/whoami-v2")
    def whoami(self, body: bytes, query: dict[str, str]) -> Any:
        user = self._user()
        if user["name"] is None:
            raise Refusal(401, "Invalid user token.")
        return {"type": "user", "name": user["name"], "orgs": [], "auth": {"accessToken": {"role": user["role"]}}}

    @route("POST", "/api/repos/create")
    def create(self, body: bytes, query: dict[str, str]) -> Any:
        user, asked = self._user(), json.loads(body)
        if user["name"] is None:
            raise Refusal(401, "Invalid username or password.")
        kind, owner = asked.get("type") or "model", asked.get("organization") or user["name"]
        name = f"{owner}/{asked['name']}"
        if owner != user["name"] or user["role"] != "write":
            raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        url = f"{self.hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.hub.repositories:
            return Answer({"error": f"You already created this {kind} repo", "url": url}, status=409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[kind, name] = Repository(kind, name, private)
        return {"url": url, "name": name, "id": name}

    # --- write --------------------------------------------------------------------------------------------------------

    @route("POST", "/api/validate-yaml")
    def validate(self, body: bytes, query: dict[str, str]) -> Any:
        found = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", json.loads(body)["content"], re.S)
        try:
            data = yaml.safe_load(found[1]) if found else {}
            kinds = {"license": str, "tags": list, "base_model": (str, list), "library_name": str, "model-index": list}
            wrong = [k for k, v in (data or {}).items() if v is not None and not isinstance(v, kinds.get(k, object))]
        except (yaml.YAMLError, AttributeError) as error:
            wrong = [str(error)]
        errors = [{"message": f'"{w}" is of the wrong type'} for w in wrong]
        missing = [] if found else [{"message": "empty or missing yaml metadata in repo card"}]
        return Answer({"errors": errors, "warnings": missing}, status=400 if errors else 200)

    @route("POST", "/api/{kind}/{name}/preupload/{revision}")
    def preupload(self, body: bytes, query: dict[str, str], kind: str, name: str, revision: str) -> Any:
        tree, files = self._repository(kind, name, write=True).tree(revision), []
        for file in json.loads(body)["files"]:
            large = file["size"] > LFS_LIMIT or file["path"].endswith(LFS_SUFFIXES)
            known = tree.get(file["path"])
            oid = {"oid": known.sha256 or known.oid} if known else {}
            mode = "lfs" if large or b"\0" in base64.b64decode(file["sample"]) else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **oid})
        return {"files": files}

    @route("POST", r"/(?:{kind}/)?{name}\.git/info/lfs/objects/batch")
    def lfs_batch(self, body: bytes, query: dict[str, str], name: str, kind: str | None) -> Any:
        self._repository(kind or "model", name, write=True)
        objects = json.loads(body)["objects"]
        for entry in objects:
            if self.hub.size_of(entry["oid"]) is None:
                place = f"{self.hub.endpoint}/_lfs/{entry['oid']}"
                entry["actions"] = {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}
        return {"transfer": "basic", "objects": objects}

    @route("PUT", r"/_lfs/(?P<oid>[0-9a-f]{{64}})")
    def lfs_put(self, body: bytes, query: dict[str, str], oid: str) -> Any:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "The body is not what its digest says")
        self.hub.blobs[oid] = body
        return b""

    @route("POST", r"/_lfs/(?P<oid>[0-9a-f]{{64}})/verify")
    def lfs_verify(self, body: bytes, query: dict[str, str], oid: str) -> Any:
        if self.hub.size_of(oid) != json.loads(body)["size"]:
            raise Refusal(404, "missing, or of another size")
        return {}

    @route("GET", "/api/{kind}/{name}/xet-(?P<mode>read|write)-token/{revision}")
    def xet_token(self, body: bytes, query: dict[str, str], kind: str, name: str, mode: str, revision: str) -> Any:
        self._repository(kind, name, write=mode == "write")
        place, until = f"local://{self.hub.cas}", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": place, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(until)}
        return Answer({"casUrl": place, "exp": until, "accessToken": "xet"}, headers)

    @route("POST", "/api/{kind}/{name}/commit/{revision}")
    def commit(self, body: bytes, query: dict[str, str], kind: str, name: str, revision: str) -> Any:
        repository, branch = self._repository(kind, name, write=True), unquote(revision)
        head = repository.find(branch)
        if branch not in repository.branches:
            raise Refusal(400, f"{branch} is not a branch")
        lines = [(line["key"], line["value"]) for line in map(json.loads, body.splitlines())]
        header = next(value for key, value in lines if key == "header")
        added = {v["path"]: File.small(base64.b64decode(v["content"])) for k, v in lines if k == "file"}
        for value in (v for k, v in lines if k == "lfsFile"):
            size = self.hub.size_of(value["oid"])
            if size is None:
                raise Refusal(400, f"the blob of {value['path']} was never uploaded")
            added[value["path"]] = File.large(value["oid"], size)
        if header.get("parentCommit", head) != head:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        oid = repository.commit(branch, header["summary"], added, [v["path"] for k, v in lines if k == "deletedFile"])
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}"}

    @route("POST|DELETE", "/api/{kind}/{name}/branch/(?P<branch>[^/]+)")
    def branch(self, body: bytes, query: dict[str, str], kind: str, name: str, branch: str) -> Any:
        repository, branch = self._repository(kind, name, write=True), unquote(branch)
        if self.command == "DELETE":
            if repository.branches.pop(branch, None) is None:
                raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        elif branch in repository.branches:
            raise Refusal(409, f"Reference already exists: {branch}")
        else:
            repository.branches[branch] = repository.find(json.loads(body or b"{}").get("startingPoint"))
        return {}

    @route("POST", "/api/{kind}/{name}/tag/{revision}")
    def tag(self, body: bytes, query: dict[str, str], kind: str, name: str, revision: str) -> Any:
        repository, tag = self._repository(kind, name, write=True), json.loads(body)["tag"]
        if tag in repository.tags:
            raise Refusal(409, f"Tag already exists: {tag}")
        repository.tags[tag] = repository.find(revision)
        return {}

    # --- read ---------------------------------------------------------------------------------------------------------

    @route("GET", "/api/{kind}/{name}(?:/revision/{revision})?")
    def info(self, body: bytes, query: dict[str, str], kind: str, name: str, revision: str | None) -> Any:
        repository = self._repository(kind, name)
        tree, card = repository.tree(revision), None
        if "README.md" in tree:
            found = re.match(r"---\r?\n(.*?)\r?\n---", tree["README.md"].data.decode(), re.S)
            card = yaml.safe_load(found[1]) if found else None
        rows = ((path, self._row(path, file)) for path, file in sorted(tree.items()))
        files = [{"rfilename": p, "size": r["size"], "blobId": r["oid"], "lfs": _lfs(r)} for p, r in rows]
        about = {"id": name, "sha": repository.find(revision), "private": repository.private, "gated": False}
        tags, date = (card or {}).get("tags") or [], repository.commits[repository.find(revision)]["date"]
        return {**about, "siblings": files, "cardData": card, "tags": tags, "downloads": 0, "lastModified": date}

    @route("GET", "/api/{kind}/{name}/refs")
    def refs(self, body: bytes, query: dict[str, str], kind: str, name: str) -> Any:
        repository = self._repository(kind, name)
        found: dict[str, Any] = {"converts": [], "pullRequests": []}
        for folder, known in (("heads", repository.branches), ("tags", repository.tags)):
            rows = [{"name": n, "ref": f"refs/{folder}/{n}", "targetCommit": oid} for n, oid in known.items()]
            found["branches" if folder == "heads" else "tags"] = rows
        return found

    @route("GET", "/api/{kind}/{name}/commits/{revision}")
    def commits(self, body: bytes, query: dict[str, str], kind: str, name: str, revision: str) -> Any:
        repository, found = self._repository(kind, name), []
        oid: str | None = repository.find(revision)
        while oid:
            commit = repository.commits[oid]
            found.append({"id": oid, "title": commit["title"], "message": "", "date": commit["date"], "authors": []})
            oid = commit["parent"]
        return found

    @route("GET", "/api/{kind}/{name}/tree/{revision}(?:/(?P<under>.+))?")
    def tree(self, body: bytes, query: dict[str, str], kind: str, name: str, revision: str, under: str | None) -> Any:
        prefix = f"{unquote(under)}/" if under else ""
        rows: dict[str, Any] = {}
        for path, file in sorted(self._repository(kind, name).tree(revision).items()):
            if path.startswith(prefix):
                *folders, _ = path.removeprefix(prefix).split("/")
                for depth in range(1, len(folders) + 1):
                    folder = prefix + "/".join(folders[:depth])
                    rows.setdefault(folder, {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0})
                rows[path] = self._row(path, file)
        if under and not rows:
            raise Refusal(404, f"{under} does not exist", "EntryNotFound")
        deep = query.get("recursive", "").lower() == "true"
        return [row for path, row in rows.items() if deep or "/" not in path.removeprefix(prefix)]

    @route("POST", "/api/{kind}/{name}/paths-info/{revision}")
    def paths_info(self, body: bytes, query: dict[str, str], kind: str, name: str, revision: str) -> Any:
        tree = self._repository(kind, name).tree(revision)
        as_json = "json" in (self.headers.get("Content-Type") or "")
        asked = json.loads(body)["paths"] if as_json else parse_qs(body.decode()).get("paths", [])
        folders = {path.rsplit("/", depth)[0] for path in tree for depth in range(1, path.count("/") + 1)}
        rows = [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in asked if p in folders]
        return rows + [self._row(path, tree[path]) for path in asked if path in tree]

    def _row(self, path: str, file: File) -> dict[str, Any]:
        row: dict[str, Any] = {"type": "file", "path": path, "oid": file.oid, "size": file.size}
        if file.sha256:
            row["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
            if file.sha256 not in self.hub.blobs:
                row["xetHash"] = self.hub.stored_xet()[file.sha256][0]
        return row

    @route("GET|HEAD", "/(?:{kind}/)?{name}/resolve/{revision}/(?P<path>.+)")
    def resolve(self, body: bytes, query: dict[str, str], name: str, revision: str, path: str, kind: str | None) -> Any:
        repository, path = self._repository(kind or "model", name), unquote(path)
        commit, file = repository.find(revision), repository.tree(revision).get(path)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if file is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        if file.sha256 is None:
            return self._part(file.data, {**headers, "ETag": f'"{file.oid}"'})
        headers |= {"ETag": f'"{file.oid}"', "X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"'}
        if file.sha256 not in self.hub.blobs:
            token = f"{self.hub.endpoint}/api/{kind or 'model'}s/{name}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": self.hub.stored_xet()[file.sha256][0], "X-Xet-Refresh-Route": token}
        return Answer(b"", {**headers, "Location": f"{self.hub.cdn}/_cdn/{file.sha256}"}, 302)

    @route("GET|HEAD", r"/_cdn/(?P<oid>[0-9a-f]{{64}})")
    def cdn(self, body: bytes, query: dict[str, str], oid: str) -> Any:
        if self.headers.get("Authorization"):
            raise Refusal(400, "the Hub's token was sent to another origin")
        if oid not in self.hub.blobs:
            raise Refusal(404, "no such blob")
        return self._part(self.hub.blobs[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _part(self, data: bytes, headers: dict[str, str]) -> Answer:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            return Answer(data, headers)
        first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
        return Answer(data[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}, 206)
