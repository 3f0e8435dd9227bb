"""Validation metrics."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from multi_abnormality.training.history import EpochMetrics, History, StopCriteria
from multi_abnormality.training.val_metrics import auroc_by_finding, macro_auroc, mean_by_scan
from multi_abnormality.utils.errors import InputError


def score(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return macro_auroc(auroc_by_finding(logits, labels, [*map(str, range(labels.shape[1]))]))


@pytest.mark.parametrize("findings", [1, 2, 5])
def test_the_mean_is_that_of_the_findings_with_both_classes(findings: int):
    logits, noise = torch.randn(2, 40, findings + 2, generator=torch.Generator().manual_seed(0))
    labels = (logits + noise > 0).float()
    labels[:, findings], labels[:, findings + 1] = 0, 1
    expected = roc_auc_score(labels[:, :findings], logits[:, :findings])
    assert score(logits, labels) == pytest.approx(expected, abs=1e-10)
    auroc = auroc_by_finding(logits, labels, "abcdefg"[: findings + 2])
    assert [*auroc] == [*"abcdefg"[:findings]]
    assert auroc["a"] == roc_auc_score(labels[:, 0], logits[:, 0])


def test_where_no_finding_has_both_classes_there_is_no_score():
    with pytest.raises(InputError, match=r"no finding has .* use more validation"):
        score(torch.zeros(3, 2), torch.tensor([[0.0, 1.0]]).repeat(3, 1))


def ranked(*positives_above: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of 3 positive and 7 negative scans a finding.

    Args:
        positives_above: for each finding, how many of the 21 pairs are ranked correctly.
    """
    columns = []
    for count in positives_above:
        ranks = [count // 3 + (number < count % 3) for number in range(3)]
        columns.append([rank - 0.5 for rank in ranks] + list(range(7)))
    labels = torch.tensor([1.0] * 3 + [0.0] * 7)[:, None].repeat(1, len(columns))
    return torch.tensor(columns).T.contiguous(), labels


def test_epochs_of_equal_macro_auroc_compare_equal():
    """The first epoch is the best one, and patience is not extended by rounding."""
    orders = ([20, 13, 4], [4, 20, 13], [13, 4, 20], [19, 14, 4], [12, 12, 13])
    scores = [score(*ranked(*counts)) for counts in orders]
    assert scores == [round(37 / 63, 10)] * len(orders)
    epochs = [EpochMetrics(n, n, 1e-3, 0.1, 0.1, each) for n, each in enumerate(scores)]
    history = History(epochs)
    assert history.best.epoch == 0
    assert history.patience_exceeded(StopCriteria(epochs=9, patience=4))


def test_equal_rankings_have_equal_scores_whatever_the_scale():
    logits, labels = ranked(20, 13, 4)
    scores = {score(scale * logits + shift, labels) for scale in (1e-3, 1, 9) for shift in (0, 30)}
    assert len(scores) == 1


def test_missing_labels_are_left_out():
    generator = torch.Generator().manual_seed(0)
    logits, noise = torch.randn(2, 60, 4, generator=generator)
    labels = (logits + noise > 0).float()
    missing = torch.rand(labels.shape, generator=generator) < 0.4
    missing[:, 3] = True
    missing[:, 2] = labels[:, 2] == 0  # what is left has one class
    known = ~missing
    expected = [
        roc_auc_score(labels[known[:, column], column], logits[known[:, column], column])
        for column in range(2)
    ]
    masked = labels.masked_fill(missing, torch.nan)
    assert score(logits, masked) == pytest.approx(sum(expected) / 2, abs=1e-10)
    two = torch.arange(60).repeat_interleave(2)
    again = mean_by_scan(logits.repeat_interleave(2, 0), masked.repeat_interleave(2, 0), two)
    assert score(*again) == score(logits, masked)
