"""`python -m drive_stand_in FOLDER`, in `tests/`: serve until standard input ends.

FOLDER/stand-in.json then says where: `environment` is for the programs that shall reach it, `url`
takes `Faults` as JSON by POST to /stand-in, and tells the counts by GET.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from drive_stand_in.accounts import FOLDER_TITLE
from drive_stand_in.contents import MY_DRIVE, SHARED_DRIVE
from drive_stand_in.faults import Faults
from drive_stand_in.server import DriveStandIn
from multi_abnormality.backup.worker import step_back
from multi_abnormality.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(prog="drive_stand_in", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faults", type=Faults.from_json, default=Faults(), metavar="JSON")
    parser.add_argument("--aside", action="store_true", help="leave the processors to others")
    arguments = parser.parse_args()
    if arguments.aside:
        step_back()
    # Ctrl-C in a terminal reaches this process too, and it is for the parent to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with DriveStandIn(folder) as stand_in:
        stand_in.set_faults(arguments.faults)
        for drive in (MY_DRIVE, SHARED_DRIVE):
            stand_in.contents.add(FOLDER_TITLE, drive)
        about = {
            "pid": os.getpid(),
            "url": stand_in.url,
            "environment": stand_in.environment(),
        }
        write_json(about, folder / "stand-in.json")
        sys.stdin.read()


if __name__ == "__main__":
    main()
