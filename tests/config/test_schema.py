import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from multi_abnormality.config.field_types import parse_duration
from multi_abnormality.config.schema import Data, load_params
from multi_abnormality.config.validation_errors import RENAMED
from multi_abnormality.utils.errors import InputError

DEFAULT = Path(__file__).parents[2] / "params.yaml"


def edited(folder: Path, *changes: tuple[str, str]) -> Path:
    text = DEFAULT.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def line(key: str) -> str:
    """The default's line of a key, without its indentation and comment."""
    lines = [text.partition("#")[0].strip() for text in DEFAULT.read_text().splitlines()]
    return next(text for text in lines if text.startswith(f"{key}:"))


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path):
    changes = (line("learning_rate"), "learning_rate: 1e-4"), (line("tolerance"), "tolerance: 2E-5")
    params = load_params(edited(tmp_path, *changes))
    assert params.train.learning_rate == 1e-4
    assert params.export.tolerance == 2e-5


def test_names_of_earlier_versions_are_errors_that_state_the_new_ones(tmp_path: Path):
    text = DEFAULT.read_text()
    for old, new in RENAMED.items():
        text, count = re.subn(rf"(?m)^  {new.split('.')[1]}:", f"  {old.split('.')[1]}:", text)
        assert count == 1, new
    text = text.replace("pooling: attention", "pooling: query").replace(
        "resume: auto", "resume: must"
    )
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_params(path)
    _, *errors = str(caught.value).splitlines()
    renamed = {f"  - {old}: unknown key; it is now {new}" for old, new in RENAMED.items()}
    assert renamed < set(errors)
    model, train = sorted(set(errors) - renamed)
    assert (model[:18], train[:18]) == ("  - model.pooling:", "  - train.resume: ")
    assert model.endswith("not 'query'; it is now attention")
    assert train.endswith("not 'must'; it is now required")


def test_on_is_a_word_as_in_yaml_1_2(tmp_path: Path):
    with pytest.raises(InputError, match=r"machine\.accelerator: .*'auto'.* not 'on'"):
        load_params(edited(tmp_path, (line("accelerator"), "accelerator: on")))


def test_all_errors_are_reported_at_once(tmp_path: Path):
    path = edited(
        tmp_path,
        (line("dropout"), "dropuot: 0.2"),
        (line("batch_size"), "batch_size: many"),
        (line("tolerance"), "tolerance: -1"),
        (line("pretrained"), "pretrained: 3"),
        ("[-200, 80]", "[-2000, 80]"),
        (line("workers"), "workers: -1"),
    )
    with pytest.raises(InputError) as caught:
        load_params(path)
    message = str(caught.value)
    assert str(path) in message
    for fault in (
        "model.dropuot: unknown key; did you mean dropout?",
        "model.dropout: is missing",
        "train.batch_size: must be a whole number, not 'many'",
        "export.tolerance: must be greater than 0, not -1",
        "model.pretrained: must be true or false or text, not 3",
        "preprocess.hu_to_uint8: must rise",
        "machine.workers: must be greater than or equal to 0 or 'auto', not -1",
    ):
        assert fault in message, message


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_time", "3", 'machine.max_time: must be a duration such as "5h30m", not 3\n'),
        ("backbone", "5", "model.backbone: must be text, not 5\n"),
        ("deterministic", "often", "train.deterministic: must be true or false, not 'often'"),
        ("dropout", "much", "model.dropout: must be a number, not 'much'"),
        ("loggers", "csv", "train.loggers: must be a list, not 'csv'"),
        ("formats", "[1]", "export.formats.0: must be 'pth', 'safetensors', 'pt2' or 'onnx'"),
    ],
)
def test_the_error_for_another_type_names_what_is_allowed(
    key: str, value: str, message: str, tmp_path: Path
):
    with pytest.raises(InputError) as caught:
        load_params(edited(tmp_path, (line(key), f"{key}: {value}")))
    assert message in f"{caught.value}\n"
    assert "valid" not in str(caught.value).partition("\n")[2]
    assert "at least" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a list", "preprocess: [", "seed: 0"])
def test_a_file_that_is_no_parameters(text: str, tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"params\.yaml"):
        load_params(path)


def test_a_stage_reports_it_without_a_traceback(tmp_path: Path):
    edited(tmp_path, (line("epochs"), "epochs: 0"))
    command = [sys.executable, "-m", "multi_abnormality.stages.preprocess"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "train.epochs: must be greater than 0, not 0" in done.stderr
    assert "Traceback" not in done.stderr


def test_durations_are_read_and_other_words_refused(tmp_path: Path):
    assert parse_duration("5h30m") == 19800
    assert parse_duration("1d2s") == 86402
    path = edited(tmp_path, (line("max_time"), "max_time: soon"))
    with pytest.raises(InputError, match=r"machine\.max_time: must be a duration such as"):
        load_params(path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("devices: 0", "machine.devices: must be greater than 0 or 'auto', not 0"),
        ("strategy: fsdp", "machine.strategy: must be 'auto' or 'ddp', not 'fsdp'"),
    ],
)
def test_invalid_devices_and_strategies_are_refused(change: str, fault: str, tmp_path: Path):
    with pytest.raises(InputError, match=re.escape(fault)):
        load_params(edited(tmp_path, (line(change.partition(":")[0]), change)))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            ("warmup_epochs: 1000",),
            "train.warmup_epochs: must be below train.schedule_epochs, not 1000",
        ),
        (
            ("pretrained: false", f"pretrained_sha256: {64 * 'a'}"),
            "model.pretrained_sha256: must be null, as model.pretrained is false: the weights are "
            f"random, not '{64 * 'a'}'",
        ),
        (
            ("pretrained: false", "fixed_input_size: true"),
            "model.pretrained_cfg_overlay: fixed_input_size must be null, as model.pretrained is",
        ),
        (
            ("mixup_prob: 0.7", "cutmix_prob: 0.4"),
            "train.cutmix_prob: must be at most 1 together with train.mixup_prob, not 0.4",
        ),
        (("seed: -1",), "seed: must be greater than or equal to 0, not -1"),
    ],
)
def test_values_that_exclude_each_other_are_errors(
    changes: tuple[str, ...], fault: str, tmp_path: Path
):
    path = edited(tmp_path, *((line(text.partition(":")[0]), text) for text in changes))
    with pytest.raises(InputError, match=re.escape(fault)):
        load_params(path)


@pytest.mark.parametrize("commit", ["f1b5246", '"1234567"', '"12e4567"', "0123456789" * 4])
def test_the_baseline_is_a_commit(commit: str, tmp_path: Path):
    text = f'"{commit}"' if commit.isdigit() else commit
    params = load_params(edited(tmp_path, (line("baseline"), f"baseline: {text}")))
    assert params.evaluate.baseline == commit.strip('"')
    assert load_params(DEFAULT).evaluate.baseline is None


@pytest.mark.parametrize(
    ("commit", "fault"),
    [
        ("HEAD", "as `git rev-parse --short HEAD` prints it: 7 to 40 hexadecimal digits"),
        ("main", "must be null or the hash of a commit or experiment"),
        ("f1b524", "as a number, not 'f1b524'"),
        ("f1b5246~1", "as a number, not 'f1b5246~1'"),
        ("0123456789" * 4 + "0", "as a number, not 123456789"),
        ("''", "as a number, not ''"),
        ("true", "as a number, not true"),
        ("1234567", "as a number, not 1234567; put it in quotes"),
        ("12e4567", "in quotes if YAML reads them as a number, not .inf"),
    ],
)
def test_a_baseline_that_is_no_hash_is_one_error(commit: str, fault: str, tmp_path: Path):
    """A name stands for another commit tomorrow, and then the report would be another one."""
    with pytest.raises(InputError) as caught:
        load_params(edited(tmp_path, (line("baseline"), f"baseline: {commit}")))
    _, error = str(caught.value).splitlines()
    assert error.startswith("  - evaluate.baseline: ")
    assert fault in error


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.7:8786", "tls://head-1.site:1", "ucx://[::1]:80"]
)
def test_the_address_of_a_dask_scheduler(address: str, tmp_path: Path):
    params = load_params(edited(tmp_path, (line("dask"), f'dask: "{address}"')))
    assert params.machine.dask == address


@pytest.mark.parametrize("address", ["head:8786", "tcp://head", "http://head:8786", "8786", "''"])
def test_invalid_addresses_of_a_dask_scheduler_are_errors(address: str, tmp_path: Path):
    path = edited(tmp_path, (line("dask"), f"dask: {address}"))
    with pytest.raises(
        InputError, match=r'machine\.dask: must be null or an address such as "tcp://host:8786"'
    ):
        load_params(path)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("windows", "[[-700, 0]]", "model.windows.0.1: must be greater than 0, not 0"),
        ("windows", "[-700]", "model.windows.0: must be a list, not -700"),
        ("multiscale", "[true]", "model.multiscale.0: must be a whole number, not true"),
        ("shape", "[9, 5, 5, 5]",
         "preprocess.shape: must have at most 3 entries, not [9, 5, 5, 5]"),
        ("spacing", "[0.01, 5, 5]",
         "preprocess.spacing.0: must be greater than or equal to 0.05, not 0.01"),
        ("formats", "onnx", "export.formats: must be a list, not 'onnx'"),
        ("evaluate", "5", "evaluate: must be a section with the keys threshold_metric, "
         "n_bootstrap, ci_level, baseline, not 5"),
        ("seed", "", "seed: must be a whole number, not null"),
        ("dropout", ".nan", "model.dropout: must be a finite number, not .nan"),
        ("compile", "yes", "train.compile: must be true or false, not 'yes'"),
        ("patient", "5", "data.columns.patient: must be a column's name, without invisible "
         "characters, not 5; put it in quotes"),
        ("scans", "2001-01-01", "data.scans: must be a path in data/, which DVC keeps track of, "
         "not 2001-01-01; put it in quotes"),
        ("seed", "0\n3: 4", "3: unknown key; known: seed, data, preprocess, model, train, "
         "evaluate, export, machine, backup"),
    ],
)  # fmt: skip
def test_errors_are_about_the_file_and_each_fault_is_one(
    key: str, value: str, error: str, tmp_path: Path
):
    path = tmp_path / "params.yaml"
    block = re.compile(rf"(?m)^( *){key}:.*(\n\1 .*)*")
    path.write_text(block.sub(rf"\g<1>{key}: {value}", DEFAULT.read_text(), count=1))
    with pytest.raises(InputError) as caught:
        load_params(path)
    assert str(caught.value).splitlines()[1:] == [f"  - {error}"]


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("  dropout:", "\tdropout:", "indent by spaces, not by tabs"),
        ("  dropout:", "   dropout:", "here or in the line above: align the keys of a section"),
        ("dropout:", "dropout", "put a colon and a space after each key"),
    ],
)
def test_an_error_of_yaml_has_the_line_and_a_fix(old: str, new: str, hint: str, tmp_path: Path):
    with pytest.raises(InputError, match=r"params.yaml: is not valid YAML: .*") as caught:
        load_params(edited(tmp_path, (old, new)))
    assert "in line " in str(caught.value)
    assert "unicode string" not in str(caught.value)
    assert hint in str(caught.value).splitlines()[-1]


def test_duplicate_keys_are_errors(tmp_path):
    path = edited(tmp_path, ("  epochs: ", "  epochs: 3\n  epochs: "))
    with pytest.raises(InputError, match=r'(?s)found duplicate key "epochs".*line \d+'):
        load_params(path)


@pytest.mark.parametrize(
    ("seed", "value"), [("010", 10), ("0o17", 15), ("0x1F", 31), ("0b11", 3), ("1_000", 1000)]
)
def test_integers_are_those_that_dvc_reads(seed: str, value: int, tmp_path: Path):
    assert load_params(edited(tmp_path, (line("seed"), f"seed: {seed}"))).seed == value


@pytest.mark.parametrize("seed", ["1:30", "2001-01-01", "0X1F", "1e3", "yes"])
def test_text_that_dvc_reads_as_no_number_is_text(seed: str, tmp_path: Path):
    path = edited(tmp_path, (line("seed"), f"seed: {seed}"))
    with pytest.raises(InputError, match=r"seed: must be a whole number"):
        load_params(path)


def test_text_in_another_encoding_is_named(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(DEFAULT.read_text(), encoding="utf-16")
    with pytest.raises(InputError, match=r"params.yaml: is not UTF-8 .*; save it as UTF-8"):
        load_params(path)


def own_table(folder: Path, values: str, *changes: tuple[str, str]) -> Path:
    """The default with a table of the user's own, and other lists of label values."""
    table = (line("table"), "table: labels.csv")
    lists = "positive: [1]\n    negative: [0]\n    uncertain: []"
    start, end = DEFAULT.read_text().index("positive: [1]"), DEFAULT.read_text().index("  scans: .")
    assert lists.split()[0] in DEFAULT.read_text()[start:end]
    replaced = DEFAULT.read_text()[start:end], f"{values}\n  uncertain: missing\n"
    return edited(folder, replaced, table, *changes)


def test_values_of_labels_are_words_as_in_the_table(tmp_path: Path):
    values = """positive: [1, 2.0, true, Ja, "3"]
    negative: [0, 0.5, nein, no]
    uncertain: [-1]
    missing: ["", null_, "n. a."]"""
    read = load_params(own_table(tmp_path, values)).data.values
    assert read.positive == ("1", "2", "TRUE", "Ja", "3")
    assert read.negative == ("0", "0.5", "nein", "no")
    assert read.uncertain == ("-1",)
    assert read.missing == ("", "null_", "n. a.")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("positive: [1, u, ja]\n    negative: [0]\n    uncertain: [u]\n    missing: [ja, '1.0']",
         "data.values: must have each value in one list, whatever its case: '1' is in positive "
         "and missing, 'u' is in positive and uncertain, 'ja' is in positive and missing"),
        ("positive: [ja]\n    negative: [JA]\n    uncertain: [k]\n    missing: ['']",
         "data.values: must have each value in one list, whatever its case: 'ja' or 'JA' is in "
         "positive and negative"),
        ("positive: []\n    negative: [0]\n    uncertain: []\n    missing: []",
         "data.values.positive: must have at least 1 entry, not []"),
        ("positive: [1]\n    negative: 0\n    uncertain: []\n    missing: []",
         "data.values.negative: must be a list of words and numbers, such as [1, ja], not 0"),
        ("positive: [1]\n    negative: [0]\n    uncertain: []\n    missing: [~, .nan]",
         "data.values.missing: must be words and numbers; YAML takes null, .nan for something"),
    ],
)  # fmt: skip
def test_wrong_values_of_labels_are_refused(tmp_path: Path, values: str, expected: str):
    with pytest.raises(InputError) as caught:
        load_params(own_table(tmp_path, values))
    assert f"  - {expected}" in str(caught.value)


def test_ct_rates_labels_have_values_of_their_own(tmp_path: Path):
    changes = (line("positive"), "positive: [1, yes]"), (line("sheet"), "sheet: Labels")
    with pytest.raises(InputError) as caught:
        load_params(edited(tmp_path, *changes))
    assert "data.values: must be positive: [1] and negative: [0], as long as" in str(caught.value)
    assert "data.sheet: must be null, as data.table is not an .xlsx file" in str(caught.value)


@pytest.mark.parametrize(
    ("folds", "fold", "fault"),
    [
        ("5", "5", "data.fold: must be 0 to 4, as data.folds is 5, not 5"),
        ("5", "null", "data.fold: must be 0 to 4, as data.folds is 5, not null"),
        ("null", "0", "data.fold: must be null, as data.folds is null, not 0"),
        ("1", "0", "data.folds: must be greater than or equal to 2, not 1"),
    ],
)
def test_folds_that_contradict_each_other(folds: str, fold: str, fault: str, tmp_path: Path):
    path = edited(tmp_path, ("folds: null", f"folds: {folds}"), ("fold: null", f"fold: {fold}"))
    with pytest.raises(InputError) as caught:
        load_params(path)
    assert str(caught.value).splitlines()[1:] == [f"  - {fault}"]


def test_preprocess_depends_on_all_data_parameters_but_the_fold():
    stages = yaml.safe_load((DEFAULT.parent / "dvc.yaml").read_text())["stages"]
    data = {f"data.{name}" for name in Data.model_fields}
    assert data - set(stages["preprocess"]["params"]) == {"data.fold"}
    assert "data.fold" in stages["train"]["params"]
