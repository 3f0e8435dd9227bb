"""Run the drills, and print results and expectations."""

import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from drill import damage, interference, kills, lost_machine, ranks, signals, speed, steps

DRILLS = {
    "kills": kills.random_kills,
    "steps": steps.every_step,
    "ranks": ranks.every_batch,
    "signals": signals.random_signals,
    "damage": damage.damaged_files,
    "disk": damage.full_disk,
    "speed": speed.start_and_saves,
    "lost": lost_machine.lost_machine,
    "interference": interference.interference,
    "drive": lost_machine.failing_drive,
}


def main() -> None:
    table = Table("drill", "result", "expected", title="Kill, restore and fault drills")
    out = Console(file=sys.stdout)

    def row(name: str, result: object, expected: object) -> None:
        table.add_row(name, str(result), str(expected))
        out.print(f"{name}: {result} (expected: {expected})", highlight=False, soft_wrap=True)
        out.file.flush()

    with tempfile.TemporaryDirectory(prefix="drill ", ignore_cleanup_errors=True) as folder:
        for name in sys.argv[1:] or DRILLS:
            DRILLS[name](Path(folder), row)
    out.print(table)


if __name__ == "__main__":
    main()
