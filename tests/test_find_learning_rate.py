import math
import subprocess
import sys

import pytest
import yaml

from multi_abnormality.errors import InputError
from multi_abnormality.find_learning_rate import __main__ as program
from multi_abnormality.find_learning_rate.range_test import range_test, suggest


def test_the_suggestion_is_where_the_loss_falls_fastest():
    rates = [10 ** (-6 + step / 20) for step in range(100)]
    found = [(rate, 1 / (1 + math.exp(3 * (math.log10(rate) + 3)))) for rate in rates]
    assert suggest(found) == pytest.approx(1e-3, rel=0.2)


def test_a_loss_that_runs_away_at_once_gives_no_suggestion():
    with pytest.raises(InputError, match=r"--from: at 1\.0e\+20 .* lower first rate"):
        suggest([(1e20, 0.39), (6.2e20, math.nan)])


def test_a_loss_that_is_lost_in_the_end_leaves_the_suggestion_as_it_is():
    rates = [10 ** (-6 + step / 20) for step in range(100)]
    found = [(rate, 1 / (1 + math.exp(3 * (math.log10(rate) + 3)))) for rate in rates]
    assert suggest([*found, (1.0, math.nan)]) == suggest(found)


def test_the_loss_is_followed_until_it_runs_away(small_set, small_params):
    found = range_test(small_params, small_set, 1e-6, 100.0, steps=40)
    rates, losses = zip(*found, strict=True)
    assert list(rates) == sorted(rates)
    assert rates[0] == pytest.approx(1e-6)
    assert len(found) < 40
    assert losses[-1] > 1.5 * min(losses)
    assert range_test(small_params, small_set, 1e-6, 100.0, steps=40) == found


def test_it_calculates_as_training_will(small_set, small_params):
    train = small_params.train.model_copy(update={"precision": "bfloat16"})
    mixed = small_params.model_copy(update={"train": train})
    found = [range_test(params, small_set, 1e-5, 1e-3, 20) for params in (small_params, mixed)]
    exact, rounded = ([loss for _, loss in losses] for losses in found)
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05)


def test_it_is_the_first_to_import_what_it_needs():
    """Here the tests' own imports would have mended torchvision before."""
    program = "import multi_abnormality.find_learning_rate.range_test"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_writes_every_step_and_suggests_one(
    small_set, small_params, tmp_path, monkeypatch, capsys, caplog
):
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "processed").symlink_to(small_set.root)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small_params.model_dump(mode="json")))
    monkeypatch.setattr(sys, "argv", ["", "--from", "1e-5", "--to", "1e-2", "--steps", "20"])
    program.main()
    header, *rows = (tmp_path / "learning_rates.csv").read_text().splitlines()
    assert header == "learning_rate,loss"
    assert [float(rows[place].split(",")[0]) for place in (0, -1)] == pytest.approx([1e-5, 1e-2])
    assert len(rows) == 20
    assert "1.0e-05" in capsys.readouterr().out
    assert "the loss fell fastest at" in caplog.text
    assert "(train.learning_rate is 1.0e-03)" in caplog.text


@pytest.mark.parametrize(
    "wrong", [("--steps", "19"), ("--from", "0"), ("--from", "1e-3", "--to", "1e-4")]
)
def test_what_is_no_range_is_refused(wrong, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", *wrong])
    with pytest.raises(SystemExit):
        program.main()
    assert "--steps must be at least 20, and 0 < --from < --to" in capsys.readouterr().err
