"""Unusual scans of hospitals and public data sets, with the expected result of reading each."""

from odd_scans import folders, formats, geometry, stored_values
from odd_scans.case import CASES, Case

__all__ = ["CASES", "Case", "folders", "formats", "geometry", "stored_values"]
