import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.data.loading.collate import collate
from multi_abnormality.data.loading.eval_dataset import EvalDataset
from multi_abnormality.data.loading.slice_sampling import middle_slices, sample_slices
from multi_abnormality.data.loading.train_dataset import TrainDataset
from multi_abnormality.data.transforms.batch import move_batch
from multi_abnormality.models.factory import build_classifier
from multi_abnormality.training.val_metrics import mean_by_scan
from multi_abnormality.utils.rng import generator

EPOCHS = range(30)


@pytest.fixture
def drawn(small_set, small_params):
    names = small_set.volumes("train")["name"].tolist()

    def make(reconstructions: str, seed: int = 0) -> TrainDataset:
        update = {"reconstructions": reconstructions, "slices_per_volume": 8}
        settings = small_params.train.model_copy(update=update)
        return TrainDataset(small_set, names, settings, seed)

    return make


def seen(volumes: TrainDataset, epoch: int) -> list[str]:
    """Identify the volume of each sample of an epoch by its voxels (all slices are used)."""
    names = volumes.processed.volumes("train")["name"]
    stored = {volumes.processed.read(name).tobytes(): name for name in names}
    return [stored[volumes[epoch, i]["volume"].tobytes()] for i in range(len(volumes))]


def test_one_reconstruction_of_each_scan_at_random_an_epoch(drawn, small_set):
    volumes = drawn("random")
    epochs = [seen(volumes, epoch) for epoch in EPOCHS]
    scans = small_set.volumes("train")["scan_id"].unique().tolist()
    assert all(small_set.scans_of(names) == scans for names in epochs)
    assert set().union(*epochs) == set(small_set.volumes("train")["name"])
    assert [seen(drawn("random"), epoch) for epoch in EPOCHS] == epochs
    assert [seen(drawn("random", seed=1), epoch) for epoch in EPOCHS] != epochs


def test_the_first_reconstruction_or_all(drawn, small_set):
    names = small_set.volumes("train")["name"].tolist()
    assert seen(drawn("first"), 0) == [name for name in names if name.endswith("_1")]
    assert seen(drawn("first"), 1) == seen(drawn("first"), 0)
    assert seen(drawn("all"), 0) == names
    labels = np.stack([drawn("all")[0, i]["labels"] for i in range(len(names))])
    np.testing.assert_array_equal(labels, small_set.labels_of(names))


def test_training_slices_have_the_neighbours_that_the_model_uses(small_set, small_params):
    settings = small_params.train.model_copy(
        update={"slices_per_volume": 99, "augmentation": "none"}
    )
    names = small_set.volumes("train")["name"].tolist()
    sample = TrainDataset(small_set, names, settings, 0, adjacent=3)[0, 0]
    whole = torch.from_numpy(small_set.read(sample["name"]))[None]
    about = {"findings": FINDINGS, "preprocess": small_set.recipe}
    model = small_params.model.model_copy(update={"adjacent_slices": 3}).model_dump(mode="json")
    classifier = build_classifier(about | {"model": model}).eval()
    hu = classifier.windows.decode(torch.from_numpy(sample["volume"])[None])
    logits = classifier.classify(hu, torch.from_numpy(sample["height"])[None]).logits
    torch.testing.assert_close(logits, classifier(whole))


def test_scores_are_by_scan(small_set):
    names = small_set.volumes("test")["name"].tolist()
    whole = EvalDataset(small_set, names)
    assert len(whole) == 10
    assert max(item["scan"] for item in whole) == 7
    logits = torch.arange(20.0).reshape(10, 2)
    scan = torch.tensor([item["scan"] for item in whole])
    labels = torch.tensor(np.stack([item["labels"] for item in whole]))
    mean_logits, mean_labels = mean_by_scan(logits, labels[:, :2], scan)
    assert mean_logits[scan[names.index("valid_8_a_1")]].tolist() == [17.0, 18.0]
    torch.testing.assert_close(mean_labels[scan], labels[:, :2], rtol=0, atol=0)


def test_middle_slices_are_evenly_spread():
    assert middle_slices(30, 5).tolist() == [3, 9, 15, 21, 27]
    assert middle_slices(4, 9).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("depth", "slices"), [(30, 5), (28, 9), (7, 6)])
def test_one_slice_of_each_part_is_sampled(depth: int, slices: int):
    draws = np.array([sample_slices(generator(seed), depth, slices) for seed in range(300)])
    edges = np.arange(slices + 1) * depth / slices
    assert (draws >= np.floor(edges[:-1])).all()
    assert (draws < np.ceil(edges[1:])).all()
    assert set(draws.ravel()) == set(range(depth))
    assert sample_slices(generator(0), 4, 9).tolist() == [0, 1, 2, 3]


def test_a_batch_has_the_values_and_types_of_default_collate(small_set, small_params):
    names = small_set.volumes("train")["name"].tolist()
    dataset = TrainDataset(small_set, names, small_params.train, seed=0)
    examples = [dataset[0, index] for index in range(3)]
    batch = move_batch(collate(examples), torch.device("cpu"))
    expected = default_collate(examples)
    augmentation, expected_augmentation = batch.pop("augmentation"), expected.pop("augmentation")
    assert augmentation.pop("seed") == expected_augmentation.pop("seed").tolist()
    for found, wanted in ((batch, expected), (augmentation, expected_augmentation)):
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(value, wanted[name], rtol=0, atol=0)
            else:
                assert value == wanted[name]
