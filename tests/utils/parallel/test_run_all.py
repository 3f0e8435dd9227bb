"""Running a function over items while worker processes are killed."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

import tasks
from multi_abnormality.utils import system_memory
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.parallel.run_all import TaskFailed, run_all, worker_count

GIB = 1 << 30


def work(function, count: int, workers: int = 2) -> list[tuple[str, object]]:
    items = {f"item {number}": (number,) for number in range(count)}
    return list(run_all(function, items, tasks.machine(workers=workers), [], GIB))


def processes_of(folder: Path) -> list[psutil.Process]:
    found = []
    for path in folder.glob("*.pid"):
        try:
            found.append(psutil.Process(int(path.stem)))
        except psutil.NoSuchProcess:
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_item_is_yielded_once(workers, tmp_path):
    done = work(partial(tasks.square, tmp_path), 20, workers)
    assert len(done) == 20
    assert dict(done) == tasks.squares(20)


def test_without_items_no_worker_starts():
    assert work(None, 0) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_the_item_of_a_killed_worker_is_retried(workers, tmp_path, caplog):
    done = work(partial(tasks.die_once, tmp_path, deadly=5), 20, workers)
    assert len(done) == 20
    assert dict(done) == tasks.squares(20)
    assert "a worker process was killed (SIGKILL(-9)); continuing with new ones" in caplog.text
    (suspects,) = re.findall("a worker was killed while it read (.*); retrying", caplog.text)
    assert "item 5" in suspects


def test_items_that_always_kill_their_worker_fail_and_others_finish(tmp_path):
    done = work(partial(tasks.die_always, tmp_path, deadly=(3, 4, 11)), 20)
    assert len(done) == 20
    lost = {name: outcome for name, outcome in done if isinstance(outcome, TaskFailed)}
    assert set(lost) == {"item 3", "item 4", "item 11"}
    assert {n: o for n, o in done if n not in lost} == tasks.squares(20, but=(3, 4, 11))
    reason = lost["item 3"].reason
    assert "killed twice (SIGKILL(-9)), most likely because memory ran out" in reason
    assert "lower machine.workers (now 2)" in reason


def test_a_crash_of_a_library_is_not_reported_as_out_of_memory(tmp_path):
    function = partial(tasks.die_always, tmp_path, deadly=(1,), by=signal.SIGSEGV)
    lost = dict(work(function, 3))["item 1"]
    assert lost.kind == "crashed its reader"
    assert "SIGSEGV(-11)" in lost.reason
    assert "memory" not in lost.reason


@pytest.mark.parametrize(
    ("by", "kind"), [(signal.SIGSEGV, "crashed its reader"), (signal.SIGKILL, "out of memory")]
)
def test_without_workers_a_killed_process_is_survived_on_request(by, kind, tmp_path):
    items = {f"item {number}": (number,) for number in range(4)}
    function = partial(tasks.die_always, tmp_path, deadly=(1,), by=by)
    done = dict(run_all(function, items, tasks.machine(workers=0), [], GIB, survive=True))
    assert done.pop("item 1").kind == kind
    assert done == tasks.squares(4, but=(1,))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_memory_error_fails_only_its_item(workers, tmp_path):
    done = dict(work(partial(tasks.want_too_much, tmp_path, greedy=2), 6, workers))
    lost = done.pop("item 2")
    assert lost.kind == "out of memory"
    assert "more memory than there is" in lost.reason
    assert done == tasks.squares(6, but=(2,))


def test_an_exception_stops_the_run_and_its_workers():
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with pytest.raises(ZeroDivisionError):
        work(partial(divmod, 1), 5)
    workers = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert all("resource_tracker" in " ".join(process.cmdline()) for process in workers)


def test_workers_that_cannot_start_are_not_restarted_forever(monkeypatch):
    monkeypatch.setattr("multi_abnormality.utils.parallel.pool._prepare", tasks.end_at_once)
    with pytest.raises(InputError, match="worker processes end before they begin"):
        work(str, 5)


PROGRAM = """
import sys
from functools import partial
from pathlib import Path
import tasks
from multi_abnormality.utils import console
from multi_abnormality.utils.parallel.run_all import run_all

def main():
    machine = tasks.machine(workers=2)
    items = {str(number): (number,) for number in range(9)}
    list(run_all(partial(tasks.wait, Path(sys.argv[1])), items, machine, [], 1))

if __name__ == "__main__":
    console.run(main)
"""


@pytest.mark.parametrize("stop", ["terminal", signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_ends_at_once_and_leaves_no_process(stop, tmp_path):
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
    _, messages = program.communicate(timeout=300)
    assert program.returncode == (130 if stop == "terminal" else -stop)
    assert "Traceback" not in messages
    end = time.monotonic() + 300
    while processes_of(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    assert not processes_of(tmp_path)


def test_workers_are_limited_by_memory():
    assert worker_count("auto", system_memory.available_bytes() + 1) == 1
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
def test_the_memory_limit_of_a_cgroup_is_found(line, file, tmp_path):
    (tmp_path / "cgroup").write_text(f"3:cpu:/job\n{line}\n")
    (tmp_path / "job").mkdir()
    (tmp_path / "job/memory.high").write_text("max\n")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(f"{3 * GIB}\n")
    assert system_memory._limits(tmp_path / "cgroup", tmp_path) == [3 * GIB]
