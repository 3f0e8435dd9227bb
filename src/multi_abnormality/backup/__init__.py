"""Backup while training, and restore on another machine.

A backup is a DVC state: `dvc.lock` records the half-trained checkpoints, DVC's remote gets the
objects, and a resume commit, which holds the lock and every tracked file, goes to a Git remote or
as a bundle onto the DVC remote. DVC is imported where it is needed: no stage waits for it in vain.
"""
