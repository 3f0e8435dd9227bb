"""Logits and labels to scores, intervals, calibration, curves and the report."""
