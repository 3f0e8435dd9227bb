"""Kill, restore and fault drills: `make drill`, or a single one by `python -m drill kills`."""
