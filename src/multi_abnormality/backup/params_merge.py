"""Three-way merge of params.yaml, key by key."""

from functools import lru_cache
from typing import Any

from multi_abnormality.config.yaml_edit import KeyPath, flatten

OWN_SECTIONS = ("machine", "backup")  # machine-specific; never restored
_MISSING = object()
_flatten = lru_cache(maxsize=4)(flatten)  # the texts to compare are often the same


class MergeConflictError(ValueError):
    """Both sides changed the same keys; the message lists them, one per line."""


def merge_params(base: str, backup: str, here: str) -> str:
    """Merge the backup's changes since `base` into the params.yaml of the work tree.

    The sections `machine` and `backup` are not changed. Comments and order are taken from the
    backup if it changed any value.

    Raises:
        MergeConflictError: both changed the same key, to different values.
        ValueError: one of the texts is not a valid params.yaml.
    """
    old, theirs, ours = (_flatten(text) for text in (base, backup, here))
    merged: dict[KeyPath, Any] = {}
    conflicts = []
    for path in dict.fromkeys((*theirs, *ours)):
        before, backed_up, now = (side.get(path, _MISSING) for side in (old, theirs, ours))
        value = now
        if path[0] not in OWN_SECTIONS and backed_up != now:
            if now == before:
                value = backed_up
            elif backed_up != before:
                conflicts.append(f"{'.'.join(path)}: {_show(backed_up)} in the backup, "
                                 f"{_show(now)} here")  # fmt: skip
        if value is not _MISSING:
            merged[path] = value
    conflicts += [
        f"{'.'.join(path)}: a section on one side, a value on the other"
        for path in merged if any(path[:count] in merged for count in range(1, len(path)))
    ]  # fmt: skip
    if conflicts:
        raise MergeConflictError("\n".join(conflicts))
    for text, side in ((here, ours), (backup, theirs)):
        if merged == side:
            return text
    return _edited(backup, theirs, merged)


def _show(value: Any) -> str:
    if value is _MISSING:
        return "missing"
    return repr(value) if isinstance(value, str) else str(value)


def _edited(text: str, old: dict[KeyPath, Any], new: dict[KeyPath, Any]) -> str:
    """Return the text with changed values and its comments kept."""
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    content = parse_yaml_for_update(text, "params.yaml")
    for path in old.keys() - new.keys():
        section = content
        for key in path[:-1]:
            section = section[key]
        del section[path[-1]]
    for path, value in new.items():
        if path not in old or old[path] != value:
            section = content
            for key in path[:-1]:
                section = section.setdefault(key, {})
            section[path[-1]] = value
    edited: str = dumps_yaml(content)
    return edited
