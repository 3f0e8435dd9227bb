"""Hostile resume bundles, as an attacker with write access to a remote may upload them.

    python tests/bundles.py CLONE OUT       # writes all of them to OUT

Each differs from an honest bundle in one respect. Git refuses to create most of them, so trees are
written as bytes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from machines import FINGERPRINT

BRANCH = "main"
TIME = 4_000_000_000  # later than any honest state
PAYLOAD = b"#!/bin/sh\ntouch /tmp/owned\n"
OBJECT = "0123456789abcdef0123456789abcdef"


def git(folder: Path, *arguments: str, stdin: bytes = b"", time: int = TIME) -> bytes:
    names = ("AUTHOR", "COMMITTER")
    identity = {f"GIT_{name}_{key}": "x@y" for name in names for key in ("NAME", "EMAIL")}
    dates = {f"GIT_{name}_DATE": f"@{time} +0000" for name in names}
    environment = os.environ | identity | dates
    done = subprocess.run(
        ["git", *arguments], cwd=folder, input=stdin, capture_output=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass(frozen=True)
class Entry:
    """An entry of a Git tree, with any name."""

    mode: str
    name: str
    content: "bytes | list[Entry] | str"  # of a file or folder, or the hash of an object


@dataclass
class Forgery:
    """Parts of an honest resume commit, to be altered."""

    clone: Path
    honest: str  # hash of an honest resume commit
    files: dict[str, bytes] = field(default_factory=dict)  # replaced or added
    entries: list[Entry] = field(default_factory=list)  # added at the top
    message: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    ref: str = f"refs/resume/{BRANCH}/{FINGERPRINT}"
    parent: str | None = "HEAD"
    time: int = TIME
    more_refs: tuple[str, ...] = ()
    mangle: Callable[[bytes], bytes] = bytes

    def __post_init__(self) -> None:
        body = git(self.clone, "log", "-1", "--format=%b", self.honest)
        self.metadata = json.loads(body)
        self.lock = yaml.safe_load(self.text("dvc.lock"))

    def text(self, name: str) -> str:
        return git(self.clone, "show", f"{self.honest}:{name}").decode()

    def bundle(self, path: Path) -> None:
        """Write the bundle."""
        tree = self._tree()
        message = self.message or f"Resume state\n\n{json.dumps(self.metadata)}\n"
        parent = ("-p", self.parent) if self.parent else ()
        commit = git(
            self.clone, "commit-tree", tree, *parent, stdin=message.encode(), time=self.time
        )
        refs = [self.ref, *self.more_refs]
        for ref in refs:
            git(self.clone, "update-ref", ref, commit.decode())
        hidden = ("--not", "HEAD") if self.parent else ()
        git(self.clone, "bundle", "create", "--quiet", str(path), *refs, *hidden)
        for ref in refs:
            git(self.clone, "update-ref", "-d", ref)
        path.write_bytes(self.mangle(path.read_bytes()))

    def _tree(self) -> str:
        lines = git(self.clone, "ls-tree", self.honest).decode().splitlines()
        known = {line.partition("\t")[2]: line.partition("\t")[0].split() for line in lines}
        top = [(mode, name.encode(), hash_) for name, (mode, _, hash_) in known.items()]
        for name, content in self.files.items():
            top = [item for item in top if item[1] != name.encode()]
            top.append(("100644", name.encode(), self.blob(content)))
        names = {entry.name.encode() for entry in self.entries}
        top = [item for item in top if item[1] not in names]
        for entry in self.entries:
            top.append((entry.mode, entry.name.encode(), self._object(entry)))
        return self.tree(top)

    def _object(self, entry: Entry) -> str:
        if entry.mode == "160000":
            return git(self.clone, "rev-parse", "HEAD").decode()
        if isinstance(entry.content, bytes):
            return self.blob(entry.content)
        if isinstance(entry.content, str):
            return entry.content
        below = [(item.mode, item.name.encode(), self._object(item)) for item in entry.content]
        return self.tree(below)

    def blob(self, content: bytes) -> str:
        return git(self.clone, "hash-object", "-w", "--stdin", stdin=content).decode()

    def tree(self, entries: list[tuple[str, bytes, str]]) -> str:
        entries = sorted(entries, key=lambda item: item[1] + b"/" * (item[0] == "40000"))
        parts = (
            f"{mode.lstrip('0')} ".encode() + name + b"\0" + bytes.fromhex(hash_)
            for mode, name, hash_ in entries
        )
        options = ("-w", "-t", "tree", "--literally", "--stdin")
        return git(self.clone, "hash-object", *options, stdin=b"".join(parts)).decode()


def folder(name: str, *content: Entry) -> Entry:
    return Entry("40000", name, list(content))


def file(name: str, content: bytes = PAYLOAD, mode: str = "100644") -> Entry:
    return Entry(mode, name, content)


def link(name: str, target: str) -> Entry:
    return Entry("120000", name, target.encode())


def _bomb(forgery: Forgery) -> None:
    """Nested folders, each with ten equal ones: few objects, but very many names."""
    below = forgery.tree([("100644", b"x", forgery.blob(PAYLOAD))])
    for _ in range(9):
        below = forgery.tree([("40000", str(n).encode(), below) for n in range(10)])
    forgery.entries.append(Entry("40000", "bomb", below))


def _entries(*entries: Entry) -> Callable[[Forgery], None]:
    return lambda forgery: forgery.entries.extend(entries)


def _file(name: str, change: Callable[[Forgery], str]) -> Callable[[Forgery], None]:
    return lambda forgery: forgery.files.update({name: change(forgery).encode()})


def _lock(change: Callable[[dict[str, Any]], Any]) -> Callable[[Forgery], None]:
    def alter(forgery: Forgery) -> None:
        change(forgery.lock["stages"])
        forgery.files["dvc.lock"] = yaml.safe_dump(forgery.lock).encode()

    return alter


def _metadata(**values: Any) -> Callable[[Forgery], None]:
    return lambda forgery: forgery.metadata.update(values)


def _set(**values: Any) -> Callable[[Forgery], None]:
    def alter(forgery: Forgery) -> None:
        for name, value in values.items():
            setattr(forgery, name, value)

    return alter


def _param(section: str, **values: object) -> Callable[[Forgery], str]:
    def change(forgery: Forgery) -> str:
        params = yaml.safe_load(forgery.text("params.yaml"))
        params[section] |= values
        return yaml.safe_dump(params, sort_keys=False)

    return change


def _generation(**values: Any) -> dict[str, Any]:
    return {"epochs": 9, "objects": [], "own": [], "uploaded": []} | values


def _config(forgery: Forgery) -> None:
    lines = git(forgery.clone, "ls-tree", f"{forgery.honest}:.dvc").decode().splitlines()
    known = [line.split() for line in lines if not line.endswith("\tconfig")]
    below = [Entry(mode, name, hash_) for mode, _, hash_, name in known]
    text = b"[core]\n    remote = evil\n['remote \"evil\"']\n    url = /tmp/evil\n"
    forgery.entries.append(folder(".dvc", *below, file("config", text)))


def _flipped(content: bytes) -> bytes:
    return content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]


# By attack. Each must be rejected, and the honest state restored.
REFUSED: dict[str, Callable[[Forgery], None]] = {
    "a hook of Git": _entries(folder(".git", folder("hooks", file("post-checkout")))),
    "Git's configuration": _entries(folder(".git", file("config.worktree"))),
    "Git's folder in capitals": _entries(folder(".GIT", folder("hooks", file("pre-commit")))),
    "Git's folder by its short name": _entries(folder("git~1", file("config"))),
    "Git's folder with a character that is ignored": _entries(folder(".g\u200cit", file("config"))),
    "Git's folder with a dot": _entries(folder(".git.", file("config"))),
    "Git's folder further down": _entries(folder("docs", folder(".git", file("config")))),
    "the folder above": _entries(folder("..", file("escaped.txt"))),
    "the folder itself": _entries(folder(".", file("escaped.txt"))),
    "a name with slashes": _entries(file("../../escaped.txt")),
    "a name from the root": _entries(file("/tmp/escaped.txt")),
    "a name with backslashes": _entries(file("..\\escaped.txt")),
    "a name of another drive": _entries(file("C:escaped.txt")),
    "a name with an escape sequence": _entries(file("a\x1b[2Jb")),
    "a link and a folder at once": _entries(
        link("notes", "/tmp"), folder("notes", file("escaped.txt"))
    ),
    "a file and a folder at once": _entries(file("notes"), folder("notes", file("x"))),
    "a link named checkpoints": _entries(link("checkpoints", "/tmp")),
    "a link instead of a file": _entries(link("params.yaml", "/etc/passwd")),
    "a submodule": _entries(Entry("160000", "vendor", b"")),
    "a file of 65 MB": _entries(file("big.bin", bytes(65 << 20))),
    "a lock with a path above": _lock(
        lambda stages: stages["train"]["outs"].append({"path": "../escaped", "md5": OBJECT})
    ),
    "a lock with a hash that is a path": _lock(
        lambda stages: stages["train"]["outs"].append({"path": "x", "md5": "../../escaped"})
    ),
    "a lock with a list of files": _lock(
        lambda stages: stages["train"]["outs"][0].update(
            files=[{"relpath": "../.git/hooks/post-checkout", "md5": OBJECT, "isexec": True}]
        )
    ),
    "a lock of DVC's older objects": _lock(
        lambda stages: [out.pop("hash") for out in stages["train"]["outs"]]
    ),
    "a lock with an object of another kind": _lock(
        lambda stages: stages["train"]["outs"][0].update(hash="md5-dos2unix")
    ),
    "parameters that are a list": _file("params.yaml", lambda _: "[]"),
    "no parameters": _file("params.yaml", lambda _: ""),
    "a parameter of another type": _file("params.yaml", _param("train", learning_rate="evil")),
    "an unknown section": _file(
        "params.yaml", lambda forgery: forgery.text("params.yaml") + "evil: {}\n"
    ),
    "a key that is a number": _file("params.yaml", _param("machine", **{"7": 1})),
    "a time far in the future": _set(time=2**62),
    "folders in folders": _bomb,
    "a lock that is a list": _file("dvc.lock", lambda _: "[]"),
    "a lock without epochs": _lock(lambda stages: stages["train"].pop("params")),
    "a lock of aliases of aliases": _file(
        "dvc.lock",
        lambda _: (
            "a0: &a0 [x, x]\n"
            + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
        ),
    ),
    "a lock with an unknown folder": _lock(
        lambda stages: [out.update(md5=f"{OBJECT}.dir") for out in stages["train"]["outs"]]
    ),
    "a message that is not JSON": _set(message="Resume state\n\n{"),
    "a message that is a list": _set(message="Resume state\n\n[]"),
    "a message nested too deep": _set(message="Resume state\n\n" + "[" * 200_000),
    "a message of 5 MB": _metadata(identity={"x": "x" * (5 << 20)}),
    "no generations": _metadata(generations=[]),
    "a generation without objects": _metadata(generations=[{"epochs": 1}]),
    "hashes that are paths": _metadata(
        generations=[_generation(objects=["../../../escaped"], own=["../../../escaped"])]
    ),
    "negative epochs": _metadata(epochs=-1),
    "too many epochs": _metadata(epochs=10**40),
    "an identity without findings": _metadata(identity={"code": {}}),
    "an unknown key": _metadata(command="touch /tmp/owned"),
    "a newer format": _metadata(format=99),
    "a run of another branch": _metadata(run=f"another/{FINGERPRINT}"),
    "a run that is a path": _metadata(run=f"../../heads/{FINGERPRINT}"),
    "a run with an escape sequence": _metadata(run=f"main\x1b[2J/{FINGERPRINT}"),
    "another commit's message": _set(message="Merge branch 'main'"),
    "a branch instead of a resume commit": _set(ref="refs/heads/forged"),
    "two commits": _set(more_refs=(f"refs/resume/{BRANCH}/{FINGERPRINT[:12]}",)),
    "no history": _set(parent=None),
    "an empty file": _set(mangle=lambda _: b""),
    "half a file": _set(mangle=lambda content: content[: len(content) // 2]),
    "another file": _set(mangle=lambda _: b"PK\x03\x04 no bundle"),
    "a flipped bit": _set(mangle=_flipped),
}

# Restored without the hostile part.
REDUCED: dict[str, Callable[[Forgery], None]] = {
    "a program of the environment": _entries(
        folder(".venv", folder("bin", file("dvc", mode="100755")))
    ),
    "a checkpoint outside of DVC": _entries(folder("checkpoints", file("last.ckpt"))),
    "another DVC remote": _config,
    "another Dask scheduler": _file("params.yaml", _param("machine", dask="tcp://evil:8786")),
    "another backup remote": _file("params.yaml", _param("backup", remote="elsewhere")),
    "an ignore list without lines": _file(".gitignore", lambda _: "\n"),
}

# Reported, and restored only with --allow-code-changes.
CODE: dict[str, Callable[[Forgery], None]] = {
    "dvc.yaml": _file("dvc.yaml", lambda forgery: forgery.text("dvc.yaml").replace("python", "sh")),
    "Makefile": _file("Makefile", lambda _: "resume:\n\ttouch /tmp/owned\n"),
    "sitecustomize.py": _file("sitecustomize.py", lambda _: "import os\n"),
    "another.dvc": _file("another.dvc", lambda _: "outs:\n- path: x\n"),
    "data.dvc": _file("data.dvc", lambda forgery: "cmd: ls\n" + forgery.text("data.dvc")),
    ".gitattributes": _file(".gitattributes", lambda _: "* filter=evil\n"),
}


def forge(clone: Path, honest: str, alter: Callable[[Forgery], None], path: Path) -> None:
    """Write a bundle that differs from an honest resume commit in one respect."""
    forgery = Forgery(clone, honest)
    alter(forgery)
    forgery.bundle(path)


def main() -> None:
    clone, out = map(Path, sys.argv[1:])
    honest = git(clone, "rev-parse", f"refs/resume/{BRANCH}/{FINGERPRINT}").decode()
    out.mkdir(parents=True)
    for name, alter in (REFUSED | REDUCED | CODE).items():
        forge(clone, honest, alter, out / f"{name}.bundle")


if __name__ == "__main__":
    main()
