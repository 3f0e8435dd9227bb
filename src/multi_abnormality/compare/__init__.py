"""Whether one revision's model is better than another's: paired, with intervals and p-values."""
