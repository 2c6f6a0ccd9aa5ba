"""The committed reference report is what this code computes: two of its methods again, from the data, within a
tolerance.

The trivial baseline is plain arithmetic, and PaDiM a closed form on the shipped backbone's features, so both are quick.
On the same machine the numbers are equal; another CPU adds in another order, which moves a score by about 1e-6 of its
size and may swap two images: up to 0.002 in a metric over a hundred images. Trained methods may differ by more on other
hardware.
"""

import json

import pytest

from diffad_utils import data, metrics, study
from diffad_utils.analyses.task import drawn_test_images
from diffad_utils.methods import METHODS
from diffad_utils.methods.trivial import best_statistic
from diffad_utils.report import PAGE_LIMIT_BYTES

TOLERANCE = 0.002
SMOKE = study.reference_folder() / "smoke"
RUNS = [(task, method) for task in ("textures/leather", "elpv/mono") for method in ("trivial", "anomalib_padim")]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "method"), RUNS)
def test_the_reference_report_is_reproduced(task, method):
    folder = SMOKE / task / method / "seed-0"
    if not (folder / "metrics.json").is_file():
        pytest.skip(f"{task} has no committed run of {method}")
    expected = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    parameters = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["parameters"]
    index = data.load_index(task.split("/")[0], category=task.split("/")[1], seed=parameters["seed"])
    index = drawn_test_images(index, parameters.get("test_images", 0))
    train, test = (
        data.ImageDataset(index[index["split"] == split], size=parameters["image_size"]) for split in ("train", "test")
    )
    name = method.replace("anomalib_", "anomalib:")
    settings = {} if name == "trivial" else {"backbone": parameters["backbone"]}
    detector = METHODS[name](
        image_size=parameters["image_size"], seed=parameters["seed"], device="cpu", **settings
    ).fit(train)
    batch, prediction = data.load_batch(test), detector.predict_dataset(test)
    found = metrics.evaluate(prediction, batch)
    assert found.keys() == expected["metrics"].keys()
    for metric, value in expected["metrics"].items():
        assert found[metric] == pytest.approx(value, abs=TOLERANCE), metric
    if name == "trivial":
        statistic, floor = best_statistic(prediction.parts, batch["label"])
        assert floor == pytest.approx((expected.get("trivial_baseline") or expected["floor"])["I-AUROC"], abs=TOLERANCE)
        assert statistic == (expected.get("trivial_baseline") or expected["floor"])["statistic"]


def test_no_page_is_larger_than_the_limit():
    pages = [*study.reference_folder().rglob("*.html")]
    assert len(pages) > 10
    assert {page: page.stat().st_size for page in pages if page.stat().st_size > PAGE_LIMIT_BYTES} == {}
