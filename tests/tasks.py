"""Functions for worker processes; some end their process."""

import os
import signal
import time
from pathlib import Path

from multi_abnormality.config.schema import Machine, load_params


def machine(**changes: object) -> Machine:
    """The project's machine settings, with a CPU."""
    ours = load_params(Path(__file__).parents[1] / "params.yaml").machine
    return ours.model_copy(update={"accelerator": "cpu", **changes})


def square(folder: Path, number: int) -> int:
    """Square a number, and record the run in the folder."""
    note_run(folder, number)
    return number**2


def squares(count: int, but: tuple[int, ...] = ()) -> dict[str, int]:
    """Expected results of `square`, by the names of the items."""
    return {f"item {number}": number**2 for number in range(count) if number not in but}


def note_run(folder: Path, number: int) -> None:
    with (folder / f"{number}.txt").open("a") as file:
        file.write("run\n")


def die_once(folder: Path, number: int, deadly: int) -> int:
    if number == deadly and not (folder / f"{number}.txt").exists():
        note_run(folder, number)
        os.kill(os.getpid(), signal.SIGKILL)
    return square(folder, number)


def die_always(folder: Path, number: int, deadly: tuple[int, ...], by: int = signal.SIGKILL) -> int:
    if number in deadly:
        os.kill(os.getpid(), by)
    return square(folder, number)


def end_at_once(*_: object) -> None:
    os._exit(3)


def want_too_much(folder: Path, number: int, greedy: int) -> int:
    if number == greedy:
        return len(bytearray(1 << 60))
    return square(folder, number)


def swell(folder: Path, number: int, greedy: int) -> int:
    """Allocate memory until this process is killed."""
    taken = []
    while number == greedy:
        taken.append(bytearray(os.urandom(1 << 20)) * 20)
        time.sleep(0.02)
    return square(folder, number)


def wait(folder: Path, number: int) -> None:
    (folder / f"{os.getpid()}.pid").touch()
    time.sleep(600 + number)
