"""The page about the runs on a GPU says what its table of values says."""

from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_the_page_has_the_numbers_of_its_table():
    page = (RESULTS / "gpu.md").read_text(encoding="utf-8")
    table = pd.read_csv(RESULTS / "gpu.csv")
    smoke, standard = (table[table["profile"] == name] for name in ("smoke", "standard"))
    assert f"smoke, {len(smoke)} records | standard, {len(standard)} records" in page
    of_auroc, of_aupro = (
        [(part[f"{name}, GPU"] - part[f"{name}, CPU"]).abs().max() for part in (smoke, standard)]
        for name in ("I-AUROC", "AUPRO")
    )
    assert f"CPU | {of_auroc[0]:.4f} (inversion" in page and of_auroc[1] == 0
    assert f"AUPRO | {of_aupro[0]:.4f} (the same) | {of_aupro[1]:.7f} |" in page
    largest = [100 * part["largest relative difference of a metric"].max() for part in (smoke, standard)]
    assert f"{largest[0]:.1f} % (F1max, the masked second pass) | {largest[1]:.3f} %" in page
    for name in ("ms an image", "fit s"):
        ratios = [(part[f"{name}, CPU"] / part[f"{name}, GPU"]).dropna() for part in (smoke, standard)]
        said = " | ".join(f"{r.median():.1f} [{r.min():.1f}, {r.max():.1f}]" for r in ratios)
        assert said in page, (name, said)
    same = (smoke["same bytes twice on the GPU"] == "yes").sum()
    apart = (smoke["I-AUROC, GPU"] - smoke["I-AUROC, GPU again"]).abs().max()
    assert f"in {same} of {len(smoke)} records" in page and f"at most {apart:.5f} apart" in page
