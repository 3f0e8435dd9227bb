"""Kill, restore and fault drills: `make drill`, or one of them by `python -m drill kills`."""
