"""Apply a recipe to params.yaml.

python -m multi_abnormality.recipe t4-colab
"""

import argparse
import sys
from pathlib import Path

from multi_abnormality import console

RECIPES, PARAMS = Path("recipes"), Path("params.yaml")
KEPT = ("seed", "data", "machine", "backup")  # of the project and the machine, not of a recipe


def apply_recipe(name: str, dry_run: bool = False) -> list[str]:
    """Write a recipe's settings into params.yaml, and return a line for each change.

    The values of KEPT and every comment stay as they are.

    Args:
        name: of a file in recipes/, without its suffix.
        dry_run: whether to leave the file as it is.

    Raises:
        InputError: there is no such recipe, or one of the two files is not valid. params.yaml is
            as it was.
    """
    from multi_abnormality.errors import InputError
    from multi_abnormality.files import write_durably
    from multi_abnormality.params import load_params, parse_params
    from multi_abnormality.params_text import flatten, replace_values, value_texts

    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if name not in names:
        there = f"there are {', '.join(names)}" if names else "run in the project's folder"
        raise InputError(f"{RECIPES}/: has no recipe {name!r}; {there}")
    source = RECIPES / f"{name}.yaml"
    load_params(PARAMS)
    load_params(source)
    text = PARAMS.read_bytes().decode()  # with its line breaks as they are
    recipe = source.read_text(encoding="utf-8")
    before, wanted = flatten(text), flatten(recipe)
    changed = {
        path: value
        for path, value in wanted.items()
        if path[0] not in KEPT and before.get(path) != value
    }
    own, texts = value_texts(text), value_texts(recipe)
    try:
        edited = replace_values(text, {path: texts[path] for path in changed})
        is_right = flatten(edited) == before | changed
    except (KeyError, ValueError):  # an anchor or a merge key, of which one edit changes several
        is_right = False
    if not is_right:
        raise InputError(
            f"{PARAMS}: cannot be edited, and is as it was: write it without anchors and aliases"
        )
    parse_params(edited, PARAMS)
    if not dry_run and changed:
        write_durably(edited.encode(), PARAMS)
    return [f"{'.'.join(path)}: {own[path]} -> {texts[path]}" for path in changed] + [
        f"{'.'.join(path)}: stays {own[path]}; the recipe has {texts[path]}"
        for path, value in wanted.items()
        if path[0] == "machine" and before[path] != value
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m multi_abnormality.recipe",
        description="Write the settings of a recipe, a file in recipes/, into params.yaml, and "
        f"print what changes. The sections {', '.join(KEPT)} and all comments stay as they are.",
        parents=[console.options()],
    )
    parser.add_argument("name", help="of the recipe, such as t4-colab")
    parser.add_argument("--dry-run", action="store_true", help="only print what would change")
    given = parser.parse_args()
    lines = apply_recipe(given.name, given.dry_run)
    sys.stdout.write("\n".join(lines or [f"{PARAMS} has these settings already"]) + "\n")


if __name__ == "__main__":
    console.run(main)
