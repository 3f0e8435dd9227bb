"""Apply a recipe to params.yaml.

multi-abnormality recipe t4-colab
"""

import argparse
import sys
from pathlib import Path

from multi_abnormality.utils import console

RECIPES, PARAMS = Path("recipes"), Path("params.yaml")
KEPT = ("seed", "data", "machine", "backup")  # sections that no recipe changes
KEPT_EXPORT = ("name", "owner", "license", "contact")  # keys of `export` that no recipe changes


def apply_recipe(name: str, dry_run: bool = False) -> list[str]:
    """Write a recipe's settings into params.yaml, and return a line for each change.

    The values of KEPT and KEPT_EXPORT and all comments are preserved.

    Args:
        name: name of a file in recipes/, without its suffix.
        dry_run: whether to leave the file unchanged.

    Raises:
        InputError: there is no such recipe, or one of the two files is not valid. params.yaml is
            unchanged.
    """
    from multi_abnormality.config.schema import load_params, parse_params
    from multi_abnormality.config.yaml_edit import flatten, replace_values, value_texts
    from multi_abnormality.utils.atomic_io import atomic_write
    from multi_abnormality.utils.errors import InputError

    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if name not in names:
        hint = f"there are {', '.join(names)}" if names else "run in the project's folder"
        raise InputError(f"{RECIPES}/: has no recipe {name!r}; {hint}")
    source = RECIPES / f"{name}.yaml"
    load_params(PARAMS)
    load_params(source)
    text = PARAMS.read_bytes().decode()  # with its line breaks as they are
    recipe = source.read_text(encoding="utf-8")
    before, wanted = flatten(text), flatten(recipe)
    changed = {
        path: value
        for path, value in wanted.items()
        if not _is_kept(path) and before.get(path) != value
    }
    current, texts = value_texts(text), value_texts(recipe)
    try:
        edited = replace_values(text, {path: texts[path] for path in changed})
        is_right = flatten(edited) == before | changed
    except (KeyError, ValueError):  # an anchor or a merge key, of which one edit changes several
        is_right = False
    if not is_right:
        raise InputError(
            f"{PARAMS}: cannot be edited and is unchanged: write it without anchors and aliases"
        )
    parse_params(edited, PARAMS)
    if not dry_run and changed:
        atomic_write(edited.encode(), PARAMS)
    return [f"{'.'.join(path)}: {current[path]} -> {texts[path]}" for path in changed] + [
        f"{'.'.join(path)}: stays {current[path]}; the recipe has {texts[path]}"
        for path, value in wanted.items()
        if path[0] == "machine" and before[path] != value
    ]


def _is_kept(path: tuple[str, ...]) -> bool:
    return path[0] in KEPT or (path[0] == "export" and path[1] in KEPT_EXPORT)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="multi-abnormality recipe",
        description="Write the settings of a recipe, a file in recipes/, into params.yaml, and "
        f"print what changes. The sections {', '.join(KEPT)}, the values of "
        f"{', '.join(f'export.{key}' for key in KEPT_EXPORT)} and all comments are preserved.",
        parents=[console.options()],
    )
    parser.add_argument("name", help="name of the recipe, such as t4-colab")
    parser.add_argument("--dry-run", action="store_true", help="only print what would change")
    given = parser.parse_args()
    lines = apply_recipe(given.name, given.dry_run)
    sys.stdout.write("\n".join(lines or [f"{PARAMS} already has these settings"]) + "\n")


if __name__ == "__main__":
    console.run(main)
