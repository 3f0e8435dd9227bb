"""Write the pages whose content is elsewhere: home, parameters, command line, changelog, …

`make docs` runs this before it builds the site. Git ignores the pages.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multi_abnormality.config.schema import Params

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

PARAMETERS = """\
# Parameters

All settings in `params.yaml`, with their types, the values in the file, and what they mean. Unknown
keys and invalid values are reported all at once. A [recipe](../how-to/models.md) sets many of them
for one purpose, `dvc exp run -S train.epochs=3` sets one for an
[experiment](../how-to/experiments.md).

A stage runs again if a parameter that it depends on has changed: preprocess depends on
`preprocess` and on `data`, except for `data.fold`, train on `seed`, `data.fold`, `model` and
`train`, evaluate on
`seed` and `evaluate`, and export on `export`. No stage depends on `machine` and `backup`, which do
not change what is computed, except for the precision on another `machine.accelerator` and for
[several devices](../how-to/multi-gpu.md#effect-on-results).
"""
HEADER = "| key | type | value | meaning |\n|---|---|---|---|"

COMMAND_LINE = """\
# Command line

`multi-abnormality COMMAND`, or `python -m multi_abnormality COMMAND`, with the output of `--help`.
[DVC in ten lines](../getting-started/dvc.md) introduces the commands of DVC.
"""

# The pages of files in the top folder.
PAGES = {
    "CHANGELOG.md": "docs/reference/changelog.md",
    "CONTRIBUTING.md": "docs/reference/contributing.md",
    "README.md": "docs/index.md",
    "params.yaml": "docs/reference/parameters.md",
}

# A line of params.yaml, such as "  epochs: 16   # comment".
SETTING = re.compile(r"(?P<indent> *)(?P<key>\w+):(?P<value>.*?)(?:\s+# (?P<comment>.*))?")
LIMITS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}


def main() -> None:
    """Write all pages to docs/."""
    pages = {
        "index.md": from_top_folder("README.md", DOCS),
        "reference/changelog.md": from_top_folder("CHANGELOG.md", DOCS / "reference"),
        "reference/command-line.md": command_line(),
        "reference/contributing.md": from_top_folder("CONTRIBUTING.md", DOCS / "reference"),
        "reference/parameters.md": parameters(),
    }
    for path, text in pages.items():
        (DOCS / path).write_text(text, encoding="utf-8")


def from_top_folder(name: str, folder: Path) -> str:
    """Return the text of a file in the top folder, with links that fit a page in a folder of docs/.

    Badges, which are pictures from the network, and links to files that have no page are left out.
    """

    def fit(link: re.Match[str]) -> str:
        path, hash_sign, anchor = link["target"].partition("#")
        path = PAGES.get(path, path)
        if "://" in path:
            return link[0]
        if not path.startswith("docs/"):
            return link["text"]
        return f"[{link['text']}]({os.path.relpath(ROOT / path, folder)}{hash_sign}{anchor})"

    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"^\[!\[.*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)", fit, text)


def parameters() -> str:
    """Return a table of each section: types of the schema, values and comments of params.yaml."""
    schema = Params.model_json_schema()
    settings = read_settings()
    parts = [PARAMETERS]
    section = None
    for key, field in fields(schema, schema):
        if section != key.partition(".")[0]:
            section = key.partition(".")[0]
            parts.append(f"\n## `{section}`\n\n{HEADER}")
        value, comment = settings[key]
        cells = (f"`{key}`", type_name(field), f"`{value}`", comment)
        parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(parts) + "\n"


def fields(
    schema: dict[str, Any], section: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the full key and the JSON schema of each parameter."""
    for name, field in section["properties"].items():
        if "$ref" in field:
            definition = schema["$defs"][field["$ref"].rpartition("/")[2]]
            yield from fields(schema, definition, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def read_settings() -> dict[str, tuple[str, str]]:
    """Return the value and the comment of each key of params.yaml."""
    settings: dict[str, tuple[str, str]] = {}
    path: list[str] = []
    for line in (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines():
        if match := SETTING.fullmatch(line):
            path[len(match["indent"]) // 2 :] = [match["key"]]
            comment = re.sub(r"docs/(\S+\.md)", r"[more](../\1)", match["comment"] or "")
            settings[".".join(path)] = (match["value"].strip(), comment)
        elif line.strip().startswith("- "):  # an item of the list that began above
            item = line.strip().removeprefix("- ").partition(" #")[0].strip()
            value, comment = settings[".".join(path)]
            settings[".".join(path)] = (f"{value}, {item}" if value else item, comment)
    return settings


def type_name(field: dict[str, Any]) -> str:
    """Describe a JSON schema in words, such as "integer > 0, or null"."""
    if "anyOf" in field:
        return ", or ".join(type_name(one) for one in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field["type"] == "array":
        items = field["prefixItems"][0] if "prefixItems" in field else field["items"]
        return f"list of: {type_name(items)}"
    limits = [f"{sign} {field[name]:g}" for name, sign in LIMITS.items() if name in field]
    return " ".join([field["type"], " and ".join(limits)]).strip()


def command_line() -> str:
    """Return the output of --help, of the console command and of each of its commands."""
    usage = help_text()
    listed = usage.lower().partition("commands")[2]
    names = re.findall(r"^[ │|]+([a-z][a-z-]+) {2,}\S", listed, re.MULTILINE)
    parts = [COMMAND_LINE, f"```text\n{usage}```\n"]
    parts += [f"## `{name}`\n\n```text\n{help_text(name)}```\n" for name in names]
    return "\n".join(parts)


def help_text(*command: str) -> str:
    """Return the output of a command's --help, 88 columns wide."""
    environment = os.environ | {"COLUMNS": "88", "TERMINAL_WIDTH": "88", "NO_COLOR": "1"}
    arguments = [sys.executable, "-m", "multi_abnormality", *command, "--help"]
    return subprocess.run(
        arguments, env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


if __name__ == "__main__":
    main()
