"""Reads mutated inputs, and lists failures: tracebacks, hangs, ended processes, excessive memory,
and changed voxels that the format would have detected.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mutations.formats import FORMATS
from mutations.reading import OTHER, Outcome, read_mutated
from mutations.running import read_all

RESULTS = ("refused", "accepted", OTHER, "traceback", "hang", "ended")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mutations", description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--format", choices=FORMATS, help="only inputs of this format")
    parser.add_argument("--index", type=int, help="read this one alone, in this process")
    parser.add_argument("--keep", type=Path, help="folder to leave its files in")
    parser.add_argument("--verbose", action="store_true", help="show every input's outcome")
    options = parser.parse_args()
    out = Console(file=sys.stdout, width=160, highlight=False, markup=False)
    if options.index is not None:
        folder = (options.keep or Path(tempfile.mkdtemp())) / str(options.index)
        folder.mkdir(parents=True)
        out.print(read_mutated(options.seed, options.index, folder))
        return 0
    names = list(FORMATS)
    first, step = (names.index(options.format), len(names)) if options.format else (0, 1)
    indices = range(first, first + options.count * step, step)
    outcomes = read_all(options.seed, indices, options.workers)
    if options.verbose:
        for outcome in outcomes:
            shown = " | ".join(outcome.messages)
            out.print(
                f"{outcome.index} {outcome.format}: {outcome.change}: {outcome.result} "
                f"in {outcome.seconds:.1f} s: {shown}"
            )
    out.print(summary(outcomes))
    faults = [outcome for outcome in outcomes if outcome.fault]
    for outcome in faults:
        out.print(
            f"\n--seed {options.seed} --index {outcome.index} ({outcome.format}): {outcome.change}"
        )
        out.print(outcome.fault)
    out.print(f"{len(faults)} faults in {len(outcomes)} inputs")
    return bool(faults)


def summary(outcomes: list[Outcome]) -> Table:
    table = Table("format", "inputs", *RESULTS, "faults", "longest, s", "peak, GB")
    for name in (*FORMATS, "all"):
        of_it = [one for one in outcomes if name in (one.format, "all")]
        if not of_it:
            continue
        counts = Counter(one.result for one in of_it)
        table.add_row(
            name,
            str(len(of_it)),
            *(str(counts[result] or "") for result in RESULTS),
            str(sum(bool(one.fault) for one in of_it) or ""),
            f"{max(one.seconds for one in of_it):.1f}",
            f"{max(one.peak for one in of_it) / 1e9:.2f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
