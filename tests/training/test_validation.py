"""Scores of a validation."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from multi_abnormality.errors import InputError
from multi_abnormality.training.validation import macro_auroc


@pytest.mark.parametrize("findings", [1, 2, 5])
def test_the_mean_is_that_of_the_findings_with_both_classes(findings: int):
    logits, noise = torch.randn(2, 40, findings + 2, generator=torch.Generator().manual_seed(0))
    labels = (logits + noise > 0).float()
    labels[:, findings], labels[:, findings + 1] = 0, 1  # nobody, and everybody
    expected = roc_auc_score(labels[:, :findings], logits[:, :findings])
    assert macro_auroc(logits, labels) == pytest.approx(expected, abs=1e-6)


def test_where_no_finding_has_both_classes_there_is_no_score():
    with pytest.raises(InputError, match=r"no finding has .* raise train\.validation_fraction"):
        macro_auroc(torch.zeros(3, 2), torch.tensor([[0.0, 1.0]]).repeat(3, 1))
