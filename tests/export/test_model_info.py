"""model_info.json, in the form of MONAI's bundle metadata, and the model card."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.schema import Params
from multi_abnormality.data.preprocessing.input_range import InputRange
from multi_abnormality.evaluation.calibration import Calibration
from multi_abnormality.export import model_info_schema
from multi_abnormality.export.model_card import model_card
from multi_abnormality.export.model_info import model_info, running_info
from multi_abnormality.export.model_info_schema import described_scores
from multi_abnormality.models.factory import build_classifier
from multi_abnormality.models.pretrained_cfg import PretrainedCfg

ROOT = Path(__file__).parents[2]
# Of MONAI's meta_schema_20240725.json.
REQUIRED = {
    "schema", "version", "monai_version", "pytorch_version", "numpy_version",
    "required_packages_version", "task", "description", "authors", "copyright",
    "network_data_format",
}  # fmt: skip
REQUIRED_OF_A_TENSOR = {
    "type", "format", "num_channels", "spatial_shape", "dtype", "value_range",
}  # fmt: skip


@pytest.fixture(scope="module")
def scores() -> dict:
    return json.loads((ROOT / "metrics/evaluate.json").read_text())


@pytest.fixture(scope="module")
def describe(small_params: Params) -> Callable[[dict], model_info_schema.ModelInfo]:
    """Builds the model info of a small model with given scores."""
    about = {
        "findings": list(FINDINGS),
        "synthetic": False,
        "preprocess": small_params.preprocess.recipe.model_dump(mode="json"),
        "model": small_params.model.model_dump(mode="json"),
        "train": {"learning_rate": 1e-3, "debug": "none"},
        "volumes": {"train": ["a", "b"], "validation": ["c"]},
        "identity": {"seed": 0, "processed": "ab" * 32, "code": {"findings.py": "cd" * 32}},
    }
    running = running_info(about, InputRange(lung_share=(0.1, 0.6), length=(200, 500)))
    ones = np.ones(len(FINDINGS))
    positives = ones - (np.arange(len(FINDINGS)) == 2)
    calibration = Calibration(FINDINGS, ones, 0 * ones, positives, ones, ones / 4, "crg")
    return lambda scores, synthetic=False, debug="none", weights=None, **stated: model_info(
        about
        | {"synthetic": synthetic, "train": about["train"] | {"debug": debug}}
        | ({"pretrained_cfg": weights} if weights else {}),
        running | {"synthetic": synthetic},
        build_classifier(about),
        calibration,
        described_scores(scores),
        small_params.export.model_copy(update=stated),
        is_ct_rate=True,
        files_sha256={"model.onnx": "ef" * 32},
    )


def test_it_has_what_monai_requires_of_a_bundle(describe, scores: dict):
    info = describe(scores).content()
    assert set(info) >= REQUIRED
    for side, name, channels in (("inputs", "volume", 1), ("outputs", "probability", 18)):
        tensor = info["network_data_format"][side][name]
        assert set(tensor) >= REQUIRED_OF_A_TENSOR
        assert tensor["num_channels"] == channels == len(tensor["channel_def"])
    assert info["eval_metrics"]["auroc"] == scores["classification"]["macro"]["auroc"]
    assert info["evaluation"]["intervals"]["auroc"] == scores["intervals"]["macro"]["auroc"]
    assert list(info["evaluation"]["findings"]) == info["findings"] == list(FINDINGS)


def test_the_schema_file_is_up_to_date(tmp_path: Path):
    model_info_schema.write_schema(tmp_path / "written.json")
    assert model_info_schema.FILE.read_bytes() == (tmp_path / "written.json").read_bytes()


@pytest.mark.parametrize(("key", "value"), [("parameters", "many"), ("extra", 1), ("task", None)])
def test_content_is_validated_by_the_schema(describe, scores: dict, key: str, value: object):
    content = describe(scores).content()
    assert model_info_schema.ModelInfo.model_validate(content).content() == content
    with pytest.raises(ValidationError, match=key):
        model_info_schema.ModelInfo.model_validate(content | {key: value})


def test_the_card_has_the_same_scores_and_no_date(describe, scores: dict):
    card = model_card(describe(scores))
    auroc = scores["classification"]["macro"]["auroc"]
    interval = scores["intervals"]["macro"]["auroc"]
    assert f"| auroc | {auroc:.3f} | {interval['low']:.3f} to {interval['high']:.3f} |" in card
    assert all(f"| {finding} | " in card for finding in FINDINGS)
    assert not re.search(r"20\d\d-\d\d", card)
    assert model_card(describe(scores)) == card


def test_the_card_of_a_synthetic_model_begins_with_a_banner(describe, scores: dict):
    info = describe(scores, synthetic=True)
    assert info.synthetic
    assert "phantoms" in info.data_source
    assert info.intended_use.startswith("None.")
    card = model_card(info)
    assert "no clinical meaning" in card.split("\n", 3)[2]
    assert "no clinical meaning" not in model_card(describe(scores))


def test_the_card_names_pretrained_weights_and_warns_of_them(describe, scores: dict):
    cfg = PretrainedCfg(
        "test_vit", (1, 32, 32), (0.3,), (0.2,), source="owner/name", revision="c" * 40,
        sha256="5" * 64, license="cc-by-nc-sa-4.0", datasets=("ibrahimhamamci/CT-RATE",),
    )  # fmt: skip
    info = describe(scores, weights=cfg.to_dict())
    assert model_info_schema.ModelInfo.model_validate(info.content()) == info
    card = model_card(info)
    top, data = card.split("## Intended use")[0], card.split("## Data")[1]
    assert "> **The pretrained weights (owner/name) are licensed for non-commercial use" in top
    assert "> **The pretrained weights (owner/name) were trained on CT-RATE" in top
    assert f"owner/name, commit {'c' * 40},\nSHA-256 `{'5' * 64}`" in data
    assert "Licence of the weights: cc-by-nc-sa-4.0" in data
    assert "trained on CT-RATE, whose" not in model_card(
        describe(scores, synthetic=True, weights=cfg.to_dict())
    )
    plain = describe(scores)
    assert plain.pretrained_weights is None
    assert "pretrained" not in model_card(plain)


def test_owner_licence_and_contact_are_the_users(describe, scores: dict):
    stated = {"name": "Ours", "owner": "A | B", "license": "MIT", "contact": "a@example.org"}
    info = describe(scores, **stated)
    assert (info.name, info.authors, info.license, info.contact) == tuple(stated.values())
    card = model_card(info)
    assert card.startswith("# Ours\n")
    assert "| Owner | A \\| B |" in card
    silent = model_card(describe(scores))
    assert "| Owner | not stated |" in silent
    assert "maintainers" not in silent


def test_the_card_names_what_could_not_be_calibrated(describe, scores: dict):
    assert describe(scores).uncalibrated == [FINDINGS[2]]
    card = model_card(describe(scores))
    assert f"or without it: {FINDINGS[2]}." in card
    assert f"| {FINDINGS[2]} | \N{EN DASH} not calibrated | " in card


def test_a_debug_run_has_a_banner(describe, scores: dict):
    info = describe(scores, debug="fast_dev_run", synthetic=True)
    notice = "Debug run (train.debug: fast_dev_run): its scores mean nothing."
    assert info.debug == "fast_dev_run"
    assert info.intended_use.startswith(f"None. {notice} Trained on synthetic phantoms")
    assert f"> **{notice}**\n" in model_card(info)
    assert describe(scores).debug == "none"
    assert "Debug run" not in model_card(describe(scores))


def test_a_score_without_an_interval_says_why(describe, scores: dict):
    scores = json.loads(json.dumps(scores))
    scores["intervals"]["per_pathology"]["Emphysema"]["auroc"] = None
    assert re.search(
        r"\| Emphysema \| .* \| 0\.\d{3} \| interval not estimable: too few patients \|",
        model_card(describe(scores)),
    )


def test_without_any_positive_scan_recall_is_a_dash(describe, scores: dict):
    scores = json.loads(json.dumps(scores))
    scores["counts"]["positives"] = dict.fromkeys(scores["counts"]["positives"], 0)
    card = model_card(describe(scores))
    for name in ("precision", "recall", "f1"):
        assert f"| {name} | \N{EN DASH} | \N{EN DASH} |" in card
    assert re.search(r"\| accuracy \| 0\.\d", card)


def test_scores_that_are_undefined_are_dashes(describe, scores: dict):
    scores = json.loads(json.dumps(scores))
    scores["classification"]["per_pathology"]["Emphysema"]["auroc"] = None
    scores["intervals"]["per_pathology"]["Emphysema"]["auroc"] = None
    scores["groups"] = {}
    card = model_card(describe(scores))
    assert re.search(r"\| Emphysema \| 0.250 \| \d+ \| \N{EN DASH} \| \N{EN DASH} \|", card)
    assert "Scanners" not in card
