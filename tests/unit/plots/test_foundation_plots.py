"""The figures of notebook 00, which trains for hours: each draws what it is given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from diffad_utils import plots

RECORD = {"steps": [1, 2, 4], "losses": [0.5, 0.25, 0.125], "settings": {"num_steps": 4}}
QUALITY = pd.DataFrame(
    {
        "category": ["brick", "wood"],
        "psnr": [20.0, 30.0],
        "I-AUROC": [0.6, 0.8],
        "low": [0.5, 0.7],
        "high": [31.0, 32.0],
    }
)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_rows_of_pictures():
    colours, marks = np.zeros((2, 8, 8, 3)), np.ones((2, 8, 8))
    figure = plots.picture_rows(
        [colours, marks], (4, 4), titles=[["a", "b"]], names=["x", "y"], colours={1: ("magma", 2.0)}
    )
    axes = np.array(figure.axes).reshape(2, 2)
    assert [axis.get_title() for axis in axes.ravel()] == ["a", "b", "", ""]
    assert [axes[row, 0].texts[0].get_text() for row in range(2)] == ["x", "y"] and axes[0, 0].texts[0].get_position()[
        1
    ] == 4
    assert axes[1, 1].images[0].get_cmap().name == "magma" and axes[1, 1].images[0].get_clim() == (0, 2.0)
    with pytest.raises(ValueError, match="zip"):
        plots.picture_rows([colours, marks[:1]], (4, 4))


def test_the_losses_of_the_decoder_go_on_where_the_crops_end():
    left, right = plots.vae_training((RECORD, RECORD), QUALITY, QUALITY.assign(psnr=[19.0, 29.0])).axes
    assert [line.get_xdata().tolist() for line in left.lines] == [[1, 2, 4], [5, 6, 8]]
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    assert labels == ["after the crops alone", "mean over categories", "22 dB asked for"]
    mean = next(line for line in right.lines if line.get_label() == "mean over categories")
    assert mean.get_xdata()[0] == 25


def test_sizes_and_statistics_of_the_vae():
    sizes = pd.DataFrame({"size": [64, 128], "psnr": [20.0, 22.0], "largest": [1.0, 2.0]})
    statistics = pd.DataFrame({"category": ["brick"], "whole": [20.0], "tiles": [21.0], "borrowed": [22.0]})
    psnr, cast, right = plots.vae_sizes({"first": sizes, "both": sizes * 2}, statistics).axes
    assert [line.get_ydata().tolist() for line in psnr.lines] == [[20, 22], [40, 44]]
    assert [line.get_label() for line in cast.lines] == ["first", "both", "1.5 asked for"]
    assert [line.get_xdata()[0] for line in right.lines] == [20, 21, 22]


def test_clip_unet_and_strength():
    left, right = plots.clip_training(RECORD, QUALITY).axes
    assert left.lines[0].get_ydata().tolist() == RECORD["losses"] and right.lines[1].get_xdata()[0] == pytest.approx(
        0.7
    )
    assert plots.unet_training(RECORD).axes[0].lines[0].get_xdata().tolist() == RECORD["steps"]
    sweep = pd.DataFrame({"strength": [0.1, 0.5], "psnr": [30.0, 20.0], "psnr_to_vae": [40.0, 25.0]})
    sweep = sweep.assign(low=sweep["psnr"] - 1, high=sweep["psnr"] + 1, family_kept=[1.0, 0.5])
    left, right = plots.strength_quality(sweep, 26.0).axes
    assert left.lines[-1].get_ydata()[0] == 26 and right.lines[0].get_ydata().tolist() == [1.0, 0.5]


def test_the_backbone():
    terms = pd.DataFrame({"marks": [1.0, 0.5], "family": [2.0, 1.0]})
    validation = terms.assign(mark_auroc_8=[0.5, 0.75], mark_auroc_16=[0.5, 0.875], family_accuracy=[0.1, 0.9])
    left, right = plots.backbone_training(terms, validation, [8, 16]).axes
    assert left.lines[0].get_ydata().tolist() == [1.0, 0.75], "the mean so far"
    assert left.lines[1].get_ydata().tolist() == [1.0, 0.5], "of unseen pictures"
    assert [line.get_ydata()[-1] for line in right.lines] == [0.75, 0.875, 0.9]
    table = pd.DataFrame({"bank": ["patches", "whole"] * 2, "set": ["elpv"] * 2 + ["mtd"] * 2, "trained": 0.8})
    table = table.assign(low=0.7, high=0.9, random=0.6, random_low=0.5, random_high=0.65)
    axes = plots.trained_and_random(table, 3).axes
    assert [axis.get_title() for axis in axes] == ["patches", "whole"]
    assert [text.get_text() for text in axes[0].get_xticklabels()] == ["elpv", "mtd"]
    assert "random, 3 seeds" in [text.get_text() for text in axes[0].get_legend().get_texts()]
