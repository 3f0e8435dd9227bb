"""`python -m multi_abnormality.experiments`: a table of the scores of DVC experiments."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from multi_abnormality import console
from multi_abnormality.console import printable
from multi_abnormality.errors import InputError

PARAMS, EVALUATION = "params.yaml", "metrics/evaluate.json"
MAX_WIDTH, PLAIN_WIDTH = 200, 160  # columns of the table; PLAIN_WIDTH where none is known
ONE_LINE_WIDTH = 130  # columns from which a score and its interval share a line
UNDEFINED = "\N{EN DASH}"


@dataclass(frozen=True)
class Experiment:
    """A row of the table.

    Attributes:
        name: of the experiment, or of the commit that it is based on.
        is_baseline: whether it is such a commit.
        params: values of params.yaml by dotted name.
        scores: content of metrics/evaluate.json; empty where there is none.
    """

    name: str
    is_baseline: bool
    params: dict[str, Any]
    scores: dict[str, Any]

    def score(self, measure: str, separator: str) -> str:
        """A score over all findings with its confidence interval."""
        if not self.scores:
            return UNDEFINED
        intervals = self.scores["intervals"]
        if measure == "crg":
            value, interval = self.scores["crg"]["CRG"], intervals["crg"]["CRG"]
        else:
            value = self.scores["classification"]["macro"][measure]
            interval = intervals["macro"][measure]
        if value is None:
            return UNDEFINED
        if interval is None:
            return f"{value:.3f}"
        return f"{value:.3f}{separator}({interval['low']:.3f}{UNDEFINED}{interval['high']:.3f})"

    @property
    def auroc(self) -> float:
        """Macro AUROC, to sort by; 0 where it is undefined."""
        return (self.scores["classification"]["macro"]["auroc"] or 0) if self.scores else 0


def read_experiments(arguments: list[str]) -> Iterator[Experiment]:
    """Each commit that `dvc exp show` lists, followed by its experiments, the best AUROC first.

    Raises:
        InputError: `dvc exp show` fails.
    """
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json", "--hide-workspace"]
    done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise InputError("`dvc exp show` failed; its message is above")
    for baseline in json.loads(done.stdout):
        yield _experiment(baseline, is_baseline=True)
        rows = []
        for one in baseline["experiments"] or ():
            state = (one["executor"] or {}).get("state") or "success"
            revision = one["revs"][0]
            rows.append(_experiment(revision, state))
        yield from sorted(rows, key=lambda row: row.auroc, reverse=True)


def _experiment(
    found: dict[str, Any], state: str = "success", is_baseline: bool = False
) -> Experiment:
    """Only a successful one has scores: the commit of any other holds those of the run before."""
    name = found["name"] or found["rev"][:7]
    params = ((found["data"] or {}).get("params") or {}).get(PARAMS, {}).get("data", {})
    scores: dict[str, Any] = {}
    if state == "success":
        shown = subprocess.run(
            ["git", "show", f"{found['rev']}:./{EVALUATION}"], capture_output=True, text=True
        )
        scores = json.loads(shown.stdout) if shown.returncode == 0 else {}
    else:
        name += f" ({state})"
    return Experiment(name, is_baseline, dict(_leaves(params)), scores)


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed_params(experiments: list[Experiment]) -> list[str]:
    """Names of the parameters whose values differ between experiments."""
    names = dict.fromkeys(name for each in experiments for name in each.params)
    known = [each.params for each in experiments if each.params]
    return [
        name
        for name in names
        if any(params.get(name) != known[0].get(name) for params in known[1:])
    ]


def print_table(experiments: list[Experiment]) -> None:
    """Print a row an experiment, at most MAX_WIDTH columns wide."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    screen = Console(file=sys.stdout)
    is_known = sys.stdout.isatty() or "COLUMNS" in os.environ
    screen.width = min(screen.width if is_known else PLAIN_WIDTH, MAX_WIDTH)
    scored = next((each.scores for each in experiments if each.scores), None)
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("Experiment", no_wrap=True)
    for title in ("AUROC", "F1", "CRG", "Accuracy"):
        table.add_column(title, no_wrap=True)
    separator = " " if screen.width >= ONE_LINE_WIDTH else "\n"
    changed = changed_params(experiments)
    table.add_column("Parameters that differ", overflow="fold")
    for each in experiments:
        values = [
            printable(f"{name}={json.dumps(each.params[name])}")
            for name in changed
            if name in each.params
        ]
        table.add_row(
            Text(printable(each.name if each.is_baseline else f"  {each.name}")),
            *(each.score(name, separator) for name in ("auroc", "f1", "crg", "accuracy")),
            Text("\n".join(values)),
        )
    screen.print(table)
    if scored:
        level = f"{scored['intervals']['confidence']:.0%}"
        note = f"AUROC, F1 and accuracy are means over the findings; in brackets: {level} intervals"
        screen.print(f"\n{note}", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m multi_abnormality.experiments",
        description="Scores of DVC experiments with confidence intervals, and the parameters that "
        "differ between them, in at most 200 columns. Other options are those of `dvc exp show` "
        "that select commits, such as --all-commits or --num 2.",
        parents=[console.options()],
    )
    print_table(list(read_experiments(parser.parse_known_args()[1])))


if __name__ == "__main__":
    console.run(main)
