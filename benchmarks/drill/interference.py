"""A kill, then one kind of interference, on the same machine or after its loss; then the rest.

Each round must end with the undisturbed run's bytes, or be refused with the right reason.
"""

import json
import random
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drill.kills import is_training
from drill.lost_machine import clone, publish
from drill.project import ROOT, Project, kill, make_project

sys.path.insert(0, str(ROOT / "tests"))
import bundles
from drive_stand_in import write_remote

ROUNDS = 40
SEED = 17
TRAIN = {
    "epochs": 8,
    "schedule_epochs": 8,
    "batch_size": 4,
    "slices_per_volume": 4,
    "save_every_n_epochs": 2,
    "save_every_n_minutes": 1 / 120,
}
RATE = {"learning_rate": 0.004}
RESULTS = ("checkpoints", "metrics")
NONE_FOUND = "no resume state was found"


@dataclass
class Round:
    """A project and its backup."""

    project: Project
    origin: Path
    remote: Path
    rng: random.Random

    @property
    def checkpoints(self) -> Path:
        return self.project.root / "checkpoints"

    def commit(self, message: str) -> None:
        self.project.run("git", "commit", "--quiet", "--all", "--message", message)

    def push(self) -> None:
        self.project.run("git", "push", "--quiet", "origin", "main")

    def flip(self, file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
        file.chmod(0o644)
        file.write_bytes(content)
        file.chmod(0o444)

    def flip_on_remote(self, names: str) -> None:
        """Damage the newest state's checkpoints that match a pattern, on the remote."""
        log = json.loads((self.project.root / ".dvc/tmp/backup.json").read_text())
        (states,) = log["runs"].values()
        sent = [state for state in states if state["sent"]]
        (folder,) = (name for name in sent[-1]["objects"] if name.endswith(".dir"))
        listed = self.remote / "files/md5" / folder[:2] / folder[2:]
        for entry in json.loads(listed.read_text()):
            if Path(entry["relpath"]).match(names):
                self.flip(self.remote / "files/md5" / entry["md5"][:2] / entry["md5"][2:])

    def newest_state(self) -> str:
        refs = self.project.run(
            "git", "for-each-ref", "--sort=-creatordate", "--format=%(objectname)", "refs/resume"
        )
        return refs.split()[0]


Act = Callable[[Round], object]


def _nothing(_: Round) -> None:
    pass


@dataclass(frozen=True)
class Kind:
    """One kind of interference.

    Attributes:
        after: action after the kill.
        before: action before training.
        lost: whether the machine is lost after the kill.
        elsewhere: action on the new machine before it resumes.
        params: parameters of the run that differ from the project's.
        flags: options of `resume`.
        refused: part of the error message, if the round must be refused.
        single: part of the error message, if the round is refused where only one backup exists.
    """

    after: Act = _nothing
    before: Act = _nothing
    lost: bool = False
    elsewhere: Act = _nothing
    params: tuple[tuple[str, float], ...] = ()
    flags: tuple[str, ...] = ()
    refused: str = ""
    single: str = ""


def _delete(names: str) -> Act:
    def act(found: Round) -> None:
        for path in sorted(found.project.root.glob(names)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


def _cut(name: str) -> Act:
    def act(found: Round) -> None:
        path = found.checkpoints / name
        if path.exists():
            path.write_bytes(path.read_bytes()[: found.rng.randrange(1, path.stat().st_size)])

    return act


def _set(section: str, **values: object) -> Act:
    return lambda found: found.project.set(**{section: values})


def _change_seed(found: Round) -> None:
    path = found.project.root / "params.yaml"
    path.write_text(re.sub(r"^seed: 0\b", "seed: 1", path.read_text(), flags=re.MULTILINE))


def _commit(name: str, push: bool = False) -> Act:
    def act(found: Round) -> None:
        (found.project.root / name).write_text("# changed\n")
        found.project.run("git", "add", name)
        found.commit(f"Add {name}")
        if push:
            found.push()

    return act


def _train_another_run(found: Round) -> None:
    found.project.set(train={"learning_rate": 0.5})
    start_and_kill(found)
    found.project.run("git", "checkout", "--quiet", "params.yaml")


def _forge(found: Round) -> None:
    honest = found.newest_state()
    run = found.project.run("git", "for-each-ref", "--format=%(refname)", "refs/resume").split()[0]
    name = run.removeprefix("refs/resume/")
    alter = found.rng.choice(list(bundles.REFUSED.values()))
    path = found.remote / "resume" / name / f"{bundles.TIME:012d}-{'f' * 12}.bundle"
    bundles.forge(found.project.root, honest, alter, path)
    found.project.run("git", "update-ref", run, honest)


def _edit_and_commit_unpushed(found: Round) -> None:
    found.project.set(train=RATE)
    found.commit("Learn faster")


def _newer_branch(found: Round) -> None:
    _commit("notes.md", push=True)(found)


KINDS: dict[str, Kind] = {
    "nothing but the kill": Kind(),
    "last.ckpt deleted": Kind(_delete("checkpoints/last.ckpt")),
    "last.ckpt truncated": Kind(_cut("last.ckpt")),
    "best.ckpt truncated": Kind(_cut("best.ckpt")),
    "a kept checkpoint deleted": Kind(_delete("checkpoints/*epoch=01*")),
    "all checkpoints deleted": Kind(_delete("checkpoints")),
    "history deleted": Kind(_delete("metrics/history.csv")),
    "DVC's cache deleted": Kind(_delete(".dvc/cache")),
    "DVC's own files deleted": Kind(_delete(".dvc/tmp")),
    "logs deleted": Kind(_delete("logs")),
    "the remote deleted": Kind(lambda found: shutil.rmtree(found.remote / "files")),
    "the bundles deleted": Kind(lambda found: shutil.rmtree(found.remote / "resume")),
    "machine settings edited": Kind(_set("machine", max_time="5h")),
    "backup settings edited": Kind(_set("backup", keep_last=5)),
    "evaluation edited": Kind(_set("evaluate", n_bootstrap=40)),
    "a commit in between": Kind(_commit("notes.md")),
    "another run in between": Kind(_train_another_run),
    "dvc checkout": Kind(lambda found: found.project.run("dvc", "checkout", "--force", "train")),
    "make resume on the same machine": Kind(
        lambda found: found.project.run("python", "-m", "multi_abnormality", "resume")
    ),
    "lost": Kind(lost=True),
    "lost, the newest bundle hostile": Kind(_forge, lost=True, single=NONE_FOUND),
    "lost, the newest bundle truncated": Kind(
        lambda found: [
            path.write_bytes(path.read_bytes()[:99])
            for path in sorted((found.remote / "resume").rglob("*.bundle"))[-1:]
        ],
        lost=True, single=NONE_FOUND,
    ),
    "lost, last.ckpt damaged on the remote": Kind(
        lambda found: found.flip_on_remote("last.ckpt"),
        lost=True, single="last.ckpt is damaged on the remote",
    ),
    "lost, all bundles deleted": Kind(
        lambda found: shutil.rmtree(found.remote / "resume"), lost=True
    ),
    "lost, all bundles hostile": Kind(
        lambda found: [
            path.write_bytes(b"# v2 git bundle\n")
            for path in (found.remote / "resume").rglob("*.bundle")
        ],
        lost=True, refused=NONE_FOUND,
    ),
    "lost with uncommitted parameters": Kind(
        before=_set("train", **RATE), lost=True, params=tuple(RATE.items())
    ),
    "lost with unpushed parameters": Kind(
        before=_edit_and_commit_unpushed, lost=True, params=tuple(RATE.items())
    ),
    "lost with unpushed code": Kind(
        before=_commit("tool.py"), lost=True, refused="--allow-code-changes"
    ),
    "lost with unpushed code, allowed": Kind(
        before=_commit("tool.py"), lost=True, flags=("--allow-code-changes",)
    ),
    "lost, the branch is ahead": Kind(_newer_branch, lost=True),
    "lost, other machine settings": Kind(lost=True, elsewhere=_set("machine", max_time="5h")),
    "lost, another learning rate": Kind(
        lost=True, elsewhere=_set("train", **RATE), refused="train.learning_rate: 0.002, now 0.004"
    ),
    "lost, another seed": Kind(
        lost=True,
        elsewhere=_change_seed,
        refused="seed: 0, now 1",
    ),
    "lost, the remote is missing": Kind(
        lambda found: found.remote.rename(found.remote.with_name("elsewhere")),
        lost=True, refused="is its disk mounted?",
    ),
}  # fmt: skip


def interference(work: Path, row: Callable[..., None]) -> None:
    """Run `ROUNDS` rounds, with each kind at least once."""
    base = make_project(work / "interference base", patients=36, train=TRAIN)
    base.set(model={"backbone": "test_efficientnet"}, machine={"workers": 0})
    base.run("git", "commit", "--quiet", "--all", "--message", "A small net")
    publish(base, work / "interference origin.git")
    expected = {(): undisturbed(base, work / "interference undisturbed", {})}
    rng = random.Random(SEED)
    names = [*KINDS, *rng.choices(list(KINDS), k=ROUNDS)][: max(ROUNDS, len(KINDS))]
    ended: dict[str, list[str]] = {"byte-identical": [], "refused": [], "wrong": []}
    for number, name in enumerate(names):
        kind = KINDS[name]
        if kind.params not in expected:
            where = work / f"interference undisturbed {len(expected)}"
            expected[kind.params] = undisturbed(base, where, dict(kind.params))
        folder = work / f"interference {number}"
        try:
            end = play(base, folder, kind, expected[kind.params], rng)
        except (RuntimeError, OSError) as error:
            end = "wrong"
            (folder / "output").write_text(str(error))
        ended[end].append(name)
        print(f"{number + 1} of {len(names)}: {name}: {end}", flush=True)  # noqa: T201
        if end != "wrong":  # keep wrong rounds for inspection
            shutil.rmtree(folder)
    expected_identical = sum(not (KINDS[name].refused or KINDS[name].single) for name in names)
    row("rounds of interference: byte-identical", len(ended["byte-identical"]),
        f"at least {expected_identical} of {len(names)}")  # fmt: skip
    row("refused with the true reason", len(ended["refused"]), "all others")
    row("rounds that ended otherwise", ended["wrong"] or 0, 0)


def undisturbed(base: Project, root: Path, params: dict[str, object]) -> dict[str, str]:
    project = base.copy(root)
    project.set(train=params)
    project.run("dvc", "repro", "train")
    return project.hashes(RESULTS)


def play(
    base: Project, folder: Path, kind: Kind, expected: dict[str, str], rng: random.Random
) -> str:
    """Run one round and return its outcome."""
    folder.mkdir()
    origin, remote = folder / "origin.git", folder / "remote"
    project = base.copy(folder / "machine")
    url = project.run("git", "remote", "get-url", "origin").strip()
    shutil.copytree(url, origin)
    project.run("git", "remote", "set-url", "origin", str(origin))
    write_remote(project.root, "backup", {"url": str(remote)})
    found = Round(project, origin, remote, rng)
    kind.before(found)
    start_and_kill(found)
    kind.after(found)
    if kind.lost:
        shutil.rmtree(project.root)
        found.project = clone(origin, folder / "another machine", {"url": str(remote)})
        kind.elsewhere(found)
        resume = ("python", "-m", "multi_abnormality", "resume", *kind.flags)
        if kind.refused:
            return _refused(found.project, resume, kind.refused)
        try:
            found.project.run(*resume)
        except RuntimeError as error:
            if kind.single and kind.single in str(error):
                return "refused"
            raise
        found.project.run("dvc", "pull", "--allow-missing")
        if not (found.project.root / "processed").exists():
            shutil.copytree(base.root / "processed", found.project.root / "processed")
        if not (found.project.root / "data").exists():
            shutil.copytree(base.root / "data", found.project.root / "data")
    output = found.project.run("dvc", "repro", "--allow-missing", "train")
    same = found.project.hashes(RESULTS) == expected
    if not same:
        (folder / "output").write_text(output)
    return "byte-identical" if same else "wrong"


def _refused(project: Project, command: tuple[str, ...], reason: str) -> str:
    """Check that a command fails with the reason and does not change dvc.lock."""
    try:
        output = project.run(*command, ok=False)
    except RuntimeError as error:  # "nothing to resume" is not an error
        output = str(error)
    before = project.run("git", "status", "--porcelain").split()
    return "refused" if reason in output and "M dvc.lock" not in before else "wrong"


def start_and_kill(found: Round) -> None:
    """Kill training at a random time after its first backup."""
    log = found.project.root.parent / "repro.log"
    size = log.stat().st_size if log.exists() else 0
    process = found.project.start("dvc", "repro", "train", log=log)
    while process.poll() is None and not (
        is_training(log, size) and b"backed up training" in log.read_bytes()[size:]
    ):
        time.sleep(0.05)
    time.sleep(found.rng.uniform(0, 2))
    if process.poll() is None:
        kill(process)
