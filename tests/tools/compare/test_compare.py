"""Comparison of two revisions of a project, in real Git and DVC repositories."""

import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.utils.errors import InputError
from stand_in_project import Project

PROGRAM = ("python", "-m", "multi_abnormality", "compare", "--n-bootstrap", "100")


def test_compare_a_branch_with_an_experiment(original: Project):
    comparison = original.compare("main", "better")
    assert comparison["counts"]["scans"] == 60
    assert comparison["counts"]["patients"] == 30
    recorded = json.loads((original.folder / "metrics/evaluate.json").read_text())
    macro = comparison["macro"]
    for measure, value in recorded["classification"]["macro"].items():
        assert macro[measure]["a"] == value
    assert macro["crg"]["a"] == recorded["crg"]["CRG"]
    assert macro["auroc"]["difference"] > 0.05
    assert macro["auroc"]["p"] == pytest.approx(1 / 101)
    assert not comparison["same_predictions"]


@pytest.mark.parametrize("name", ["first", "main", "HEAD"])
def test_swapped_revisions_negate_the_differences(original: Project, name: str):
    there, back = original.compare(name, "better"), original.compare("better", name)
    for measure, scores in there["macro"].items():
        assert scores["difference"] == -back["macro"][measure]["difference"]
        assert scores["p"] == back["macro"][measure]["p"]
        high = back["macro"][measure]["interval"]["high"]
        assert scores["interval"]["low"] == pytest.approx(-high, abs=1e-12)


def test_compare_with_the_workspace(project: Project):
    comparison = project.compare("main", "workspace")
    assert comparison["same_predictions"]
    assert comparison["revisions"]["b"] == {"name": "workspace", "commit": None}
    assert {scores["p"] for scores in comparison["macro"].values()} == {1.0}
    project("dvc", "exp", "apply", "better")
    assert project.compare("better", "workspace")["same_predictions"]
    assert not project.compare("main", "workspace")["same_predictions"]


@pytest.mark.slow
def test_command_prints_tables_and_writes_json_and_svg(original: Project, tmp_path: Path):
    output = original(*PROGRAM, "main", "better", "--out", str(tmp_path / "out"))
    assert "60 scans of 30 patients" in output
    assert re.search(r"^AUROC +0\.\d{3}  0\.\d{3}  \+0\.\d{3}  \+0\.\d{3} to ", output, re.M)
    assert "B is better than A: macro AUROC +0." in output
    printed = output[: output.index("comparison.json")].splitlines()[:-1]  # without the log
    assert max(map(len, printed)) <= 100
    comparison = json.loads((tmp_path / "out/comparison.json").read_text())
    assert set(comparison["per_pathology"]) == set(FINDINGS)
    picture = (tmp_path / "out/comparison.svg").read_bytes()
    text = " ".join(ElementTree.fromstring(picture).itertext()).replace("\xa0", " ")
    assert all(finding in text for finding in FINDINGS)
    original(*PROGRAM, "main", "better", "--out", str(tmp_path / "again"))
    assert (tmp_path / "again/comparison.svg").read_bytes() == picture


def test_help_and_invalid_arguments(original: Project):
    assert "commit, DVC experiment, or workspace" in original(*PROGRAM, "--help")
    output = original(*PROGRAM, "main", "better", "--n-bootstrap", "0", ok=False)
    assert "'--n-bootstrap': Input should be greater than or equal to 1" in output


def test_dvc_plots_diff_overlays_two_revisions(original: Project):
    output = original("dvc", "plots", "diff", "main", "better", "--json")
    plots = json.loads(output[output.index("{") : output.rindex("}") + 1])["data"]
    assert set(plots) == {"ROC", "Precision-recall", "Reliability", "Loss", "Validation AUROC"}
    for name, drawn in plots.items():
        assert [one["revisions"] for one in drawn] == [["main", "better"]], name


def test_compare_does_not_change_the_project(original: Project):
    original.compare("main", "better")
    assert original("git", "status", "--porcelain") == ""
    assert "up to date" in original("dvc", "status")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("main", "nowhere"), "nowhere: unknown branch, .* `dvc exp pull origin NAME` an"),
        (("main", "HEAD"), r"main \(\w{7}\) and HEAD \(\w{7}\) are the same revision"),
        (("workspace", "workspace"), "are the same revision"),
        (("main", ""), "'': must be a branch"),
        (("empty", "main"), r"empty \(\w{7}\): has no scores .*`dvc repro`"),
    ],
)
def test_invalid_revisions_are_refused(original: Project, names: tuple[str, str], message: str):
    with pytest.raises(InputError, match=message):
        original.compare(*names)


@pytest.mark.slow
def test_common_scans_are_compared_and_changed_labels_are_refused(
    project: Project, caplog: pytest.LogCaptureFixture
):
    project.run_with("data", scans=80)
    with caplog.at_level(logging.WARNING, logger="multi_abnormality"):
        comparison = project.compare("first", "main")
    assert comparison["counts"]["scans"] == 60
    assert re.search(r"left out: 20 scans that main \(\w+\) was scored on, and first", caplog.text)
    project.run_with("data", seed=1)
    with pytest.raises(InputError, match="were scored on other labels"):
        project.compare("first", "main")


def test_missing_outputs_error_has_a_hint(project: Project):
    cache = project.folder / ".dvc/cache"
    cache.rename(cache.with_name("away"))
    with pytest.raises(InputError, match=r"submission\.json is neither .*`dvc remote add"):
        project.compare("main", "better")
    shutil.rmtree(project.folder / "processed")
    with pytest.raises(InputError, match=r"manifest\.csv: cannot be read .*`dvc pull`"):
        project.compare("workspace", "main")
    remote = project.folder.parent / "remote"
    remote.mkdir()
    url = os.path.relpath(remote, project.folder)
    project("dvc", "remote", "add", "--default", "--local", "backup", url)
    with pytest.raises(InputError, match=r"nor on the remote 'backup'; `dvc push --all-commits`"):
        project.compare("main", "better")


@pytest.mark.slow
def test_outputs_missing_in_the_cache_are_read_from_the_remote(project: Project):
    remote = project.folder.parent / "remote"
    url = os.path.relpath(remote, project.folder)
    project("dvc", "remote", "add", "--default", "--local", "backup", url)
    project("dvc", "exp", "branch", "better", "improved")
    project("dvc", "push", "--all-commits")
    wanted = project.compare("main", "improved")
    shutil.rmtree(project.folder / ".dvc/cache")
    assert project.compare("main", "improved") == wanted


@pytest.mark.parametrize("name", ["metrics/submission.json", "processed/manifest.csv"])
def test_a_damaged_object_of_the_cache_is_refused(project: Project, name: str):
    content = (project.folder / name).read_bytes()
    md5 = hashlib.md5(content).hexdigest()
    file = project.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    file.unlink()  # the work tree may have links to it
    file.write_bytes(content.replace(b"1", b"2"))
    message = rf"^main \(\w{{7}}\): {re.escape(name)} is damaged: .* delete {re.escape(str(file))}"
    with pytest.raises(InputError, match=message):
        project.compare("main", "workspace")


@pytest.mark.parametrize("name", ["metrics/submission.json", "processed/manifest.csv"])
def test_following_the_message_replaces_a_damaged_object_of_the_remote(
    project: Project, tmp_path: Path, name: str
):
    remote = tmp_path / "remote"
    remote.mkdir()
    project("dvc", "remote", "add", "--default", "--local", "backup", str(remote))
    project("dvc", "push", "--all-commits")
    md5 = hashlib.md5((project.folder / name).read_bytes()).hexdigest()
    file = remote / "files/md5" / md5[:2] / md5[2:]
    file.chmod(0o644)
    file.write_bytes(b"damaged")
    cache, away = project.folder / ".dvc/cache", tmp_path / "away"
    cache.rename(away)
    with pytest.raises(InputError, match=rf"{name} is damaged: .* delete .*`dvc push") as error:
        project.compare("first", "workspace")
    objects = re.search(r"delete (.*?)\. Then", str(error.value))[1].split(" and ")
    assert objects[0] == str(file)
    for path in objects:
        Path(path).unlink()
    away.rename(cache)
    project("dvc", "push", "--all-commits")
    cache.rename(away)
    assert project.compare("first", "workspace")["same_predictions"]


def test_predictions_that_do_not_match_the_scores_are_refused(project: Project):
    path = project.folder / "metrics/evaluate.json"
    recorded = json.loads(path.read_text())
    recorded["classification"]["macro"]["auroc"] += 0.01
    path.write_text(json.dumps(recorded))
    with pytest.raises(InputError, match=r"workspace: .*evaluate\.json has .* not made together"):
        project.compare("main", "workspace")


@pytest.mark.parametrize("damage", ["[]", "{", '{"predictions": [{"input_image_name": "a"}]}'])
def test_damaged_predictions_are_refused(project: Project, damage: str):
    path = project.folder / "metrics/submission.json"
    path.unlink()  # a link into the cache, maybe
    path.write_text(damage)
    with pytest.raises(InputError, match=r"workspace: .*submission\.json, .* cannot be read"):
        project.compare("main", "workspace")


def test_inconsistent_predictions_are_refused(project: Project):
    """Each error names the first few scans and their number."""
    path = project.folder / "metrics/submission.json"
    whole = json.loads(path.read_text())["predictions"]
    path.unlink()  # a link into the cache, maybe

    def refuse(rows: list[dict], message: str, hint: str = "run `dvc repro`") -> None:
        path.write_text(json.dumps({"predictions": rows}))
        with pytest.raises(InputError, match=f"workspace: {message}.*; {hint}"):
            project.compare("main", "workspace")

    twin = whole[0] | {"input_image_name": "valid_2_a_2"}
    some = ", ".join(row["input_image_name"] for row in whole[:5])
    short = [{**row, "probabilities": {**row["probabilities"]}} for row in whole]
    for row in short[:7]:
        del row["probabilities"]["Emphysema"]
    refuse(whole + whole[:7], rf".* has scans more than once \(7\): {some} and 2 more")
    refuse(whole[1:], r".* lacks scans of the test split \(1\): valid_1_a")
    refuse([*whole, twin], r".* has several reconstructions of scans \(1\): valid_2_a")
    unsure = [{**row, "probabilities": {**row["probabilities"]}} for row in whole]
    unsure[3]["probabilities"]["Emphysema"] = float("nan")
    refuse(unsure, r".*submission\.json, valid_2_b, Emphysema: nan", "every value must be finite")
    refuse(short, rf".* lacks the probability of 'Emphysema' for scans \(7\): {some} and 2 more")


def test_outside_a_project_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="not in a DVC project"):
        Project(tmp_path).compare("main", "better")
