"""Backup during training, and restore on another machine.

A backup is a DVC state: `dvc.lock` records the checkpoints of the unfinished run, the DVC remote
gets their objects, and a resume commit with dvc.lock and every tracked file goes to a Git remote,
or as a bundle to the DVC remote. DVC is imported only where it is used, since the import is slow.
"""
