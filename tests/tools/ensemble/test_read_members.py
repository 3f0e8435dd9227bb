"""Revisions that are refused by their dvc.lock alone."""

import json
from types import SimpleNamespace

import pytest

from multi_abnormality import InputError
from multi_abnormality.tools.compare.revisions import Revision
from multi_abnormality.tools.ensemble import members


def stage(**hashes: str) -> dict:
    return {"deps": [{"path": members.CHECKPOINT, **hashes}]}


def read_all(monkeypatch: pytest.MonkeyPatch, *locks: dict) -> None:
    """Read revisions a, b, ... of which only the dvc.lock is stored."""
    revisions = [Revision(letter, letter * 40) for letter in "abc"[: len(locks)]]
    files = {
        revision: {"dvc.lock": json.dumps({"stages": lock}).encode(), "params.yaml": b"seed: 0"}
        for revision, lock in zip(revisions, locks, strict=True)
    }
    monkeypatch.setattr(members, "resolve", lambda _, name: name)
    monkeypatch.setattr(members, "reader", lambda _, revision: files[revision].__getitem__)
    members.read_members(SimpleNamespace(), revisions)


def test_a_revision_that_was_exported_before_its_last_training_is_refused(monkeypatch):
    current = {"evaluate": stage(md5="1"), "export": stage(md5="1")}
    stale = {"evaluate": stage(md5="2"), "export": stage(md5="1")}
    message = "^b: .*export were run on different versions of checkpoints/best.ckpt.*`dvc repro`"
    with pytest.raises(InputError, match=message):
        read_all(monkeypatch, current, stale)


def test_revisions_of_one_network_are_refused(monkeypatch):
    first = {"evaluate": stage(md5="1"), "export": stage(md5="1") | {"params": {"owner": "me"}}}
    second = {"evaluate": stage(md5="1"), "export": stage(md5="1") | {"params": {"owner": "you"}}}
    with pytest.raises(InputError, match=r"^a and b are the same network, by the hash"):
        read_all(monkeypatch, first, second)
