"""Scores, bootstrap intervals, calibration, curves and the report."""
