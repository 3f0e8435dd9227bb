"""How each finding looks: functions from a subject to strokes."""
