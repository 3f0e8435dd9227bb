"""Terminal output of programs, each in its own process."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.console import Console

from multi_abnormality.utils import console
from multi_abnormality.utils.progress_bar import ProgressBar
from terminal import read_all

FROM_A_LOADING_PROCESS = """
import sys
from torch.utils.data import DataLoader
from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError

class Scans:
    def __len__(self):
        return 1
    def __getitem__(self, index):
        raise InputError("scan.zip: is damaged;\\nfetch it again")

if __name__ == "__main__":
    console.run(lambda: list(DataLoader(Scans(), num_workers=int(sys.argv[1]))))
"""


@pytest.mark.slow
def test_an_error_reads_the_same_out_of_a_loading_process(tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text(FROM_A_LOADING_PROCESS)
    for workers in ("0", "1"):
        command = [sys.executable, str(program), workers]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr == "error: scan.zip: is damaged;\nfetch it again\n"


LOGS_AND_FAILS = """
import logging, sys
from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError

def main():
    for number in console.track(range(3), "counting", 3):
        pass
    console.log.warning("a warning")
    logging.getLogger("library").info("of a library")
    raise InputError("scan.zip: is damaged")

console.run(main, sys.argv[1] if len(sys.argv) > 1 else None)
"""


@pytest.mark.parametrize("by_variable", [False, True])
@pytest.mark.parametrize("verbosity", ["quiet", "normal", "verbose"])
def test_verbosity_selects_what_is_shown(tmp_path: Path, verbosity: str, by_variable: bool):
    (tmp_path / "program.py").write_text(LOGS_AND_FAILS)
    given = [] if by_variable or verbosity == "normal" else [verbosity]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), *given], capture_output=True, text=True,
        env=os.environ | ({"MULTI_ABNORMALITY_VERBOSITY": verbosity} if by_variable else {}),
    )  # fmt: skip
    assert done.returncode == 1
    assert "a warning" in done.stderr
    assert done.stderr.splitlines()[-1] == "error: scan.zip: is damaged"
    assert ("counting: 3/3 volumes" in done.stderr) == (verbosity != "quiet")
    assert ("of a library" in done.stderr) == (verbosity == "verbose")
    assert ('raise InputError("scan.zip' in done.stderr) == (verbosity == "verbose")


def test_a_quiet_program_draws_no_bar(tmp_path: Path):
    """On a terminal, where other programs draw one."""
    (tmp_path / "program.py").write_text(LOGS_AND_FAILS)
    shown = {}
    for option in ("quiet", "verbose"):
        leader, follower = pty.openpty()
        command = [sys.executable, str(tmp_path / "program.py"), option]
        process = subprocess.Popen(command, stderr=follower)
        os.close(follower)
        shown[option] = read_all(leader).decode()
        assert process.wait() == 1
    assert "counting" not in shown["quiet"]
    assert "a warning" in shown["quiet"]
    assert "counting" in shown["verbose"]
    for text in shown.values():  # time and level are shown once
        plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text)
        assert re.search(r"(?m)^\[\d\d:\d\d:\d\d\] WARNING +a warning *\r?$", plain), plain


def test_a_bar_is_one_line_with_room_for_ctrl_c():
    """The terminal writes ^C after the bar, which would wrap a full line."""
    drawn = Console(file=io.StringIO(), width=80)
    with ProgressBar(Console(file=io.StringIO(), width=80)) as bar:
        task = bar.add_task("predict validation patients", total=6000, unit="batches")
        bar.advance(task, 5000)
        drawn.print(bar.get_renderable())
    (line,) = drawn.file.getvalue().splitlines()
    assert "5000/6000" in line
    assert re.search(r"left (-|\d):(--|\d\d):(--|\d\d) *$", line)
    assert len(line.rstrip()) <= 78


def run_program(folder: Path, text: str) -> subprocess.CompletedProcess:
    program = folder / "program.py"
    program.write_text(text)
    return subprocess.run([sys.executable, str(program)], capture_output=True, text=True)


def test_without_a_terminal_progress_is_logged(tmp_path: Path):
    done = run_program(
        tmp_path,
        "from multi_abnormality.utils import console\n"
        "console.PLAIN_LINE_SECONDS = 0\n"
        "console.run(lambda: list(console.track(range(4), 'counting', 4, 'scans')))\n",
    )
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert len(lines) == 5
    assert re.search(r" counting: 2/4, [\d.]+ scans/s, \d+ s left$", lines[1])
    assert re.search(r" counting: 4/4 scans in [\d.]+ s$", lines[-1])


def test_no_items_show_no_progress(tmp_path: Path):
    text = (
        "from multi_abnormality.utils import console\n"
        "console.run(lambda: list(console.track([], 'counting', 0)))\n"
    )
    assert run_program(tmp_path, text).stderr == ""
    leader, follower = pty.openpty()
    with subprocess.Popen([sys.executable, str(tmp_path / "program.py")], stderr=follower):
        os.close(follower)
        assert read_all(leader) == b""


LONG = (
    "a message of many words, " * 12
    + "/a/path/"
    + "long" * 30
    + "\n  - "
    + "indented " * 12
    + "end"
)


@pytest.mark.parametrize("width", [80, 40])
def test_errors_are_wrapped_at_words_on_a_terminal(tmp_path: Path, width: int):
    (tmp_path / "program.py").write_text(
        "from multi_abnormality.utils import console\n"
        "from multi_abnormality.utils.errors import InputError\n"
        f"def main():\n    raise InputError({LONG!r})\n"
        "console.run(main)\n"
    )
    command = [sys.executable, str(tmp_path / "program.py")]
    whole = subprocess.run(command, capture_output=True, text=True).stderr
    assert whole == f"error: {LONG}\n"
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, width, 0, 0))
    environment = {name: os.environ[name] for name in os.environ.keys() - {"COLUMNS"}}
    with subprocess.Popen(command, stderr=follower, env=environment):
        os.close(follower)
        shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", read_all(leader).decode())
    lines = shown.splitlines()
    assert shown.split() == whole.split()
    assert [line for line in lines if len(line) > width] == ["/a/path/" + "long" * 30]
    assert all(line.startswith("  ") for line in lines[lines.index("/a/path/" + "long" * 30) + 1 :])


def test_ctrl_c_ends_a_program_without_a_traceback(tmp_path: Path):
    done = run_program(
        tmp_path,
        "import signal, time\n"
        "from multi_abnormality.utils import console\n"
        "console.run(lambda: (signal.raise_signal(signal.SIGINT), time.sleep(9)))\n",
    )
    assert (done.returncode, done.stderr) == (130, "stopped\n")


def test_a_mistyped_verbosity_is_an_error(tmp_path: Path):
    (tmp_path / "program.py").write_text(LOGS_AND_FAILS)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], capture_output=True, text=True,
        env=os.environ | {"MULTI_ABNORMALITY_VERBOSITY": "silent"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "error: MULTI_ABNORMALITY_VERBOSITY: must be one of quiet, normal, verbose, not 'silent'\n"
    )


def test_control_characters_are_escaped():
    assert console.printable("Größe 肺 ✓") == "Größe 肺 ✓"
    assert console.printable("a\x1b[2J\r\x00\u202eb\u2028\x85") == (
        r"a\x1b[2J\x0d\x00\u202eb\u2028\u0085"
    )
    assert console.printable(os.fsdecode(b"a\xff\xc3")) == r"a\xff\xc3"
    assert console.printable("a\nb\tc\r", keep="\n\t") == "a\nb\tc\\x0d"


HOSTILE = r"""
from pathlib import Path
from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError

def main():
    console.log.warning("%s", "log \x1b[31m \udcff ✓")
    try:
        raise ValueError("\x1b[31m")
    except ValueError as error:
        console.describe_failure(Path("\x1b[31m"), error)
    raise InputError("error \x1b[31m \udcff ✓\n  - second line")

console.run(main)
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_messages_are_escaped_for_any_encoding(tmp_path: Path, encoding: str):
    (tmp_path / "program.py").write_text(HOSTILE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], capture_output=True, encoding=encoding,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )  # fmt: skip
    check = "✓" if encoding == "utf-8" else r"\u2713"
    assert done.returncode == 1
    log, *error = done.stderr.splitlines()
    assert log.endswith(rf"log \x1b[31m \xff {check}")
    assert error == [rf"error: error \x1b[31m \xff {check}", "  - second line"]
    verbose = os.environ | {"MULTI_ABNORMALITY_VERBOSITY": "verbose"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], capture_output=True, env=verbose
    )
    assert done.stderr.count(b"Traceback") == 2
    assert b"\x1b" not in done.stderr


def test_the_traceback_of_an_unexpected_error_is_shown_on_request(tmp_path: Path):
    text = (
        "import sys\nfrom pathlib import Path\n"
        "from multi_abnormality.utils import console\n"
        "def main():\n"
        "    try:\n        [][1]\n"
        "    except IndexError as error:\n"
        "        console.log.warning(console.describe_failure(Path('scan.nii'), error))\n"
        "console.run(main, *sys.argv[1:])\n"
    )
    (tmp_path / "program.py").write_text(text)
    for option in ([], ["verbose"]):
        command = [sys.executable, str(tmp_path / "program.py"), *option]
        shown = subprocess.run(command, capture_output=True, text=True).stderr
        assert "scan.nii: failed with an unexpected IndexError (list index out of range)" in shown
        assert ("Traceback" in shown) == bool(option)


@pytest.mark.slow
@pytest.mark.parametrize(("root", "is_hinted"), [(".", True), ("..", False)])
def test_a_failed_or_stopped_experiment_names_the_command_to_undo_it(
    tmp_path: Path, root: str, is_hinted: bool
):
    """Only in the work tree; DVC's queue runs experiments in folders of their own."""
    environment = os.environ | {"DVC_EXP_NAME": "faster", "DVC_ROOT": str(tmp_path / root)}
    command = [sys.executable, "-m", "multi_abnormality.stages.export"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert ("git restore . && dvc checkout --force" in done.stderr) == is_hinted
    program = (
        "import signal, time\n"
        "from multi_abnormality.utils import console\n"
        "console.run(lambda: (signal.raise_signal(signal.SIGINT), time.sleep(9)))\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 130
    assert ("git restore . && dvc checkout --force" in done.stderr) == is_hinted
