"""Sentences about a data set: their numbers are those of the data, and the wording follows the measured interval."""

import pandas as pd
import pytest
import torch

from diffad_utils.analyses import about_data, backbone_study, baselines
from diffad_utils.analyses.task import Task
from diffad_utils.data import ImageDataset, load_batch, load_index
from diffad_utils.methods.base import Prediction


@pytest.fixture(scope="module")
def task():
    index = load_index("textures", category="carpet", seed=0)
    train = ImageDataset(index[index["split"] == "train"].head(6), size=32)
    rows = index[index["split"] == "test"]
    test = ImageDataset(pd.concat([rows[rows["label"] == value].head(4) for value in (0, 1)]), size=32)
    return Task("textures/carpet", train, test, torch.arange(len(test)), load_batch(test), bootstrap_samples=50)


def test_defects_have_the_area_of_their_masks(task):
    table = about_data.defect_table(task)
    share = task.masks[task.labels == 1].float().mean(dim=(1, 2))
    assert len(table) == 4 and table["area, % of the image"].tolist() == pytest.approx((100 * share).tolist())
    assert (table["contrast"] > 0).all()
    assert f"{table['area, % of the image'].median():.2f} %" in about_data.of_sizes(table)


def test_counterparts_differ_where_the_mask_is(task):
    rows = torch.nonzero(task.labels == 1)[:, 0]
    differences = about_data.counterpart_differences(task, rows)
    inside = task.masks[rows]
    assert differences[inside].mean() > 5 * differences[~inside].mean()
    assert f"{float(differences[inside].mean()):.3f} inside" in about_data.of_counterparts(task, rows, differences)
    normal = torch.nonzero(task.labels == 0)[:1, 0]
    with pytest.raises(ValueError, match="that equal their defect-free counterparts: .'textures/carpet"):
        about_data.counterpart_differences(task, normal)


def test_sentences_on_the_images(task):
    assert about_data.of_counts(task).startswith("4 of the 8 test images are defective")
    images = torch.rand(3, 1, 8, 8).expand(3, 3, 8, 8)
    assert "keeps 100% of the contrast" in about_data.of_alignment(images[[0, 0]])
    said = about_data.of_alignment(torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8) * torch.arange(8) / 7]))
    assert "0.354 on average, 0.000 at the steadiest pixel and 0.707 at the least" in said
    assert "is 0.250 with a standard deviation of 0.000" in about_data.of_brightness(torch.full((4, 3, 8, 8), 0.25))
    mean, deviation = about_data.mean_and_deviation(torch.stack([torch.zeros(3, 2, 2), torch.full((3, 2, 2), 0.2)]))
    assert torch.allclose(mean, torch.tensor(0.1)) and torch.allclose(deviation, torch.tensor(3 * 0.02**0.5))
    index = pd.concat([task.train.index, task.test.index])
    assert (
        about_data.of_copies(index) == "6 training images, 8 test images; 0 test images are copies of training images."
    )
    said = about_data.of_false_alarms({"without": 0.05, "with": 0.4}, 40)
    assert "40 unseen" in said and "5.0% [0.6%, 16.9%]" in said and "40.0% [24.9%, 56.7%]" in said


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ((0.1, 0.05, 0.2), "is above"),
        ((-0.1, -0.2, -0.01), "is below"),
        ((0.1, -0.1, 0.3), "is not shown to differ from"),
    ],
)
def test_differences_in_words(difference, said):
    assert baselines.in_words(difference, "the rest").startswith(f"{said} the rest ({difference[0]:+.3f} [")


def test_gains_and_their_sentence(task):
    good, bad = task.labels.float(), -task.labels.float()
    ours = {"A": Prediction(good), "B": Prediction(good)}
    table = backbone_study.gains(task, ours, {"A": Prediction(bad), "B": Prediction(good)})
    assert table["gain"].tolist() == [1.0, 0.0]
    said = backbone_study.of_gains(table, "x", "y")
    assert said == (
        "With x instead of y the I-AUROC changes by +0.500 in the mean over methods. Better: A. Not shown to differ: B."
    )
    accuracies = backbone_study.table(task, {"x": ours})
    assert accuracies["I-AUROC"].tolist() == [1.0, 1.0] and "x 1.000" not in backbone_study.of_nearest_patch(accuracies)


def test_the_best_statistic_is_first(task):
    trivial = task.trivial_baseline()
    table = baselines.trivial_table(task, trivial.prediction)
    assert table["I-AUROC"].iloc[0] >= trivial.auroc and table["I-AUROC"].is_monotonic_decreasing
    assert f"is {trivial.statistic}: I-AUROC {trivial.auroc:.3f}" in baselines.of_trivial(table, trivial)
    found = {"A": Prediction(task.labels.float()), "B": Prediction(-task.labels.float())}
    accuracy = pd.DataFrame({"method": ["A", "B"], "I-AUROC": [1.0, 0.0]})
    assert baselines.of_best(task, found, accuracy, trivial).startswith("The best of them, A, is ")
    assert baselines.of_maps(accuracy).startswith("Without masks")
    assert baselines.of_maps(accuracy.assign(AUPRO=[0.1, 0.6])).startswith("B localises best: AUPRO 0.600")
