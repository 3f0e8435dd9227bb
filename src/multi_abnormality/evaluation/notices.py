"""Notices shared by the report and the model card."""

from multi_abnormality.data.catalog.patient_counts import FEW

NOT_ESTIMABLE = "interval not estimable: too few patients"
UNRELIABLE = (
    f"unreliable interval: fewer than {FEW} patients with or without the finding, or one of the "
    "findings of a mean."
)
# Undefined for a finding without positives; the challenge's evaluator counts them as 0.
NEED_POSITIVES = ("precision", "recall", "f1")


def debug_notice(mode: str) -> str | None:
    """Return the banner of a debug run, or None for a full one.

    Args:
        mode: value of `train.debug`.
    """
    return None if mode == "none" else f"Debug run (train.debug: {mode}): its scores mean nothing."
