"""Findings: functions from a subject to strokes."""
