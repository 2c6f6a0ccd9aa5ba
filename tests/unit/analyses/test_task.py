"""The task of a run: its images, subsets, examples, and accuracy with intervals."""

import pytest
import torch
from tasks import run_of, task_of

from diffad_utils import data, metrics
from diffad_utils.analyses.task import drawn, drawn_test_images, load_task


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return task_of("07_invad", tmp_path_factory.mktemp("reports"))


def test_a_task_is_what_the_index_says(task):
    index = data.load_index("textures", category="leather", seed=0)
    assert task.name == "textures/leather"
    assert len(task.train) == (index["split"] == "train").sum()
    assert len(task.keys) == (index["split"] == "test").sum()
    assert task.images.shape == (len(task.keys), 3, 32, 32)
    assert task.has_masks and task.has_counterparts


def test_a_subset_is_of_both_classes_and_the_same_every_time(task):
    some = task.subset(20)
    assert int(some.labels.sum()) == 10 and len(some.labels) == 20
    assert some.keys == task.subset(20).keys
    assert torch.equal(some.images[3], task.images[task.keys.index(some.keys[3])])
    assert some.kinds == [task.kinds[task.keys.index(key)] for key in some.keys]
    assert some.take(torch.tensor([5])).keys == [some.keys[5]]


def test_drawn_test_images_leave_the_training_images_and_are_the_same_every_time(capsys):
    index = data.load_index("textures", category="leather", seed=0)
    some = drawn_test_images(index, 50)
    test = some[some["split"] == "test"]
    assert test["label"].value_counts().to_dict() == {0: 25, 1: 25}
    assert some[some["split"] == "train"].equals(index[index["split"] == "train"])
    assert some.equals(drawn_test_images(index, 50)) and set(test.index) < set(index.index)
    labels = torch.tensor(index.loc[index["split"] == "test", "label"].to_numpy())
    assert test["image"].tolist() == index[index["split"] == "test"]["image"].iloc[drawn(labels, 50, 0)].tolist()
    assert capsys.readouterr().out.startswith("50 of 100 test images")


@pytest.mark.parametrize("n", [0, 100, 1000])
def test_without_fewer_test_images_than_there_are_all_stay(n):
    index = data.load_index("textures", category="leather", seed=0)
    assert drawn_test_images(index, n) is index


@pytest.mark.parametrize(("wanted", "normal", "anomalous"), [(0, 40, 60), (50, 25, 25), (100, 40, 60), (160, 64, 96)])
def test_textures_render_more_test_images_where_more_are_asked_for(tmp_path, wanted, normal, anomalous):
    task = load_task(run_of("07_invad", tmp_path, test_images=wanted))
    assert task.labels.bincount().tolist() == [normal, anomalous] and len(task.train) == 200
    few = data.load_index("textures", category="leather")
    if wanted >= 100:
        own = few.loc[few["split"] == "test", "image"]
        assert set(own) <= set(task.test.index["image"])  # more images, and none of them changed


def test_examples_show_every_kind_of_defect_first(task):
    rows = task.examples(defects=6, normal=2)
    kinds = [task.kinds[i] for i in rows.tolist()]
    assert len(set(kinds[:6])) == min(6, len(set(task.kinds) - {"good"}))
    assert task.labels[rows].tolist() == 6 * [1] + 2 * [0]


def test_accuracy_and_difference_are_those_of_metrics(task):
    score = torch.linspace(0, 1, len(task.keys))
    row = task.accuracy(score, score[:, None, None].expand(task.masks.shape))
    assert row["I-AUROC"] == float(metrics.image_auroc(score, task.labels))
    assert row["low"] <= row["I-AUROC"] <= row["high"] and 0 <= row["AUPRO"] <= 1
    assert task.difference(score, score) == (0, 0, 0)


@pytest.mark.slow
def test_the_trivial_baseline_is_the_best_statistic_of_the_subset(task):
    some = task.subset(30)
    best = some.trivial_baseline()
    assert best.auroc == max(float(metrics.image_auroc(v, some.labels)) for v in best.prediction.parts.values())
