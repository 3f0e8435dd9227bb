"""A function over many items, in processes that are really killed."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

import tasks
from multi_abnormality import memory
from multi_abnormality.data.work.outcomes import Lost, outcomes, worker_count
from multi_abnormality.errors import InputError

GIB = 1 << 30


def work(function, count: int, workers: int = 2) -> list[tuple[str, object]]:
    items = {f"item {number}": (number,) for number in range(count)}
    return list(outcomes(function, items, tasks.machine(workers=workers), [], GIB))


def processes_of(folder: Path) -> list[psutil.Process]:
    found = []
    for path in folder.glob("*.pid"):
        try:
            found.append(psutil.Process(int(path.stem)))
        except psutil.NoSuchProcess:
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_item_comes_once(workers, tmp_path):
    done = work(partial(tasks.square, tmp_path), 20, workers)
    assert len(done) == 20
    assert dict(done) == tasks.squares(20)


def test_nothing_to_do_starts_nobody():
    assert work(None, 0) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_killed_once_costs_nothing(workers, tmp_path, caplog):
    done = work(partial(tasks.die_once, tmp_path, deadly=5), 20, workers)
    assert len(done) == 20
    assert dict(done) == tasks.squares(20)
    assert "killed (SIGKILL(-9)) while it read " in caplog.text
    assert "item 5" in caplog.text


def test_items_that_always_kill_their_worker_are_named_and_the_others_done(tmp_path):
    done = work(partial(tasks.die_always, tmp_path, deadly=(3, 4, 11)), 20)
    assert len(done) == 20
    lost = {name: outcome for name, outcome in done if isinstance(outcome, Lost)}
    assert set(lost) == {"item 3", "item 4", "item 11"}
    assert {n: o for n, o in done if n not in lost} == tasks.squares(20, but=(3, 4, 11))
    reason = lost["item 3"].reason
    assert "killed twice (SIGKILL(-9)), most likely for want of memory" in reason
    assert "lower machine.workers (now 2)" in reason


def test_a_crash_of_a_library_is_not_taken_for_want_of_memory(tmp_path):
    function = partial(tasks.die_always, tmp_path, deadly=(1,), by=signal.SIGSEGV)
    lost = dict(work(function, 3))["item 1"]
    assert lost.kind == "crashed its reader"
    assert "SIGSEGV(-11)" in lost.reason
    assert "memory" not in lost.reason


@pytest.mark.parametrize(
    ("by", "kind"), [(signal.SIGSEGV, "crashed its reader"), (signal.SIGKILL, "out of memory")]
)
def test_without_workers_an_item_that_ends_its_process_is_survived_where_asked_for(
    by, kind, tmp_path
):
    items = {f"item {number}": (number,) for number in range(4)}
    function = partial(tasks.die_always, tmp_path, deadly=(1,), by=by)
    done = dict(outcomes(function, items, tasks.machine(workers=0), [], GIB, survive=True))
    assert done.pop("item 1").kind == kind
    assert done == tasks.squares(4, but=(1,))


@pytest.mark.parametrize("workers", [0, 2])
def test_want_of_memory_without_a_kill_is_the_fault_of_the_item(workers, tmp_path):
    done = dict(work(partial(tasks.want_too_much, tmp_path, greedy=2), 6, workers))
    lost = done.pop("item 2")
    assert lost.kind == "out of memory"
    assert "more memory than there is" in lost.reason
    assert done == tasks.squares(6, but=(2,))


def test_what_the_function_raises_ends_the_work_and_the_workers():
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with pytest.raises(ZeroDivisionError):
        work(partial(divmod, 1), 5)
    workers = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert all("resource_tracker" in " ".join(process.cmdline()) for process in workers)


def test_workers_that_cannot_start_are_not_started_for_ever(monkeypatch):
    monkeypatch.setattr("multi_abnormality.data.work.processes._prepare", tasks.end_at_once)
    with pytest.raises(InputError, match="worker processes end before they begin"):
        work(str, 5)


PROGRAM = """
import sys
from functools import partial
from pathlib import Path
import tasks
from multi_abnormality import console
from multi_abnormality.data.work.outcomes import outcomes

def main():
    machine = tasks.machine(workers=2)
    items = {str(number): (number,) for number in range(9)}
    list(outcomes(partial(tasks.wait, Path(sys.argv[1])), items, machine, [], 1))

if __name__ == "__main__":
    console.run(main)
"""


@pytest.mark.parametrize("stop", ["terminal", signal.SIGTERM, signal.SIGKILL])
def test_stopped_it_ends_at_once_and_leaves_no_process_behind(stop, tmp_path):
    paths = os.pathsep.join([str(Path(tasks.__file__).parent), *sys.path])
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path], env=os.environ | {"PYTHONPATH": paths},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while len(processes_of(tmp_path)) < 2:
        assert program.poll() is None
        time.sleep(0.05)
    if stop == "terminal":  # Ctrl-C goes to all of its processes
        os.killpg(program.pid, signal.SIGINT)
    else:
        program.send_signal(stop)
    _, messages = program.communicate(timeout=3)
    assert program.returncode == (130 if stop == "terminal" else -stop)
    assert "Traceback" not in messages
    end = time.monotonic() + 3
    while processes_of(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    assert not processes_of(tmp_path)


def test_no_more_workers_than_memory_bears():
    assert worker_count("auto", memory.free() + 1) == 1
    assert worker_count("auto", 1) >= worker_count("auto", GIB) >= 1
    assert worker_count(7, 1 << 60) == 7


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("0::/job/step", "job/memory.max"),
        ("0::/job/step", "memory.max"),
        ("4:memory:/job", "memory/job/memory.limit_in_bytes"),
    ],
)
def test_the_share_of_a_job_is_all_that_there_is(line, file, tmp_path):
    (tmp_path / "cgroup").write_text(f"3:cpu:/job\n{line}\n")
    (tmp_path / "job").mkdir()
    (tmp_path / "job/memory.high").write_text("max\n")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(f"{3 * GIB}\n")
    assert memory._limits(tmp_path / "cgroup", tmp_path) == [3 * GIB]
