"""Pretrained weights: the input that they get, where they come from, and what pins them."""

import dataclasses
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants

from hub_encoder import (
    CARD,
    CONFIG,
    REPO,
    direct,
    encoder_settings,
    make_repository,
    save_weights,
)
from hub_stand_in import COMMIT, Fault, HubStandIn
from multi_abnormality.config.schema import Model, Params, PretrainedCfgOverlay
from multi_abnormality.models.backbones import fit_size
from multi_abnormality.models.factory import build_classifier
from multi_abnormality.models.pretrained_cfg import (
    PretrainedCfg,
    weights_facts,
    weights_warnings,
)
from multi_abnormality.models.pretrained_weights import find_pretrained
from multi_abnormality.utils.errors import InputError

NORMALIZED = {  # mean and std of ImageNet, by channels of the input
    1: ([0.449], [0.226]),
    2: ([0.485, 0.456], [0.229, 0.224]),
    3: ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    9: ([0.485, 0.456, 0.406] * 3, [0.229, 0.224, 0.225] * 3),
}

UNKNOWN = "not known; apache-2.0 by the configuration"  # of a card that cannot be read


@pytest.fixture
def settings(small_params: Params) -> Model:
    return small_params.model


def metadata(params: Params, model: Model, cfg: PretrainedCfg | None) -> dict[str, Any]:
    described = {
        "findings": ["Emphysema", "Cyst"],
        "preprocess": params.preprocess.recipe.model_dump(mode="json"),
        "model": model.model_dump(mode="json"),
    }
    return described | ({"pretrained_cfg": cfg.to_dict()} if cfg else {})


@pytest.mark.parametrize("channels", NORMALIZED)
def test_slices_enter_the_backbone_normalized_as_it_was_trained(
    channels: int, small_params: Params, settings: Model, tmp_path: Path
):
    windows = ((-700.0, 600.0), (40.0, 400.0), (900.0, 2200.0))[: min(channels, 3)]
    adjacent = 3 if channels == 9 else 1
    path = save_weights(tmp_path / "weights.safetensors", "test_efficientnet")
    chosen = {"pretrained": str(path), "windows": windows, "adjacent_slices": adjacent}
    model = settings.model_copy(update=chosen)
    cfg, file = find_pretrained(model)
    classifier = build_classifier(metadata(small_params, model, cfg), file).eval()
    entered: list[torch.Tensor] = []
    classifier.encoder.backbone.conv_stem.register_forward_pre_hook(
        lambda _, given: entered.append(given[0])
    )
    codes = torch.randint(0, 256, (2, *small_params.preprocess.shape), dtype=torch.uint8)
    classifier(codes)
    hu = classifier.windows.code_table[codes.long()]
    index = torch.arange(hu.shape[1])[:, None] + torch.arange(adjacent) - adjacent // 2
    hu = hu[:, index.clamp(0, hu.shape[1] - 1)]  # (N, Z, adjacent, Y, X)
    scaled = torch.stack([(hu - centre + width / 2) / width for centre, width in windows], dim=3)
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALIZED[channels])
    expected = (scaled.clamp(0, 1).flatten(2, 3).flatten(0, 1) - mean) / std
    torch.testing.assert_close(entered[0], expected, rtol=0, atol=2e-6)


def test_padding_of_slices_is_air(small_params: Params, settings: Model, tmp_path: Path):
    path = save_weights(tmp_path / "weights.safetensors", "test_vit")
    overlay = PretrainedCfgOverlay(mean=(0.25, 0.5, 0.75), std=(0.5, 0.25, 0.125))
    chosen = {"backbone": "test_vit", "pretrained": str(path), "adjacent_slices": 1}
    model = settings.model_copy(
        update=chosen | {"multiscale": False, "pretrained_cfg_overlay": overlay}
    )
    shape = small_params.preprocess.model_copy(update={"shape": (4, 40, 40)})
    params = small_params.model_copy(update={"preprocess": shape})
    classifier = build_classifier(metadata(params, model, *find_pretrained(model)[:1])).eval()
    entered: list[torch.Tensor] = []
    classifier.encoder.backbone.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    classifier(torch.full((1, 4, 40, 40), 255, dtype=torch.uint8))
    assert entered[0].shape[2:] == (48, 48)
    torch.testing.assert_close(entered[0][0, :, 0, 0], torch.tensor([-0.5, -2.0, -6.0]))
    torch.testing.assert_close(entered[0][0, :, 24, 24], torch.tensor([1.5, 2.0, 2.0]))


def test_random_weights_get_minus_one_to_one(small_params: Params, settings: Model):
    assert find_pretrained(settings) == (None, None)
    classifier = build_classifier(metadata(small_params, settings, None))
    assert classifier.encoder.normalization is None
    assert not [name for name in classifier.state_dict() if "normalization" in name]


def test_weights_are_never_read_with_another_normalization(
    small_params: Params, settings: Model, tmp_path: Path
):
    path = save_weights(tmp_path / "weights.safetensors", "test_efficientnet")
    model = settings.model_copy(update={"pretrained": str(path)})
    cfg, file = find_pretrained(model)
    now = build_classifier(metadata(small_params, model, cfg), file)
    before = build_classifier(metadata(small_params, model, None))  # as before it was recorded
    with pytest.raises(RuntimeError, match=r"encoder\.normalization\.mean"):
        before.load_state_dict(now.state_dict())
    with pytest.raises(RuntimeError, match=r"encoder\.normalization\.mean"):
        now.load_state_dict(before.state_dict())


# The hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    with HubStandIn(make_repository(tmp_path / "repository"), REPO) as stand_in:
        direct(monkeypatch, stand_in.port, tmp_path / "cache")
        yield stand_in


def on_hub(settings: Model, revision: str = COMMIT, **changes: Any) -> Model:
    return settings.model_copy(update=encoder_settings(revision) | changes)


def with_slices(params: Params, size: int) -> Params:
    shape = params.preprocess.model_copy(update={"shape": (4, size, size)})
    return params.model_copy(update={"preprocess": shape})


def test_a_one_channel_encoder_of_the_hub(hub: HubStandIn, small_params: Params, settings: Model):
    model, params = on_hub(settings, "main"), small_params
    cfg, file = find_pretrained(model)
    assert (cfg.source, cfg.revision, cfg.license) == (REPO, COMMIT, "cc-by-nc-sa-4.0")
    assert (list(cfg.mean), list(cfg.std)) == ([0.3], [0.2])
    assert cfg.datasets == ["ibrahimhamamci/CT-RATE"]
    about = metadata(params, model, cfg)
    classifier = build_classifier(about, file).eval()
    weights = safetensors.torch.load_file(hub.folder / "model.safetensors")
    loaded = classifier.encoder.backbone.state_dict()
    torch.testing.assert_close(loaded, {name: weights[name] for name in loaded})
    entered: list[torch.Tensor] = []
    classifier.encoder.backbone.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    classifier(torch.zeros((1, 8, 32, 32), dtype=torch.uint8))
    assert entered[0].shape == (8, 1, 32, 32)
    torch.testing.assert_close(entered[0], torch.full_like(entered[0], -0.3 / 0.2))
    hub.calls.clear()
    restored = build_classifier(json.loads(json.dumps(about)))  # as from a checkpoint
    restored.load_state_dict(classifier.state_dict())
    assert find_pretrained(on_hub(settings)).cfg == cfg  # the commit is in the cache
    assert hub.calls == []


@pytest.mark.usefixtures("hub")
def test_slices_must_have_a_fixed_input_size(small_params: Params, settings: Model):
    model, params = on_hub(settings), with_slices(small_params, 64)
    cfg, file = find_pretrained(model)
    expected = (
        r"fixed_input_size of 32, 32, but slices have 64 x 64.*last two of preprocess\.shape to "
        r"32, 32, or .*fixed_input_size to false"
    )
    with pytest.raises(InputError, match=expected):
        build_classifier(metadata(params, model, cfg), file)
    overlay = PretrainedCfgOverlay(fixed_input_size=False, mean=(0.5,))
    cfg, file = find_pretrained(on_hub(settings, pretrained_cfg_overlay=overlay))
    assert list(cfg.mean) == [0.5]
    adapted = build_classifier(metadata(params, model, cfg), file)
    adapted(torch.zeros((1, 4, 64, 64), dtype=torch.uint8))


def test_wrong_configuration_names_the_key_to_overlay(hub: HubStandIn, settings: Model):
    content = json.loads(json.dumps(CONFIG))
    content["pretrained_cfg"]["std"] = [0.0]
    (hub.folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"std .* must be from 1e-06 to 1; set .*overlay\.std"):
        find_pretrained(on_hub(settings))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no JSON", r"config\.json is not a configuration of timm's"),
        ('{"architecture": "resnet99x", "pretrained_cfg": {}}', "timm has no 'resnet99x'"),
        (
            '{"architecture": "test_vit", "pretrained_cfg": {}, '
            '"model_args": {"checkpoint_path": "/etc/passwd"}}',
            "must not set checkpoint_path",
        ),
        ('{"a":' * 100_000, r"config\.json is not a configuration of timm's"),
        ('{"architecture": 5, "pretrained_cfg": {}}', "timm has no '5'"),
    ],
)
def test_invalid_configurations_are_refused(
    text: str, expected: str, hub: HubStandIn, settings: Model
):
    (hub.folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=expected):
        find_pretrained(on_hub(settings))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"mean": [123.675]}, r"mean .*: divide by 255; set .*overlay\.mean"),
        ({"std": [58.4]}, r"std .*: divide by 255; set .*overlay\.std"),
        ({"mean": [-0.1]}, r"mean .* must be from 0 to 1"),
        ({"mean": [float("nan")]}, r"mean .* must be from 0 to 1"),
        ({"std": [1e-300]}, r"std .* must be from 1e-06 to 1"),
        ({"mean": []}, r"mean .* must have 1 numbers"),
        ({"mean": [0.1] * 5}, r"mean .* must have 1 numbers"),
        ({"mean": [True]}, r"mean .* must be a list of numbers"),
        (
            {"input_size": [1, 32.5, 32], "fixed_input_size": False},
            r"input_size .* must be three positive integers",
        ),
        ({"fixed_input_size": "false"}, r"fixed_input_size .* must be true or false"),
    ],
)
def test_input_that_cannot_be_meant_is_refused(
    change: dict[str, Any], expected: str, settings: Model, tmp_path: Path
):
    folder = make_repository(tmp_path / "copied")
    content = CONFIG | {"pretrained_cfg": CONFIG["pretrained_cfg"] | change}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=expected):
        find_pretrained(on_hub(settings, pretrained=str(folder)))


@pytest.mark.parametrize("wrong", [{"global_pool": "nonsense"}, {"act_layer": "nope"}])
def test_arguments_that_the_network_does_not_take(
    wrong: dict[str, str], small_params: Params, settings: Model, tmp_path: Path
):
    folder = make_repository(tmp_path / "copied")
    content = CONFIG | {"model_args": CONFIG["model_args"] | wrong}
    (folder / "config.json").write_text(json.dumps(content))
    model = on_hub(settings, pretrained=str(folder))
    cfg, file = find_pretrained(model)
    with pytest.raises(InputError, match=r"test_vit does not take the arguments"):
        build_classifier(metadata(small_params, model, cfg), file)


def test_a_network_that_timm_cannot_create_is_named_without_arguments(monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("no such layer")

    monkeypatch.setattr(timm, "create_model", fail)
    message = r"test_vit cannot be created \(RuntimeError.*no such layer.*\); choose another$"
    with pytest.raises(InputError, match=message):
        fit_size("test_vit", None, {})


def test_other_bytes_than_the_hub_lists_are_refused(hub: HubStandIn, settings: Model):
    hub.set_faults(Fault("wrong", "safetensors", times=1))
    with pytest.raises(InputError, match=r"served other bytes for model\.safetensors"):
        find_pretrained(on_hub(settings))
    assert find_pretrained(on_hub(settings)).cfg  # the wrong file is not used again


def test_other_bytes_than_the_pinned_ones_are_refused(
    hub: HubStandIn, settings: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cfg = find_pretrained(on_hub(settings)).cfg
    torch.manual_seed(2)
    other = timm.create_model("test_vit", in_chans=1, img_size=32, num_classes=0).state_dict()
    safetensors.torch.save_file(other, hub.folder / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another machine's cache"))
    with pytest.raises(InputError, match=r"checkpoints/ names [0-9a-f]{64}: the hub serves other"):
        find_pretrained(on_hub(settings), recorded=cfg)
    with pytest.raises(InputError, match=r"model\.pretrained_sha256: is [0-9a-f]{64}, but"):
        find_pretrained(on_hub(settings, pretrained_sha256=cfg.sha256))


def test_cached_weights_of_a_commit_need_no_hub(
    hub: HubStandIn, settings: Model, monkeypatch: pytest.MonkeyPatch, caplog
):
    (hub.folder / "README.md").unlink()
    downloaded = find_pretrained(on_hub(settings))
    unknown = {"license": UNKNOWN, "datasets": ["not known"]}
    downloaded = downloaded._replace(cfg=dataclasses.replace(downloaded.cfg, **unknown))
    with socket.create_server(("127.0.0.1", 0)) as server:
        direct(monkeypatch, server.getsockname()[1], Path(constants.HF_HUB_CACHE))
    assert find_pretrained(on_hub(settings)) == downloaded
    assert "licence and training data of the weights are not known" in caplog.text
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_pretrained(on_hub(settings)) == downloaded


def test_a_branch_that_moved_stays_at_the_recorded_commit(hub: HubStandIn, settings: Model):
    cfg = find_pretrained(on_hub(settings, "main")).cfg
    hub.commit = "f" * 40
    assert find_pretrained(on_hub(settings, "main"), recorded=cfg).cfg == cfg


@pytest.mark.parametrize(
    ("access", "model", "expected"),
    [
        ("unaccepted", f"hf-hub:{REPO}@main", r"is gated, private or missing \(403\)\. Log in at"),
        ("open", f"hf-hub:{REPO}@nothing", "has no revision 'nothing'"),
        ("open", "hf-hub:Unknown-Lab/nothing@main", r"is gated, private or missing \(404\)"),
    ],
)
def test_refusals_of_the_hub_are_explained(
    access: str, model: str, expected: str, hub: HubStandIn, settings: Model
):
    hub.access = access
    with pytest.raises(InputError, match=expected):
        find_pretrained(on_hub(settings, backbone=model))


@pytest.mark.parametrize("hub_state", ["refuses", "is silent", "is broken", "is offline"])
def test_an_unreachable_hub_is_one_message(
    hub_state: str, settings: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "set")
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server, HubStandIn(tmp_path, REPO) as stand_in:
        port = server.getsockname()[1]
        if hub_state == "refuses":
            server.close()
        if hub_state == "is broken":
            stand_in.set_faults(Fault("unavailable"))
            port = stand_in.port
            (tmp_path / "config.json").write_text("{}")
        direct(monkeypatch, port, tmp_path / "cache")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", hub_state == "is offline")
        with pytest.raises(InputError) as error:
            find_pretrained(on_hub(settings))
        assert len(stand_in.calls) <= 3  # no retries
    longer = ", with HF_HUB_ETAG_TIMEOUT set to more seconds" if hub_state == "is silent" else ""
    first = "; unset it" if hub_state == "is offline" else f"); try again{longer}"
    copy = f"{first}. Or run `hf download {REPO} --revision {COMMIT} --local-dir weights`"
    assert copy in str(error.value)
    assert "set model.pretrained to its path" in str(error.value)


@pytest.mark.parametrize("status", [200, 429, 503])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_is_missing_only_if_the_hub_answers_so(
    name: str, status: int, hub: HubStandIn, settings: Model
):
    (hub.folder / "pytorch_model.bin").write_bytes(b"other weights")
    hub.later_heads = {name: status}
    reason = "does not have an ETag" if status == 200 else f"status {status}"
    with pytest.raises(
        InputError, match=rf"cannot be downloaded from .* \(.*{reason}.*\); try again\. Or"
    ):
        find_pretrained(on_hub(settings))
    assert len([call for call in hub.calls if call.status == status > 200]) <= 2  # no retries


@pytest.mark.parametrize("kind", ["silent", "busy", "unavailable"])
def test_a_download_without_data_is_one_message(
    kind: str, hub: HubStandIn, settings: Model, monkeypatch: pytest.MonkeyPatch, caplog
):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "set")
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    hub.set_faults(Fault(kind, "safetensors", after=2))
    with pytest.raises(InputError, match=r"cannot be downloaded from .* Or run `hf download"):
        find_pretrained(on_hub(settings))
    assert constants.HF_HUB_DOWNLOAD_TIMEOUT == 0.5
    assert not [record for record in caplog.records if record.name.startswith("huggingface")]


def test_the_download_timeout_is_the_users(
    hub: HubStandIn, settings: Model, monkeypatch: pytest.MonkeyPatch
):
    hub.set_faults(Fault("silent", "safetensors", after=2, times=1))
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "set")
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    with pytest.raises(InputError, match=r"no data in \d s; set HF_HUB_DOWNLOAD_TIMEOUT"):
        find_pretrained(on_hub(settings))
    hub.set_faults(Fault("silent", "safetensors", after=2, times=1))
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "set")
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 10)
    assert find_pretrained(on_hub(settings)).file


@pytest.mark.parametrize("is_disabled", [False, True])
def test_a_download_leaves_the_settings_of_huggingface_hub(
    is_disabled: bool, hub: HubStandIn, settings: Model, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", is_disabled)
    before = dict(vars(constants))
    hub.set_faults(Fault("unavailable", "safetensors", times=1))
    with pytest.raises(InputError):
        find_pretrained(on_hub(settings))
    assert vars(constants) == before
    find_pretrained(on_hub(settings))
    assert vars(constants) == before


def test_a_download_that_breaks_is_tried_again(hub: HubStandIn, settings: Model, caplog):
    hub.set_faults(Fault("cut", "safetensors", after=1 << 16, times=1))
    assert find_pretrained(on_hub(settings)).file
    assert caplog.text == ""


def test_a_copied_folder_replaces_the_hub(hub: HubStandIn, settings: Model):
    downloaded = find_pretrained(on_hub(settings)).cfg
    hub.calls.clear()
    copied = find_pretrained(on_hub(settings, pretrained=str(hub.folder))).cfg
    assert hub.calls == []
    same = ("architecture", "mean", "std", "sha256", "license", "datasets")
    assert [getattr(copied, key) for key in same] == [getattr(downloaded, key) for key in same]
    (hub.folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"has no .*config\.json; add the repository's"):
        find_pretrained(on_hub(settings, pretrained=str(hub.folder / "model.safetensors")))


def test_weights_of_timm_come_from_its_repository(hub: HubStandIn, settings: Model):
    hub.repo = timm.get_pretrained_cfg("test_efficientnet").hf_hub_id
    save_weights(hub.folder / "model.safetensors", "test_efficientnet")
    cfg, file = find_pretrained(settings.model_copy(update={"pretrained": True}))
    assert (cfg.source, cfg.revision) == (hub.repo, COMMIT)
    assert file.name == "model.safetensors"
    assert list(cfg.mean) == [0.485, 0.456, 0.406]


def test_weights_known_to_have_seen_ct_rate_need_not_state_it(hub: HubStandIn, settings: Model):
    (hub.folder / "README.md").unlink()
    known = "hf-hub:Kentucky-Open-Science/DALE-CT-0-L@main"
    cfg = find_pretrained(on_hub(settings, backbone=known, pretrained=str(hub.folder))).cfg
    assert cfg.has_seen_ct_rate


def test_missing_weights_are_refused(settings: Model, tmp_path: Path):
    for path, expected in ((tmp_path / "absent.pth", "file not found"), (tmp_path, "has no model")):
        with pytest.raises(InputError, match=rf"model\.pretrained: .*{expected}"):
            find_pretrained(settings.model_copy(update={"pretrained": str(path)}))


@pytest.mark.parametrize(
    ("card", "licence", "datasets"),
    [
        (b"license: [cc-by-nc-4.0]\ndatasets: 5", "cc-by-nc-4.0", ["5"]),
        (b"license: [mit, apache-2.0]", "mit, apache-2.0", []),
        (b"license: other\nlicense_link: TERMS", "other, see TERMS", []),
        (b"license: other\nlicense_name: Own", "Own", []),
        (b"license: other", "other", []),
        (b"license: 3", "3", []),
        (b"datasets: {a: b}", "apache-2.0", ["{'a': 'b'}"]),
        (b"license: mit\n---\n\xff\xfe", UNKNOWN, ["not known"]),
        (b"license: [", UNKNOWN, ["not known"]),
    ],
)
def test_what_a_model_card_states_is_kept(
    card: bytes, licence: str, datasets: list[str], settings: Model, tmp_path: Path, caplog
):
    folder = make_repository(tmp_path / "copied")
    (folder / "README.md").write_bytes(b"---\n" + card + b"\n---\n")
    cfg = find_pretrained(on_hub(settings, pretrained=str(folder))).cfg
    assert (cfg.license, cfg.datasets) == (licence, datasets)
    assert ("are not known" in caplog.text) == (licence == UNKNOWN)


@pytest.mark.parametrize(("stated", "licence"), [(3, "3"), (["cc-by-nc-4.0"], "cc-by-nc-4.0")])
def test_the_licence_of_a_configuration(
    stated: object, licence: str, settings: Model, tmp_path: Path
):
    folder = make_repository(tmp_path / "copied")
    (folder / "README.md").unlink()
    content = CONFIG | {"pretrained_cfg": CONFIG["pretrained_cfg"] | {"license": stated}}
    (folder / "config.json").write_text(json.dumps(content))
    cfg = find_pretrained(on_hub(settings, pretrained=str(folder))).cfg
    assert weights_facts(cfg)["Licence of the weights"] == licence


def test_a_file_has_the_model_card_beside_it(settings: Model, tmp_path: Path):
    file = make_repository(tmp_path / "copied") / "model.safetensors"
    cfg = find_pretrained(on_hub(settings, pretrained=str(file))).cfg
    assert f"license: {cfg.license}" in CARD
    assert cfg.has_seen_ct_rate


@pytest.mark.parametrize("name", ["a/CT-RATE", "CT_RATE", "ct rate", "a/CT-RATE-v2"])
def test_ct_rate_is_recognized(name: str):
    assert PretrainedCfg("x", (1, 8, 8), (0,), (1,), datasets=[name]).has_seen_ct_rate
    assert not PretrainedCfg("x", (1, 8, 8), (0,), (1,), datasets=["direct-rate"]).has_seen_ct_rate


def test_licence_and_training_data_are_warned_about():
    cfg = PretrainedCfg("test_vit", (1, 8, 8), (0.5,), (0.5,), sha256="0" * 64)
    assert weights_warnings(cfg, scores_ct_rate=True) == []
    assert weights_facts(cfg)["Licence of the weights"] == "not stated"
    stated = PretrainedCfg(
        "test_vit", (1, 8, 8), (0.5,), (0.5,), sha256="0" * 64, source="a/b",
        license="cc-by-nc-sa-4.0", datasets=["ibrahimhamamci/CT-RATE"],
    )  # fmt: skip
    noncommercial, seen = weights_warnings(stated, scores_ct_rate=True)
    assert "non-commercial use only (cc-by-nc-sa-4.0)" in noncommercial
    assert "were trained on CT-RATE, whose test split is scored here" in seen
    assert weights_warnings(stated, scores_ct_rate=False) == [noncommercial]
    for free in ("apache-2.0", "mit", "dinov3-license", "bsd-3-clause", "Academic Free License"):
        assert not PretrainedCfg("x", (1, 8, 8), (0,), (1,), license=free).is_noncommercial
    restricted = (
        "cc-by-nc-4.0", "fair-noncommercial-research-license", "apple-amlr", "CC BY_NC",
        "Research use only", "academic-only", "only for academic use",
    )  # fmt: skip
    for name in restricted:
        assert PretrainedCfg("x", (1, 8, 8), (0,), (1,), license=name).is_noncommercial
