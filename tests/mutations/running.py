"""Reads mutated inputs in separate processes, which may hang or end."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutations.formats import FORMATS
from mutations.reading import PEAK_BYTES, Outcome

LIMIT = 30.0  # seconds for one input
START_LIMIT = 60.0  # for the first, with its imports
PER_PROCESS = 130
_TESTS = str(Path(__file__).resolve().parents[1])


def read_all(seed: int, indices: Sequence[int], workers: int = 2) -> list[Outcome]:
    """Read the inputs with these indices.

    Args:
        seed: of all inputs.
        indices: which ones.
        workers: processes at a time.
    """
    chunks = [indices[at : at + PER_PROCESS] for at in range(0, len(indices), PER_PROCESS)]
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda chunk: list(_read_chunk(seed, chunk)), chunks)
        return [outcome for chunk in found for outcome in chunk]


def _read_chunk(seed: int, indices: Sequence[int]) -> Iterator[Outcome]:
    left = list(indices)
    while left:
        with tempfile.TemporaryDirectory(prefix="mutations") as folder:
            for outcome in _one_process(seed, left, Path(folder)):
                left = left[1:]
                yield outcome
                if outcome.peak > PEAK_BYTES:
                    break


def _one_process(seed: int, indices: Sequence[int], folder: Path) -> Iterator[Outcome]:
    """Read until all are read, or the process hangs, ends, or the iterator is closed."""
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "mutations.worker", str(seed), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([_TESTS, os.environ.get("PYTHONPATH", "")]),
            },
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    limit = START_LIMIT
    try:
        if not process.stdout.readline():
            raise RuntimeError((folder / "stderr").read_text(errors="replace"))
        for index in indices:
            process.stdin.write(f"{index}\n".encode())
            process.stdin.flush()
            if not select.select([process.stdout], [], [], limit)[0]:
                yield Outcome(index, _format(index), "", "hang", fault=f"more than {limit:g} s")
                return
            answer = process.stdout.readline()
            if not answer:
                last = (folder / "stderr").read_text(errors="replace")[-2000:]
                fault = f"ended with {process.wait()}: {last}"
                yield Outcome(index, _format(index), "", "ended", fault=fault)
                return
            yield Outcome(**json.loads(answer))
            limit = LIMIT
    finally:
        process.stdin.close()
        process.stdout.close()
        with contextlib.suppress(ProcessLookupError):  # all of them have ended
            os.killpg(process.pid, signal.SIGKILL)  # also the decoders that it started
        process.wait()


def _format(index: int) -> str:
    return list(FORMATS)[index % len(FORMATS)]
