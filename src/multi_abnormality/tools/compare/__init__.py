"""Paired comparison of two revisions' models, with confidence intervals and p-values."""
