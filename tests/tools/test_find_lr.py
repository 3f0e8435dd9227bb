import contextlib
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from multi_abnormality.tools.find_lr import find_lr
from multi_abnormality.tools.find_lr_run import Step, range_test, suggest
from multi_abnormality.utils.errors import InputError


def curve(steps: int, noise: float, best: float | None = 1e-3, seed: int = 0) -> list[Step]:
    """Relative losses that fall fastest at `best`, and rise steeply at 30 times that; or never."""
    rng = np.random.default_rng(seed)
    rates = np.logspace(-6, 0, steps)
    losses = 1 + noise * rng.standard_normal(steps)
    if best is not None:
        decades = np.log10(rates / best)
        losses -= 0.1 / (1 + np.exp(-6 * decades))
        losses += np.maximum(0, decades - 1.5) ** 2
    return [Step(*map(float, row)) for row in zip(rates, 0.3 * losses, losses, strict=True)]


@pytest.mark.parametrize("best", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_the_suggestion_is_where_the_loss_falls_fastest(best: float, noise: float):
    """Also with as much noise as the sample's curves have."""
    for seed in range(10):
        assert best / 2 < suggest(curve(200, noise, best, seed)) < 2 * best


@pytest.mark.parametrize("steps", [50, 100, 200, 400])
def test_nothing_is_suggested_of_noise(steps: int):
    for seed in range(50):
        with pytest.raises(InputError, match=r"too noisy for a suggestion.*--steps to \d+ or more"):
            suggest(curve(steps, 0.01, None, seed))


def test_few_steps_give_the_same_suggestion_as_many_or_none():
    suggested = 0
    for seed in range(50):
        with contextlib.suppress(InputError):
            assert 1e-3 / 3 < suggest(curve(60, 0.01, seed=seed)) < 3e-3
            suggested += 1
    assert suggested < 50


def test_a_loss_that_runs_away_at_once_gives_no_suggestion():
    with pytest.raises(InputError, match=r"--from: at 1\.0e\+20 .* lower first rate"):
        suggest([Step(1e20, 0.39, 1.0), Step(6.2e20, math.nan, math.nan)])


def test_a_loss_that_is_lost_in_the_end_leaves_the_suggestion_as_it_is():
    found = curve(200, 0.01)
    assert suggest([*found, Step(1.0, math.nan, math.nan)]) == suggest(found)


def test_the_loss_is_followed_until_it_runs_away(small_set, small_params):
    found = range_test(small_params, small_set, 1e-6, 100.0, steps=40)
    rates, losses = zip(*((step.rate, step.loss) for step in found), strict=True)
    assert list(rates) == sorted(rates)
    assert rates[0] == pytest.approx(1e-6)
    assert len(found) < 40
    assert losses[-1] > 1.5 * min(losses)
    assert range_test(small_params, small_set, 1e-6, 100.0, steps=40) == found


def test_it_calculates_as_training_will(small_set, small_params):
    train = small_params.train.model_copy(update={"precision": "bfloat16"})
    mixed = small_params.model_copy(update={"train": train})
    found = [range_test(params, small_set, 1e-5, 1e-3, 20) for params in (small_params, mixed)]
    exact, rounded = ([step.loss for step in steps] for steps in found)
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05)


def test_it_is_the_first_to_import_what_it_needs():
    """In a process of its own: the tests' imports have patched torchvision already."""
    program = "import multi_abnormality.tools.find_lr_run"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def project(small_set, small_params, tmp_path, monkeypatch, caplog) -> Path:
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "processed").symlink_to(small_set.root)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small_params.model_dump(mode="json")))
    return tmp_path


@pytest.mark.slow
def test_it_writes_every_step_and_suggests_one(project, capsys, caplog):
    find_lr(1e-4, 1.0, 400)
    header, *rows = (project / "learning_rates.csv").read_text().splitlines()
    assert header == "learning_rate,loss,relative_loss"
    assert float(rows[0].split(",")[0]) == pytest.approx(1e-4)
    assert 50 < len(rows) < 400
    assert "1.0e-04" in capsys.readouterr().out
    assert re.search(r"the loss fell fastest at \d\.\de-0[123] ", caplog.text)
    assert "(train.learning_rate is 1.0e-03)" in caplog.text


def test_it_keeps_the_curve_of_which_it_suggests_nothing(project, capsys):
    """At rates that change nothing."""
    with pytest.raises(InputError, match="--steps: 50 steps are too noisy"):
        find_lr(1e-9, 1e-7, 50)
    assert len((project / "learning_rates.csv").read_text().splitlines()) == 51
    assert "1.0e-09" in capsys.readouterr().out


def test_more_volumes_in_a_batch_than_there_are_is_an_error(small_set, small_params):
    train = small_params.train.model_copy(update={"batch_size": 100})
    with pytest.raises(InputError, match=r"train\.batch_size: 100 is more than"):
        range_test(small_params.model_copy(update={"train": train}), small_set, 1e-6, 1.0, 50)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--steps", "49"), "'--steps': Input should be greater than or equal to 50"),
        (("--from", "0"), "--from: must be more than 0 and less than --to"),
        (("--from", "1e-3", "--to", "1e-4"), "--from: must be more than 0 and less than --to"),
    ],
)
def test_what_is_no_range_is_refused(wrong, message):
    command = [sys.executable, "-m", "multi_abnormality", "find-lr", *wrong]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
