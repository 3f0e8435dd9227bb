"""Error messages for a wrong params.yaml, with the full name of each key."""

import difflib
from typing import Any

from pydantic import ValidationError

from multi_abnormality.config.field_types import NotTextError, Section
from multi_abnormality.config.yaml_reader import in_yaml

RENAMED = {  # keys of earlier versions
    "backup.keep": "backup.keep_last",
    "data.valid_fraction": "data.test_fraction",
    "evaluate.confidence": "evaluate.ci_level",
    "evaluate.objective": "evaluate.threshold_metric",
    "evaluate.resamples": "evaluate.n_bootstrap",
    "machine.accept_changed_code": "machine.allow_code_changes",
    "machine.time_budget": "machine.max_time",
    "model.attention": "model.attn_layer",
    "model.slice_chunk": "model.encoder_chunk_size",
    "preprocess.hu_codes": "preprocess.hu_to_uint8",
    "train.accumulate": "train.accumulate_grad_batches",
    "train.average_decay": "train.ema_decay",
    "train.clip": "train.asl_clip",
    "train.clip_norm": "train.max_grad_norm",
    "train.cutmix": "train.cutmix_prob",
    "train.gamma_negative": "train.asl_gamma_neg",
    "train.gamma_positive": "train.asl_gamma_pos",
    "train.mixup": "train.mixup_prob",
    "train.positive_weight_limit": "train.max_pos_weight",
    "train.slices": "train.slices_per_volume",
    "train.validation_fraction": "train.val_fraction",
}
RENAMED_VALUES = {  # of earlier versions
    ("model.pooling", "query"): "attention",
    ("train.debug", "fast"): "fast_dev_run",
    ("train.debug", "overfit"): "overfit_batches",
    ("train.resume", "must"): "required",
}
_TYPES = {  # allowed values, by pydantic's type of error
    "bool_type": "true or false",
    "dict_type": "a section of keys and values",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a section",
    "float_parsing": "a number",
    "int_parsing": "a whole number",
    "string_type": "text",
    "tuple_type": "a list",
}


def describe(error: ValidationError, whole: type[Section]) -> list[str]:
    """One line per wrong key, with the allowed values.

    Args:
        error: error of pydantic.
        whole: the model that was validated.
    """
    allowed: dict[str, list[str]] = {}
    given: dict[str, object] = {}
    texts: set[str] = set()  # keys whose value would be right in quotes
    errors = []
    details = [(*_locate(detail["loc"], whole), detail) for detail in error.errors()]
    given_by_old_name = {RENAMED.get(key) for key, _, _ in details}
    for key, section, detail in details:
        if detail["type"] == "missing":
            if key not in given_by_old_name:
                errors.append(f"{key}: is missing")
        elif detail["type"] in ("extra_forbidden", "invalid_key"):
            name = str(detail["loc"][-1])
            hint = f"it is now {RENAMED[key]}" if key in RENAMED else _nearest(name, section)
            errors.append(f"{key}: unknown key; {hint}")
        elif not any(other.startswith(f"{key}.") for other, _, _ in details):  # says it better
            message = requirement(detail)
            if detail["type"] == "model_type":
                part: Any = section.model_fields[str(detail["loc"][-1])].annotation
                message += f" with the keys {', '.join(part.model_fields)}"
            allowed.setdefault(key, []).append(message)
            given[key] = detail["input"]
            if isinstance(detail.get("ctx", {}).get("error"), NotTextError):
                texts.add(key)
    for key, what in allowed.items():
        what[1:] = [message.removeprefix("must be ") for message in what[1:]]
        value = given[key]
        new = RENAMED_VALUES.get((key, value)) if isinstance(value, str) else None
        hint = f"; it is now {new}" if new else ""
        if key in texts:
            hint = "; put it in quotes"
        errors.append(f"{key}: {' or '.join(what)}, not {in_yaml(value)}{hint}")
    return sorted(errors)


def requirement(detail: Any) -> str:
    """Say what a value must be, by an entry of `ValidationError.errors`.

    Returns:
        The text; empty if only items of the value are wrong, which have errors of their own.
    """
    kind = detail["type"]
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}"
    if kind in ("too_short", "too_long"):
        bound = "least" if kind == "too_short" else "most"
        count = detail["ctx"]["min_length" if bound == "least" else "max_length"]
        if kind == "too_short" and len(detail["input"]) >= count:
            return ""
        return f"must have at {bound} {count} entr{'y' if count == 1 else 'ies'}"
    return str(detail["msg"]).removeprefix("Value error, ").replace("Input should", "must")


def _locate(location: tuple[int | str, ...], section: type[Section]) -> tuple[str, type[Section]]:
    """The dotted key as in the file, without pydantic's type names, and its section."""
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
