"""`multi-abnormality recipe NAME`: merge a recipe into params.yaml.

A recipe is a file in recipes/ with the settings for one purpose that differ from those of `sample`.
The lines `# For:`, `# Memory:` and `# Time:` at its start describe it.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from multi_abnormality.utils.errors import InputError, raise_errors

RECIPES, PARAMS = Path("recipes"), Path("params.yaml")
DEFAULT = "sample"  # recipe that sets every parameter which another one sets
KEPT = ("seed", "machine", "backup")  # sections that no recipe changes
KEPT_EXPORT = ("name", "owner", "license", "contact")  # keys of `export` that no recipe changes

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Merge:
    """A recipe merged into params.yaml."""

    text: str  # the merged params.yaml
    changes: dict[KeyPath, tuple[str, str]]  # changed values by key, old and new
    # Lines about values that are not the recipe's, and about comments that are removed.
    notes: list[str]


def recipe_names() -> list[str]:
    """Names of the files in recipes/, without their suffixes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Name of the recipe.", autocompletion=recipe_names),
    ] = None,
    list_all: Annotated[
        bool,
        typer.Option("--list", help="List the recipes, with what is known of memory and time."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would change.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Change `data` without asking.")] = False,
) -> None:
    """Merge a recipe into params.yaml.

    Prints what changes. Comments are preserved, except inside a list that is replaced; so are the
    values of seed, machine and backup, and the model card's settings in export.
    """
    from multi_abnormality.utils.atomic_io import atomic_write

    if list_all or name is None:
        if not recipe_names():
            raise InputError(f"{RECIPES}/: has no recipes; run in the project's folder")
        sys.stdout.write("\n".join(map(_describe, recipe_names())) + "\n")
        return
    name = name.removesuffix(".yaml")
    merge = merge_recipe(name)
    changes = [f"{_dotted(path)}: {old} -> {new}" for path, (old, new) in merge.changes.items()]
    sys.stdout.writelines(f"{line}\n" for line in [*changes, *merge.notes])
    sys.stdout.flush()
    if not changes:
        result = "is unchanged: there is nothing to change"
    elif dry_run:
        result = "is unchanged (--dry-run)"
    else:
        if not yes and any(path[0] == "data" for path in merge.changes):
            _confirm(name)
        atomic_write(merge.text.encode(), PARAMS)
        result = "is changed"
    sys.stdout.write(f"{PARAMS} {result}\n")


def _describe(name: str) -> str:
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    facts = dict(re.findall(r"(?m)^# (For|Memory|Time): (.*)$", text))
    lines = [f"{name}: {facts.get('For', 'not described')}"]
    return "\n".join([*lines, *(f"    {key}: {facts[key]}" for key in facts if key != "For")])


def _confirm(name: str) -> None:
    """Ask whether to change `data`."""
    if not sys.stdin.isatty():
        raise InputError(f"{RECIPES}/{name}.yaml changes `data`, your scans: add --yes to allow it")
    typer.confirm("Change `data`, which selects your scans?", abort=True)


def merge_recipe(name: str) -> Merge:
    """Merge a recipe into params.yaml, which is not written."""
    from multi_abnormality.config.schema import load_params, parse_params
    from multi_abnormality.config.yaml_edit import (
        comments_in_lists,
        flatten,
        replace_values,
        value_texts,
    )

    source = _find(name)
    load_params(PARAMS)
    text = PARAMS.read_bytes().decode()  # with its line breaks as they are
    before, current = flatten(text), value_texts(text)
    wanted, texts = _read(source, before)
    differs = {path: value for path, value in wanted.items() if before[path] != value}
    changed = {path: value for path, value in differs.items() if not _is_kept(path)}
    try:
        edited = replace_values(text, {path: texts[path] for path in changed})
        is_right = flatten(edited) == before | changed
    except (KeyError, ValueError):  # an anchor or a merge key, of which one edit changes several
        is_right = False
    if not is_right:
        raise InputError(
            f"{PARAMS}: cannot be edited and is unchanged: write it without anchors and aliases"
        )
    parse_params(edited, source)
    kept = [
        f"{_dotted(path)}: stays {current[path]}; the recipe has {texts[path]}"
        for path in differs
        if _is_kept(path)
    ]
    defaults, default_texts = _read(_find(DEFAULT), before)
    others = [
        f"{_dotted(path)}: stays {current[path]}; the default is {default_texts[path]}"
        for path, value in defaults.items()
        if path not in wanted and before[path] != value
    ]
    if others:
        command = "multi-abnormality recipe"
        others.append(
            f"For the recipe as it is described: `{command} {DEFAULT} && {command} {name}`"
        )
    comments = [
        f"comments in {_dotted(path)} are removed: {' '.join(removed)}"
        for path, removed in comments_in_lists(text).items()
        if path in changed
    ]
    return Merge(
        edited, {path: (current[path], texts[path]) for path in changed}, comments + kept + others
    )


def closest_recipe(
    parameters: Mapping[str, object],
) -> tuple[str, dict[str, tuple[object, object]]] | None:
    """Find the recipe that differs least from the parameters of a run.

    Args:
        parameters: values of the run by dotted key. Keys that it lacks are not compared.

    Returns:
        Name of the recipe, and by key the values of the run and of the recipe that differ; None if
        there are no recipes.
    """
    values = {name: _values(RECIPES / f"{name}.yaml")[1] for name in recipe_names()}
    differences: dict[str, dict[str, tuple[object, object]]] = {}
    for name in sorted(values, key=lambda name: (name != DEFAULT, name)):
        wanted = values.get(DEFAULT, {}) | values[name]
        differences[name] = {
            key: (parameters[key], value)
            for key, value in ((_dotted(path), value) for path, value in wanted.items())
            if key in parameters and parameters[key] != value
        }
    return min(differences.items(), key=lambda each: len(each[1]), default=None)


def _find(name: str) -> Path:
    names = recipe_names()
    if name not in names:
        hint = f"there are {', '.join(names)}" if names else "run in the project's folder"
        raise InputError(f"{RECIPES}/: has no recipe {name!r}; {hint}")
    return RECIPES / f"{name}.yaml"


def _read(source: Path, known: Iterable[KeyPath]) -> tuple[dict[KeyPath, Any], dict[KeyPath, str]]:
    """Values of a recipe, and their texts, by key."""
    from multi_abnormality.config.yaml_edit import value_texts

    text, values = _values(source)
    sections = {path[:length] for path in known for length in range(1, len(path))}
    errors = [
        f"{_dotted(path)}: {'must be a section with keys' if path in sections else 'unknown key'}"
        for path in sorted(values.keys() - set(known))
    ]
    raise_errors(errors, f"{source}: wrong parameters")
    return values, value_texts(text)


def _values(source: Path) -> tuple[str, dict[KeyPath, Any]]:
    """Text and values of a recipe."""
    from multi_abnormality.config.yaml_edit import flatten

    try:
        text = source.read_text(encoding="utf-8")
        return text, flatten(text)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def _is_kept(path: KeyPath) -> bool:
    return path[0] in KEPT or (path[0] == "export" and path[1] in KEPT_EXPORT)


def _dotted(path: KeyPath) -> str:
    return ".".join(path)
