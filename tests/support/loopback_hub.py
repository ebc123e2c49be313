"""A Hub on 127.0.0.1 that answers the pushes and pulls of `huggingface_hub` over real HTTP, with faults on demand.

with LoopbackHub() as hub:
    HfApi(endpoint=hub.endpoint, token=hub.token("alice")).create_repo("alice/model")

Large files go over LFS or, with hf_xet, into a content store on disk (`casUrl: local://`).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".parquet", ".png")
ALWAYS = 10**9


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        self.status, self.message, self.code = status, message, code


@dataclass
class Answer:
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


@dataclass
class Fault:
    """A fault of `times` requests, from number `at` on, among those whose "METHOD path" contains `match`.

    `kind` is a status that a proxy in front of the Hub answers with, a function that changes the Hub first, or one of:
      reset      the connection breaks before the body is read
      truncated  it breaks in the middle of the body
      hang       no answer comes
      lost       the request is carried out, and the answer lost
      late       no answer comes, and the request is carried out when somebody calls `hub.late()`
      cut        the answer breaks off in the middle
    """

    kind: int | str | Callable[[LoopbackHub], Any]
    at: int = 0
    times: int = 1
    match: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    seen: int = 0
    hits: int = 0

    def strikes(self, request: str) -> bool:
        if not re.search(self.match, request):
            return False
        self.seen += 1
        struck = self.at < self.seen <= self.at + self.times
        self.hits += struck
        return struck


@dataclass
class File:
    """A file of a commit. For a large file `sha256` names its blob."""

    oid: str
    size: int
    data: bytes = b""
    sha256: str | None = None

    @classmethod
    def small(cls, data: bytes) -> File:
        return cls(hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), len(data), data)

    @classmethod
    def large(cls, sha256: str, size: int) -> File:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return cls(cls.small(pointer).oid, size, sha256=sha256)


class Repository:
    def __init__(self, kind: str, name: str, private: bool) -> None:
        self.kind, self.name, self.private = kind, name, private
        self.commits: dict[str, dict[str, Any]] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        attributes = "".join(f"*{s} filter=lfs diff=lfs merge=lfs -text\n" for s in LFS_SUFFIXES)
        self.commit("main", "initial commit", {".gitattributes": File.small(attributes.encode())}, [])

    def find(self, revision: str | None) -> str:
        revision = unquote(revision or "main").removeprefix("refs/heads/")
        found = self.branches.get(revision) or self.tags.get(revision) or (revision in self.commits and revision)
        if not found:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return str(found)

    def tree(self, revision: str | None = None) -> dict[str, File]:
        return self.commits[self.find(revision)]["tree"]

    def commit(self, branch: str, title: str, added: dict[str, File], deleted: list[str]) -> str:
        parent = self.branches.get(branch)
        tree = dict(self.commits[parent]["tree"]) if parent else {}
        for path in deleted:
            if path not in tree:
                raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            del tree[path]
        tree.update(added)
        seed = [self.name, branch, parent, title, len(self.commits), sorted((p, f.oid) for p, f in tree.items())]
        oid = hashlib.sha1(json.dumps(seed).encode()).hexdigest()
        self.commits[oid] = {"parent": parent, "title": title, "tree": tree, "date": now()}
        self.branches[branch] = oid
        return oid

    def state(self) -> dict[str, Any]:
        """A repository: everything that a push may change."""
        return {"branches": dict(self.branches), "tags": dict(self.tags), "commits": set(self.commits)}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, address: Any) -> None:
        """Print nothing if a client has closed its connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, address)


class LoopbackHub:
    """The Hub: repositories by (kind, name), users by token, blobs, and the requests so far."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hub-")
        self.cas = Path(self._folder.name) / "cas"
        self.reset()
        self.lock, self.closing = threading.RLock(), threading.Event()
        from tests.support.loopback_http import Handler

        self._servers = [Server(("127.0.0.1", 0), Handler) for _ in range(2)]
        for server in self._servers:
            server.hub = self  # type: ignore[attr-defined]
        # Large files lie at an origin of another name, like the Hub's CDN, because the client takes their metadata from a redirect.
        ports = [server.server_address[1] for server in self._servers]
        self.endpoint, self.cdn = f"http://127.0.0.1:{ports[0]}", f"http://localhost:{ports[1]}"

    def __enter__(self) -> LoopbackHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._folder.cleanup()

    def reset(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.cas, ignore_errors=True)
        self.cas.mkdir()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.users: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.received: Counter[str] = Counter()  # bytes received of each LFS blob, complete or not
        self.faults: list[Fault] = []
        self.hang_seconds = 1.0
        self.late: Callable[[], Any] = lambda: None

    def token(self, name: str, role: str = "write") -> str:
        """Make a token of user `name`. With a `role` other than `write` it may only read."""
        token = "hf_" + hashlib.sha256(f"{name} {role}".encode()).hexdigest()[:34]
        self.users[token] = {"name": name, "role": role}
        return token

    def repository(self, name: str, kind: str = "model") -> Repository | None:
        return self.repositories.get((kind, name))

    def content(self, name: str, path: str, revision: str | None = None) -> bytes:
        """Return the bytes of a file in a repository. A large file must be an LFS file."""
        file = self.repositories["model", name].tree(revision)[path]
        return file.data if file.sha256 is None else self.blobs[file.sha256]

    def stored_xet(self) -> dict[str, tuple[str, int]]:
        """Return (file hash, size) by sha256, as hf_xet wrote them into its shards."""
        found: dict[str, tuple[str, int]] = {}
        for shard in self.cas.rglob("*.mdb"):
            found |= read_shard(shard.read_bytes())
        return found

    def size_of(self, sha256: str) -> int | None:
        """Return the size of a stored blob, or None if it was never uploaded."""
        if sha256 in self.blobs:
            return len(self.blobs[sha256])
        return self.stored_xet().get(sha256, ("", None))[1]


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


def read_shard(data: bytes) -> dict[str, tuple[str, int]]:
    """Read the file section of a metadata shard of hf_xet: a header of 48 bytes, then records of 48 bytes."""
    found, at, verified, described = {}, 48, 1 << 31, 1 << 30
    while at + 48 <= len(data) and data[at : at + 32] != b"\xff" * 32:
        name, (flags, count) = data[at : at + 32], struct.unpack_from("<II", data, at + 32)
        at += 48
        size = sum(struct.unpack_from("<I", data, at + 48 * i + 36)[0] for i in range(count))
        at += 48 * count * (2 if flags & verified else 1)
        if flags & described:
            words = (struct.unpack("<4Q", part) for part in (data[at : at + 32], name))
            sha256, file_hash = ("".join(f"{w:016x}" for w in four) for four in words)
            found[sha256] = (file_hash, size)
            at += 48
    return found
