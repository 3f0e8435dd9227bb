"""Synthetic chest CT scans in CT-RATE's layout."""
