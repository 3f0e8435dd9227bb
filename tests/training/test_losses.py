import pytest
import torch
from torch.nn import functional

from multi_abnormality.data.loading.epoch_sampler import sampling_frequencies
from multi_abnormality.training.losses import (
    LOSSES,
    asymmetric_loss,
    multilabel_loss,
    positive_weights,
)


@pytest.fixture
def cells() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(50, 18) * 4, torch.randint(0, 2, (50, 18))


def test_asymmetric_loss_without_gammas_and_clip_is_cross_entropy(cells):
    logits, labels = cells
    expected = functional.binary_cross_entropy_with_logits(logits, labels.float())
    loss = asymmetric_loss(logits, labels, 0, 0, 0).mean()
    assert loss.item() == pytest.approx(expected.item(), 1e-6)


def test_asymmetric_loss_follows_its_paper(cells):
    """L+ = (1-p)^g+ log p, L- = pm^g- log(1-pm), pm = max(p - m, 0); here in float64."""
    logits, labels = (part.double() for part in cells)
    p = logits.sigmoid()
    pm = (p - 0.05).clamp(min=0)
    positive = (1 - p) ** 1 * p.log()
    negative = pm**4 * (1 - pm).log()
    expected = -(labels * positive + (1 - labels) * negative).mean()
    loss = asymmetric_loss(*cells, 4, 1, 0.05).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gammas", [(4, 1), (0.5, 0.5), (0, 0)])
def test_gradients_are_finite_at_saturated_probabilities(
    clip: float, dtype: torch.dtype, gammas: tuple[float, float]
):
    logits = torch.tensor([[-200.0, -20.0, 20.0, 200.0]], dtype=dtype, requires_grad=True)
    for label in (0, 1):
        loss = asymmetric_loss(logits, torch.full((1, 4), label), *gammas, clip).mean()
        assert loss.dtype == torch.float32
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def settings(small_params, **changes):
    defaults = {
        "label_smoothing": 0.0,
        "asl_gamma_neg": 4.0,
        "asl_gamma_pos": 1.0,
        "asl_clip": 0.05,
    }
    return small_params.train.model_copy(update=defaults | changes)


def test_focal_loss_follows_its_paper(cells, small_params):
    """FL = -(1 - pt)^g log pt, pt the probability of what is true; here in float64."""
    logits, labels = (part.double() for part in cells)
    p = logits.sigmoid()
    pt = torch.where(labels > 0, p, 1 - p)
    expected = (-((1 - pt) ** 2.5) * pt.log()).mean()
    loss = multilabel_loss(*cells, settings(small_params, loss="focal", focal_gamma=2.5))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_losses_agree_in_special_cases(cells, small_params):
    bce = multilabel_loss(*cells, settings(small_params, loss="bce"))
    plain = settings(small_params, loss="asl", asl_gamma_neg=0, asl_gamma_pos=0, asl_clip=0)
    assert multilabel_loss(*cells, plain) == bce
    unfocused = settings(small_params, loss="focal", focal_gamma=0)
    assert multilabel_loss(*cells, unfocused) == bce
    asl = settings(small_params, loss="asl")
    assert multilabel_loss(*cells, asl) == asymmetric_loss(*cells, 4, 1, 0.05).mean()


def test_a_registered_loss_is_selected_by_its_name(cells, small_params, monkeypatch):
    def squared_error(logits, labels, positive_weight, train):
        assert positive_weight is None
        return (logits.sigmoid() - labels) ** 2 * train.learning_rate

    monkeypatch.setitem(LOSSES, "squared_error", squared_error)
    train = settings(small_params, loss="squared_error", label_smoothing=0.2, learning_rate=2.0)
    logits, labels = cells
    expected = 2 * ((logits.sigmoid() - (0.8 * labels + 0.1)) ** 2).mean()
    torch.testing.assert_close(multilabel_loss(*cells, train), expected)


def test_label_smoothing_and_weights_match_torch(cells, small_params):
    logits, labels = cells
    weights = positive_weights(labels, limit=1.1)
    expected = functional.binary_cross_entropy_with_logits(
        logits, labels * 0.8 + 0.1, pos_weight=weights
    )
    smooth = settings(small_params, loss="bce", label_smoothing=0.2)
    loss = multilabel_loss(logits, labels, smooth, weights)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_positive_weights_are_the_clamped_ratio():
    labels = torch.zeros(100, 4)
    for finding, positives in enumerate((0, 10, 50, 99)):
        labels[:positives, finding] = 1
    assert positive_weights(labels, 20).tolist() == pytest.approx([20, 9, 1, 0.05])
    assert positive_weights(labels, 1).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_missing_labels_are_left_out(cells, small_params, loss: str, smoothing: float):
    """The loss is the mean over the labels that are there, and the gradient that of it."""
    train = settings(small_params, loss=loss, label_smoothing=smoothing)
    logits, labels = cells[0].requires_grad_(), cells[1].float()
    weights = positive_weights(labels, limit=3)
    plain = multilabel_loss(logits, labels, train, weights)
    missing = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    missing[:, 3] = True
    masked = labels.masked_fill(missing, torch.nan)
    value = multilabel_loss(logits, masked, train, weights)
    (gradient,) = torch.autograd.grad(value, logits)
    smooth = labels * (1 - smoothing) + smoothing / 2
    each = LOSSES[loss](logits, smooth, weights, train)
    torch.testing.assert_close(value, each[~missing].mean())
    (expected,) = torch.autograd.grad(each[~missing].mean(), logits)
    torch.testing.assert_close(gradient, expected)
    assert (gradient[missing] == 0).all()
    assert plain == LOSSES[loss](logits, smooth, weights, train).mean()  # to the last bit


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_without_labels_has_no_loss_and_no_gradient(cells, small_params, loss: str):
    logits = cells[0].requires_grad_()
    missing = torch.full(logits.shape, torch.nan)
    value = multilabel_loss(logits, missing, settings(small_params, loss=loss))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value == 0
    assert (gradient == 0).all()


def test_positive_weights_count_the_labels_that_are_there():
    labels = torch.full((100, 2), torch.nan)
    labels[:30, 0] = 0
    labels[:6, 0] = 1
    assert positive_weights(labels, 20).tolist() == pytest.approx([4, 0.05])


def test_positive_weights_count_scans_as_often_as_they_are_drawn():
    """So weights and oversampling together do not balance a finding twice."""
    labels = torch.zeros(100, 1)
    labels[:10] = 1
    frequencies = sampling_frequencies(labels.numpy(), 0.2)
    weights = positive_weights(labels, 20, torch.from_numpy(frequencies))
    assert weights.tolist() == pytest.approx([90 / 20])  # drawn twice as often as the others


def test_every_label_has_the_same_weight_in_whatever_batch(cells, small_params):
    """So accumulated batches, and those of several devices, are one large batch."""
    train, (logits, labels) = settings(small_params, loss="asl"), cells
    missing = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    missing[:25] |= missing[25:]  # the first half has fewer labels
    masked = labels.float().masked_fill(missing, torch.nan)
    share = (~missing).float().mean().item()
    whole = multilabel_loss(logits, masked, train)
    halves = [
        multilabel_loss(logits[rows], masked[rows], train, labeled_share=share)
        for rows in (slice(25), slice(25, 50))
    ]
    torch.testing.assert_close(sum(halves) / 2, whole)
    plain = multilabel_loss(logits, labels, train)
    assert multilabel_loss(logits, labels, train, labeled_share=1.0) == plain
