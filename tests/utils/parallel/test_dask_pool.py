"""A Dask cluster of real processes, some of which are killed."""

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

import tasks
from dask_cluster import TESTS, DaskCluster
from folders import contents
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.stages import preprocess
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.parallel import dask_pool as cluster_module
from multi_abnormality.utils.parallel import dask_task
from multi_abnormality.utils.parallel.run_all import TaskFailed, run_all

SOURCES = Path(preprocess.__file__).parents[2]


@pytest.fixture
def cluster(tmp_path):
    with DaskCluster(tmp_path / "dask") as started:
        yield started


def begin(address: str, function, count: int, shared: Path, *more: Path):
    machine = tasks.machine(workers=1, dask=address)
    items = {f"item {number}": (number,) for number in range(count)}
    return run_all(function, items, machine, [shared, *more], 1)


def test_workers_that_come_late_are_used_and_every_item_comes_once(cluster, tmp_path):
    arriving = threading.Timer(1, cluster.add_worker)
    arriving.start()
    shared = tmp_path / "shared"
    function = partial(tasks.want_too_much, tmp_path, greedy=7)
    done = list(begin(cluster.address, function, 50, shared))
    arriving.join()
    assert len(done) == 50
    found = dict(done)
    lost = found.pop("item 7")
    assert "more memory than there is; give the Dask workers more memory" in lost.reason
    assert found == tasks.squares(50, but=(7,))
    assert list(shared.iterdir()) == []


def test_a_missing_scheduler_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(InputError, match=rf"machine.dask: no Dask scheduler answers at {address}"):
        list(begin(address, str, 3, tmp_path))


def test_a_worker_with_other_files_is_refused(cluster, tmp_path):
    cluster.add_worker()
    missing = tmp_path / "elsewhere.nii.gz"
    with pytest.raises(InputError, match=rf"cannot see {missing}; .* on a shared file system"):
        list(begin(cluster.address, str, 3, tmp_path, missing))


def test_a_worker_with_other_code_is_refused(cluster, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(SOURCES, other, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    with (other / "multi_abnormality/data/preprocessing/resample.py").open("a") as file:
        file.write("# an edit\n")
    cluster.add_worker("--no-nanny", paths=(other, TESTS))
    with pytest.raises(InputError, match=rf"runs other code of this project \({other}"):
        list(begin(cluster.address, str, 3, tmp_path))


def test_a_worker_without_the_code_is_an_error(cluster, tmp_path):
    cluster.add_worker("--no-nanny", paths=())
    with pytest.raises(InputError, match=r"cannot import the task .*'tasks'.*; install"):
        list(begin(cluster.address, partial(tasks.square, tmp_path), 3, tmp_path))


def test_other_versions_are_reported():
    here = dask_task.versions()
    older = tuple((name, "0.1" if name == "numpy" else version) for name, version in here)
    expected = dask_task.EnvironmentCheck((), dask_task.code_hash(), older)
    (remark,) = dask_task._compare(expected)
    assert f"has numpy {dict(here)['numpy']}, this machine 0.1" in remark


@pytest.mark.slow
def test_a_lost_scheduler_ends_the_work_and_what_came_is_kept(cluster, tmp_path):
    cluster.add_worker()
    found = begin(cluster.address, partial(tasks.square, tmp_path), 500, tmp_path / "shared")
    done = dict(next(found) for _ in range(5))
    cluster.kill(cluster.processes[0])
    with pytest.raises(InputError, match=r"connection .* is lost; finished work is kept"):
        done.update(found)
    assert done.items() <= tasks.squares(500).items()


@pytest.mark.slow
def test_without_any_worker_it_waits_and_logs_it(cluster, tmp_path, caplog):
    doomed = cluster.add_worker()
    found = begin(cluster.address, partial(tasks.square, tmp_path), 300, tmp_path / "shared")
    done = [next(found) for _ in range(5)]
    cluster.kill(doomed)
    arriving = threading.Timer(8, cluster.add_worker)
    arriving.start()
    done += found
    arriving.join()
    assert len(done) == 300
    assert dict(done) == tasks.squares(300)
    assert (
        caplog.text.count(
            f"no worker is connected to {cluster.address}; waiting for one to run item"
        )
        == 1
    )


@pytest.mark.slow
def test_a_task_out_of_memory_is_named_and_the_others_are_done(cluster, tmp_path):
    for _ in range(2):
        cluster.add_worker("--nanny", "--memory-limit", "400MB")
    function = partial(tasks.swell, tmp_path, greedy=3)
    done = list(begin(cluster.address, function, 20, tmp_path / "shared"))
    assert len(done) == 20
    found = dict(done)
    lost = found.pop("item 3")
    assert isinstance(lost, TaskFailed)
    assert "8 Dask workers were killed" in lost.reason
    assert "because memory ran out: give the Dask workers more memory" in lost.reason
    assert found == tasks.squares(20, but=(3,))


@pytest.fixture
def project(ct_rate, tmp_path):
    """A folder to run the stage in, with 61 scans."""
    for patient in range(1, 61):
        ct_rate.add(f"train_{patient}_a_1", seed=patient)
    ct_rate.add("valid_1_a_1", seed=0)
    ct_rate.write_tables()
    return tmp_path


def start(project: Path, **machine: object) -> subprocess.Popen:
    params = yaml.safe_load((TESTS.parent / "params.yaml").read_text())
    params["machine"] |= machine
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    command = [sys.executable, "-m", "multi_abnormality.stages.preprocess"]
    return subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_worker_changes_no_byte_of_the_processed_set(cluster, project):
    here = start(project, workers=2)
    assert here.wait() == 0, here.stderr.read()
    expected = contents(project / "processed")
    shutil.rmtree(project / "processed")

    doomed = cluster.add_worker()
    cluster.add_worker()
    stage = start(project, workers=0, dask=cluster.address)
    while not list(project.glob("processed/*/*.zip")):
        assert stage.poll() is None, stage.stderr.read()
        time.sleep(0.001)
    assert not (project / "processed/train/train_00051-00060.zip").exists()
    cluster.kill(doomed)
    _, messages = stage.communicate(timeout=600)
    assert stage.returncode == 0, messages
    assert "Traceback" not in messages
    assert contents(project / "processed") == expected
    assert len(ProcessedDataset(project / "processed").names) == 61


@pytest.mark.slow
def test_ctrl_c_ends_it_and_a_new_run_resumes(cluster, project):
    cluster.add_worker()
    stage = start(project, workers=0, dask=cluster.address)
    while not list(project.glob("processed/*/*.zip")):
        assert stage.poll() is None, stage.stderr.read()
        time.sleep(0.001)
    stage.send_signal(signal.SIGINT)
    _, messages = stage.communicate(timeout=600)
    assert stage.returncode == 130
    assert "Traceback" not in messages
    stage = start(project, workers=0, dask=cluster.address)
    _, messages = stage.communicate(timeout=600)
    assert stage.returncode == 0, messages
    assert ", 0 kept" not in messages
    assert not list(project.glob("processed/**/shared-*"))


def test_a_bad_scan_is_named_as_on_one_machine(cluster, project):
    bad = next(project.glob("data/dataset/*/*/*/train_7_a_1.nii.gz"))
    bad.write_text("not found")
    cluster.add_worker()
    stage = start(project, workers=0, dask=cluster.address)
    _, messages = stage.communicate(timeout=600)
    assert stage.returncode == 1
    assert "1 of 61 volumes cannot be used; the others are stored" in messages
    assert str(bad) in messages
    assert "Traceback" not in messages
