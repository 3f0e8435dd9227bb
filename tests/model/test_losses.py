import pytest
import torch
from torch.nn import functional

from multi_abnormality.model.losses import asymmetric_loss


@pytest.fixture
def cells() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(50, 18) * 4, torch.randint(0, 2, (50, 18))


def test_without_focus_and_clip_it_is_cross_entropy(cells):
    logits, labels = cells
    expected = functional.binary_cross_entropy_with_logits(logits, labels.float())
    assert asymmetric_loss(logits, labels, 0, 0, 0).item() == pytest.approx(expected.item(), 1e-6)


def test_follows_the_paper(cells):
    """L+ = (1-p)^g+ log p, L- = pm^g- log(1-pm), pm = max(p - m, 0); here in float64."""
    logits, labels = (part.double() for part in cells)
    p = logits.sigmoid()
    pm = (p - 0.05).clamp(min=0)
    positive = (1 - p) ** 1 * p.log()
    negative = pm**4 * (1 - pm).log()
    expected = -(labels * positive + (1 - labels) * negative).mean()
    assert asymmetric_loss(*cells, 4, 1, 0.05).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_stay_finite_where_probabilities_round(clip: float, dtype: torch.dtype):
    logits = torch.tensor([[-200.0, -20.0, 20.0, 200.0]], dtype=dtype, requires_grad=True)
    for label in (0, 1):
        loss = asymmetric_loss(logits, torch.full((1, 4), label), 4, 1, clip)
        assert loss.dtype == torch.float32
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()
