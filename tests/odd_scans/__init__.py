"""Scans as hospitals and public data sets have them, each with what a reader must make of it."""

from odd_scans import folders, formats, geometry, stored_values
from odd_scans.case import CASES, Case

__all__ = ["CASES", "Case", "folders", "formats", "geometry", "stored_values"]
