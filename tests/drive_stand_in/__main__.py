"""`python -m drive_stand_in FOLDER`, in `tests/`: serve until standard input ends.

FOLDER/stand-in.json then contains the `environment` of client programs and the server's `url`. POST
`Faults` as JSON to /stand-in to set them; GET returns the counts.
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
from multi_abnormality.backup.push import lower_priority
from multi_abnormality.utils.atomic_io import write_json


def main() -> None:
    parser = argparse.ArgumentParser(prog="drive_stand_in", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faults", type=Faults.from_json, default=Faults(), metavar="JSON")
    parser.add_argument("--low-priority", action="store_true", help="run at low CPU priority")
    arguments = parser.parse_args()
    if arguments.low_priority:
        lower_priority(19)
    # Ctrl-C in a terminal also reaches this process, but the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with DriveStandIn(folder) as stand_in:
        stand_in.set_faults(arguments.faults)
        for drive in (MY_DRIVE, SHARED_DRIVE):
            stand_in.contents.add(FOLDER_TITLE, drive)
        info = {
            "pid": os.getpid(),
            "url": stand_in.url,
            "environment": stand_in.environment(),
        }
        write_json(info, folder / "stand-in.json")
        sys.stdin.read()


if __name__ == "__main__":
    main()
