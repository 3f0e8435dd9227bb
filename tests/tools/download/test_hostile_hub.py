"""Malformed responses of a hub: each is an error, and nothing is written outside the folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from hub_stand_in import COMMIT, TOKEN, Fault, HubStandIn
from multi_abnormality.data.catalog.volume_id import SPLITS
from multi_abnormality.tools.download.destination import DownloadDir
from multi_abnormality.tools.download.download_run import download
from multi_abnormality.tools.download.hub import Hub
from multi_abnormality.tools.download.postprocess import StoreScan
from multi_abnormality.tools.download.selection import Choice
from multi_abnormality.utils.errors import InputError

LISTS = "dataset/metadata/no_chest_train.txt"
LABELS = "dataset/multi_abnormality_labels/train_predicted_labels.csv"
DEEP = 100_000


@pytest.fixture
def outside(machine, repository, tmp_path: Path) -> Iterator[None]:
    """Assert that a download writes only to data/, data.download/ and the hub's cache."""
    ours = [repository.root]
    ours += [machine.folder / name for name in ("data", "data.download", "home")]
    roots = [tmp_path, Path("/tmp/hostile"), Path.home() / "hostile"]

    def others() -> dict[Path, tuple[int, int]]:
        found = {}
        for root in roots:
            for path in [root, *root.rglob("*")] if root.exists() else []:
                stat = path.lstat()
                if path.is_file() and not any(path.is_relative_to(folder) for folder in ours):
                    found[path] = stat.st_size, stat.st_mtime_ns
        return found

    before = others()
    yield
    assert others() == before


@pytest.fixture
def refused(machine, monkeypatch: pytest.MonkeyPatch, outside: None) -> Callable[[], str]:  # noqa: ARG001
    """Run a download in this process, which is faster, and return its error."""
    for name, value in machine.hub.environment(machine.folder / "home").items():
        monkeypatch.setenv(name, value)
    hub = machine.environment["HF_ENDPOINT"]
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub)

    def attempt() -> str:
        destination = DownloadDir(machine.data)
        choice = Choice(SPLITS, None, None, "all", "v2")
        with pytest.raises(InputError) as error:
            download(Hub("main", 0), choice, destination, 1, lambda: StoreScan(destination))
        assert not machine.volumes()
        return str(error.value)

    return attempt


def change(key: str, value: object, match: str) -> Callable[[Any], Any]:
    """Change one key in the API's descriptions of the files whose paths match."""

    def alter(content: Any) -> Any:
        for entry in content:
            if match in entry["path"]:
                *parents, last = key.split(".")
                part = entry
                for parent in parents:
                    part = part.setdefault(parent, {"size": 1, "oid": "", "pointerSize": 1})
                part[last] = value
        return content

    return alter


@pytest.mark.parametrize(
    "commit",
    [
        "../../../hostile",
        "/tmp/hostile",
        COMMIT[:-1],
        COMMIT.upper(),
        f"{COMMIT}/..",
        "main",
        "",
        None,
        "..\\..\\hostile",
        "C:hostile",
        "a\tb",
    ],
)
def test_commit_id_must_be_40_hex_digits(machine, refused, commit):
    machine.hub.commit = commit
    assert "is not a commit id" in refused()
    assert not machine.data.exists()
    assert not [path for path in machine.folder.glob("data.download/*") if path.is_dir()]


@pytest.mark.parametrize(
    "path",
    [
        *("../../hostile", "/tmp/hostile", f"../{LABELS}", f"{LABELS}/..", "home/hostile"),
        *("dataset//metadata/no_chest_train.txt", "C:/hostile", "a\\..\\b", "", "a\0b", 3, None),
        *("\ud800", {"a": 1}),
    ],
)
@pytest.mark.parametrize("match", [LABELS, LISTS, "train_1_a_1"])
def test_description_of_other_files(machine, refused, match, path):
    machine.hub.alter = change("path", path, match)
    assert "invalid response" in refused()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", -1),
        ("size", 10**30),
        ("size", "12"),
        ("size", 1.5),
        ("size", True),
        ("size", None),
        ("lfs.oid", "../../../hostile"),
        ("lfs.oid", "0" * 63),
        ("lfs.oid", "G" * 64),
        ("lfs.oid", None),
        ("lfs.oid", 5),
    ],
)
@pytest.mark.parametrize("match", [LABELS, "train_1_a_1"])
def test_invalid_sizes_and_hashes(machine, refused, match, key, value):
    machine.hub.alter = change(key, value, match)
    output = refused()
    assert "invalid response" in output


@pytest.mark.parametrize(
    "content",
    [
        b"[1, 2]",
        b"[null]",
        b'["file"]',
        b"null",
        b'[{"type": "file"}]',
        b'[{"type": "file", "path": "a", "size": 1, "oid": "a", "lfs": []}]',
        b'[{"type": "file", "path": "a", "size": 1, "oid": "a", "lfs": {"size": 1}}]',
        b"[" * DEEP,
        b"not JSON",
        b"\xff\xfe",
        b"",
    ],
    ids=range(11),
)
def test_malformed_json_is_an_error(machine, refused, content):
    machine.hub.alter = lambda _true: content
    assert "invalid response" in refused()


@pytest.mark.usefixtures("outside")
def test_too_large_table_is_not_fetched(machine):
    machine.hub.claimed_sizes[LABELS] = 10**11
    assert "which are not CT-RATE's" in machine.run(code=1)
    assert not machine.hub.sent("store.*train_predicted")


@pytest.mark.usefixtures("outside")
def test_bytes_beyond_the_file_size_are_not_written(machine, repository):
    machine.hub.set_faults(Fault("longer", "train_2_a_1", after=50_000_000))
    output = machine.run("--patients", "2", "--split", "train", code=1)
    assert "train_2_a_1.nii.gz: is longer than the hub states" in output
    assert machine.volumes() == {"train_2_b_1"}
    assert machine.hub.sent("store.*train_2_a_1") < 50_000_000
    for path in machine.data.rglob("*.nii.gz"):
        assert path.read_bytes() == (repository.root / path.relative_to(machine.data)).read_bytes()


@pytest.mark.parametrize("name", [f"train_{'9' * 5000}_a_1", f"train_1_{'a' * 5000}_1"])
@pytest.mark.usefixtures("outside")
def test_label_of_a_volume_with_too_long_name(machine, repository, name):
    table = repository.table("train")
    table.write_text(f"{table.read_text()}{name}.nii.gz{',0' * 18}\n")
    assert "is not a CT-RATE volume name" in machine.run(code=1)


@pytest.mark.usefixtures("outside")
def test_escape_sequences_are_not_printed(machine):
    machine.hub.alter = change("path", "\x1b[2J\0", LABELS)
    assert "\x1b" not in machine.run(code=1)


@pytest.fixture
def other(repository) -> Iterator[HubStandIn]:
    """Another host that the hub redirects clients to."""
    with HubStandIn(repository.root) as stand_in:
        yield stand_in


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.usefixtures("outside")
def test_token_is_sent_only_to_the_hub(machine, other, host):
    """Redirects of files lead to another host."""
    machine.hub.store = f"http://{host}:{other.port}/store/"
    machine.run("--patients", "2")
    assert {call.path.split("/")[1] for call in other.calls} == {"store"}
    assert not [call for call in other.calls if call.authorization]
    sent = [call.authorization for call in machine.hub.calls if "/store/" not in call.path]
    assert set(sent) == {f"Bearer {TOKEN}"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "store", ["file:///etc/passwd#", "gopher://a/", "http://[", "//", "http://127.0.0.1:9/", "\x7f"]
)
def test_redirect_to_invalid_address(machine, refused, store):
    machine.hub.store = store
    refused()


@pytest.mark.usefixtures("outside")
def test_links_in_the_repository_are_written_as_files(machine, repository):
    """Git stores a link as a file with its target; a download writes this text."""
    path = next(repository.root.rglob("train_2_a_1.nii.gz"))
    path.write_bytes(b"../../../../../hostile")
    machine.run("--patients", "2", "--split", "train")
    assert not [entry for entry in machine.data.rglob("*") if entry.is_symlink()]
    assert (machine.data / path.relative_to(repository.root)).is_file()
