"""Index of a DICOM export: which chest CT series each study has, as a table to be labelled."""
