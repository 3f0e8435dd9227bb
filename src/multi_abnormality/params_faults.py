"""What is wrong with params.yaml, in words: every key by its full name."""

import difflib

from pydantic import ValidationError

from multi_abnormality.section import Section

RENAMED = {"evaluate.objective": "evaluate.threshold_metric"}  # keys of earlier versions


def describe(error: ValidationError, whole: type[Section]) -> list[str]:
    """A line a wrong key, with what would be allowed.

    Args:
        error: pydantic's.
        whole: the model that it is of.
    """
    allowed: dict[str, list[str]] = {}
    given: dict[str, object] = {}
    faults = []
    for fault in error.errors():
        key, section = _locate(fault["loc"], whole)
        if fault["type"] == "missing":
            faults.append(f"{key}: is missing")
        elif fault["type"] == "extra_forbidden":
            name = str(fault["loc"][-1])
            hint = f"it is now {RENAMED[key]}" if key in RENAMED else _nearest(name, section)
            faults.append(f"{key}: unknown key; {hint}")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            allowed.setdefault(key, []).append(message.replace("Input should", "must"))
            given[key] = fault["input"]
    wrong = [f"{key}: {' or '.join(what)}, not {given[key]!r}" for key, what in allowed.items()]
    return sorted(faults + wrong)


def _locate(location: tuple[int | str, ...], section: type[Section]) -> tuple[str, type[Section]]:
    """The key as the file has it, without pydantic's names of types, and the section it is in."""
    parts = [str(location[0])]
    for part in location[1:]:
        field = section.model_fields.get(parts[-1])
        if field and isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            section = field.annotation
            parts.append(str(part))
        elif isinstance(part, int):
            parts.append(str(part))
    return ".".join(parts), section


def _nearest(name: str, section: type[Section]) -> str:
    close = difflib.get_close_matches(name, section.model_fields, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(section.model_fields)}"
