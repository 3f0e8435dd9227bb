"""Logits and labels to scores, intervals, calibration, curves and the report."""

THRESHOLD = 0.5  # a finding is called positive at this probability or above: the challenge's rule
