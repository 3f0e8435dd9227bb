import pytest
import torch

from multi_abnormality.export.model_info import architecture
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.models.pooling import POOLINGS, MaxPooling
from multi_abnormality.models.pooling_base import SliceHead
from untrained_classifier import untrained_classifier

WINDOWS = ((-600.0, 1500.0), (40.0, 400.0))


@pytest.fixture(scope="module", params=POOLINGS)
def classifier(request) -> VolumeClassifier:
    return untrained_classifier("test_efficientnet", 5, WINDOWS, pooling=request.param, dropout=0.5)


@pytest.fixture
def volume() -> torch.Tensor:
    return torch.randint(0, 256, (2, 6, 32, 32), dtype=torch.uint8)


def test_windows_map_hu_to_their_range(classifier: VolumeClassifier):
    hu = torch.tensor([-1350.0, -600.0, 150.0, 40.0, -160.0, 240.0, 3000.0])
    lung, soft = classifier.windows(hu[:, None, None]).squeeze().T
    torch.testing.assert_close(lung, torch.tensor([-1, 0, 1, 640 / 750, 440 / 750, 1, 1]))
    torch.testing.assert_close(soft, torch.tensor([-1, -1, 0.55, 0, -1, 1, 1]))


def test_attention_sums_to_one_for_each_finding(classifier, volume):
    hu = classifier.windows.decode(volume)
    prediction = classifier.classify(hu, classifier.heights(volume))
    assert prediction.logits.shape == (2, 5)
    assert prediction.attention.shape == (2, 5, 6)
    torch.testing.assert_close(prediction.attention.sum(-1), torch.ones(2, 5))


def test_adjacent_slices_are_input_channels(volume):
    model = untrained_classifier("test_efficientnet", 5, WINDOWS, adjacent=3)
    shown = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    model(volume)
    slices = model.windows(model.windows.decode(volume))  # (2, 6, 2, 32, 32)
    below, above = [0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 5]
    wanted = torch.cat([slices[:, below], slices, slices[:, above]], dim=2).flatten(0, 1)
    assert torch.equal(shown[0], wanted)


def test_volumes_of_a_batch_are_independent(classifier, volume):
    alone = torch.cat([classifier(one[None]) for one in volume])
    torch.testing.assert_close(classifier(volume), alone, atol=1e-5, rtol=1e-4)


def test_every_slice_has_a_gradient_for_every_finding(classifier, volume):
    if isinstance(classifier.pooling, MaxPooling):
        pytest.skip("one slice alone counts")
    hu = classifier.windows.decode(volume).requires_grad_()
    logits = classifier.classify(hu, classifier.heights(volume)).logits
    for finding in range(5):
        (gradient,) = torch.autograd.grad(logits[:, finding].sum(), hu, retain_graph=True)
        assert (gradient.abs().amax(dim=(2, 3)) > 0).all()


def test_every_parameter_has_a_gradient(classifier, volume):
    classifier.train()
    classifier(volume).square().sum().backward()
    still = [name for name, p in classifier.named_parameters() if p.grad is None]
    classifier.eval()
    assert still == []


class LastSlice(SliceHead):
    """Takes the logits of the highest slice."""

    description = "the highest slice"

    def forward(self, features, height):  # noqa: ARG002
        logits = self.slice_logits(self.normalize(features))
        weights = torch.zeros_like(logits)
        weights[..., -1] = 1
        return (logits * weights).sum(dim=-1), weights


def test_a_registered_pooling_is_built_by_its_name_and_described(volume, monkeypatch):
    monkeypatch.setitem(POOLINGS, "last", LastSlice)
    model = untrained_classifier("test_efficientnet", 5, WINDOWS, pooling="last")
    prediction = model.predict(volume)
    assert (prediction.attention[..., -1] == 1).all()
    torch.testing.assert_close(model(volume[:, -1:]), prediction.logits)
    described = {"backbone": "test_efficientnet", "attn_layer": "none", "pooling": "last"}
    assert architecture(described).endswith(", then the highest slice")
