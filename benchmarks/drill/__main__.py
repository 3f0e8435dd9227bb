"""Run the drills, and print what they found beside what was wanted."""

import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from drill import away, damage, interference, kills, speed, steps

DRILLS = {
    "kills": kills.random_kills,
    "steps": steps.every_step,
    "damage": damage.damaged_files,
    "disk": damage.full_disk,
    "speed": speed.start_and_saves,
    "lost": away.lost_machine,
    "interference": interference.interference,
    "drive": away.failing_drive,
}


def main() -> None:
    table = Table("drill", "found", "wanted", title="Kill it anywhere, lose nothing")
    out = Console(file=sys.stdout)

    def row(what: str, found: object, wanted: object) -> None:
        table.add_row(what, str(found), str(wanted))
        out.print(f"{what}: {found} (wanted: {wanted})", highlight=False, soft_wrap=True)
        out.file.flush()

    with tempfile.TemporaryDirectory(prefix="drill ", ignore_cleanup_errors=True) as folder:
        for name in sys.argv[1:] or DRILLS:
            DRILLS[name](Path(folder), row)
    out.print(table)


if __name__ == "__main__":
    main()
