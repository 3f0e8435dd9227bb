"""`multi-abnormality experiments`: a table of the scores of DVC experiments."""

import json as json_format
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multi_abnormality.utils.console import printable
from multi_abnormality.utils.errors import InputError, first_few

if TYPE_CHECKING:
    from multi_abnormality.tools.compare.revisions import Read, Revision

PARAMS, EVALUATION, LOCK = "params.yaml", "metrics/evaluate.json", "dvc.lock"
SCORED_STAGES = ("preprocess", "train", "evaluate")  # stages that the scores depend on
PLAIN_WIDTH = 160  # columns without a terminal
SCORES_WIDTH = 4 * 21  # columns of the four scores if each shares a line with its interval
MEASURES = {"AUROC": "auroc", "F1": "f1", "CRG": "crg", "Accuracy": "accuracy"}
UNDEFINED, NOT_RUN, STALE = "\N{EN DASH}", "not run", "stale"


def experiments(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the scores of all experiments.

    A table of scores with confidence intervals, and the parameters that differ. Other options are
    those of `dvc exp show` that select commits, such as --all-commits or --num 2.
    """
    found = list(read_experiments(context.args))
    if json:
        sys.stdout.write(json_format.dumps([asdict(each) for each in found], indent=2) + "\n")
    else:
        print_table(found)


@dataclass(frozen=True)
class Experiment:
    """A row of the table."""

    name: str
    is_baseline: bool
    params: dict[str, Any]  # values of params.yaml by dotted name
    # Content of metrics/evaluate.json; empty if these parameters were not run.
    scores: dict[str, Any]
    missing: str = NOT_RUN  # text shown instead of scores
    has_stale_export: bool = False  # its model_weights/ are not of the scored run

    def score(self, measure: str, separator: str) -> str:
        """A score over all findings with its confidence interval."""
        from multi_abnormality.evaluation.scores import macro_intervals, macro_score
        from multi_abnormality.tools.compare.comparison_tables import format_score

        if not self.scores:
            return self.missing
        value, interval = macro_score(self.scores, measure), macro_intervals(self.scores)[measure]
        if value is None or interval is None:
            return format_score(value)
        return f"{value:.3f}{separator}({interval['low']:.3f}{UNDEFINED}{interval['high']:.3f})"

    @property
    def auroc(self) -> float:
        """Macro AUROC, to sort by; 0 where it is undefined."""
        return (self.scores["classification"]["macro"]["auroc"] or 0) if self.scores else 0

    @property
    def title(self) -> str:
        """Name as printed: indented below the commit that an experiment is based on."""
        note = " (stale export)" if self.has_stale_export else ""
        return printable(f"{'' if self.is_baseline else '  '}{self.name}{note}")


def read_experiments(arguments: list[str]) -> Iterator[Experiment]:
    """Each commit that `dvc exp show` lists, followed by its experiments, the best AUROC first."""
    if not Path(".dvc").is_dir():
        raise InputError(".dvc/: does not exist; run in the project's folder")
    import_module("dvc")  # if it is missing, the error names what to install
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json", "--hide-workspace"]
    done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise InputError("`dvc exp show` failed; its message is above")
    for baseline in json_format.loads(done.stdout):
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
    """Read the scores only of an experiment whose parameters were run.

    The commit of any other one still contains the scores of the previous run.
    """
    from multi_abnormality.config.yaml_edit import leaves

    name, revision = found["name"] or found["rev"][:7], found["rev"]
    params = ((found["data"] or {}).get("params") or {}).get(PARAMS, {}).get("data", {})
    scores: dict[str, Any] = {}
    if state != "success":
        name += f" ({state})"
    missing = NOT_RUN if state in ("success", "queued") else UNDEFINED
    has_stale_export = False
    if state == "success" and was_run(params, lock := _show(revision, LOCK)):
        locked = _stages(lock)
        if stale_files(locked, SCORED_STAGES):
            missing = STALE
        else:
            scores = json_format.loads(_show(revision, EVALUATION) or "{}")
            has_stale_export = bool(stale_files(locked, (*SCORED_STAGES, "export")))
    flat = {".".join(path): value for path, value in leaves(params)}
    return Experiment(name, is_baseline, flat, scores, missing, has_stale_export)


def _show(revision: str, path: str) -> str:
    """Content of a file at a revision; empty if it has none."""
    command = ["git", "show", f"{revision}:./{path}"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    return done.stdout if done.returncode == 0 else ""


def require_run(
    revision: "Revision", read: "Read", stages: Sequence[str] = SCORED_STAGES
) -> dict[str, Any]:
    """Refuse a revision whose stages were not run, or with other parameters or on other files.

    Returns:
        The stages of its dvc.lock.
    """
    from multi_abnormality.config.yaml_reader import load_yaml

    lock = read(LOCK).decode()
    if not was_run(load_yaml(read(PARAMS).decode()), lock):
        raise InputError(
            f"{revision}: its parameters were not run, so its scores are of others; run "
            "`dvc repro` at that revision, and commit the changes"
        )
    locked = _stages(lock)
    if stale := stale_files(locked, stages):
        raise InputError(
            f"{revision}: {', '.join(stages)} were run on different versions of "
            f"{first_few(stale)}, so its scores and its model do not match; run `dvc repro` at "
            "that revision, and commit the changes"
        )
    return locked


def stale_files(locked: Mapping[str, Any], stages: Sequence[str]) -> list[str]:
    """Return the files, without code, whose hashes differ between the stages of a dvc.lock."""
    hashes: dict[str, set[str]] = {}
    for stage in stages:
        for kind in ("deps", "outs"):
            for entry in locked.get(stage, {}).get(kind, []):
                if not entry["path"].startswith("src/"):
                    hashes.setdefault(entry["path"], set()).add(entry.get("md5"))
    return sorted(path for path, found in hashes.items() if len(found) > 1)


def _stages(lock: str) -> dict[str, Any]:
    """Return the stages of a dvc.lock; empty if it is no YAML, such as with conflict markers."""
    from ruamel.yaml.error import YAMLError

    from multi_abnormality.config.yaml_reader import load_yaml

    try:
        return dict((load_yaml(lock) or {}).get("stages", {}))
    except YAMLError:
        return {}


def was_run(params: Mapping[str, Any], lock: str) -> bool:
    """Whether the stages that lead to the scores were last run with these parameters."""
    stages = _stages(lock)
    return "evaluate" in stages and all(
        _value(params, name) == value
        for stage in SCORED_STAGES
        for name, value in stages.get(stage, {}).get("params", {}).get(PARAMS, {}).items()
    )


def _value(params: Any, name: str) -> Any:
    """Value of a dotted name; None if there is none."""
    for key in name.split("."):
        params = params.get(key) if isinstance(params, Mapping) else None
    return params


def changed_params(recipes: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the parameters whose values differ, by dotted name; empty recipes are unknown."""
    known = [recipe for recipe in recipes if recipe]
    names = dict.fromkeys(name for recipe in known for name in recipe)
    return [name for name in names if any(one.get(name) != known[0].get(name) for one in known)]


def print_table(experiments: list[Experiment]) -> None:
    """Print one row per experiment, then the parameters that differ."""
    from rich.text import Text

    from multi_abnormality.tools.compare.comparison_tables import new_table, table_console

    screen = table_console(None if "COLUMNS" in os.environ else PLAIN_WIDTH)
    longest = max(len(title) for title in ["Experiment", *(each.title for each in experiments)])
    separator = " " if screen.width >= longest + SCORES_WIDTH else "\n"
    table = new_table()
    for title in ("Experiment", *MEASURES):
        table.add_column(title, no_wrap=True)
    for each in experiments:
        scores = (each.score(name, separator) for name in MEASURES.values())
        table.add_row(Text(each.title), *scores)
    screen.print(table)
    if changed := changed_params(each.params for each in experiments):
        screen.print("\nParameters that differ", style="bold")
        for each in experiments:
            screen.print(Text(each.title))
            for name in changed:
                if name in each.params:
                    value = printable(json_format.dumps(each.params[name]))
                    screen.print(Text(f"    {printable(name)}={value}"), overflow="fold")
    if any(each.missing == STALE or each.has_stale_export for each in experiments):
        screen.print(
            "\nstale: its stages were run on different versions of a file; run `dvc repro` at that "
            "revision, and commit the changes"
        )
    if scored := next((each.scores for each in experiments if each.scores), None):
        level = f"{scored['intervals']['confidence']:.0%}"
        screen.print(
            f"\nAUROC, F1 and accuracy are means over the findings; in brackets: {level} intervals"
        )
