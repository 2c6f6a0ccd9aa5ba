"""The benchmarks' harness and the page made of what they leave."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import harness
from diffad_utils.report import benchmarks

ROOT = Path(__file__).parents[3]


def test_rounds_are_interleaved_and_ratios_are_within_a_round():
    order = []
    work = {name: (lambda name=name: order.append(name) or name) for name in ("a", "b", "slow")}
    rows, values = harness.interleave(work, 3, once=["slow"], reference="b")
    assert order[:2] == ["a", "b"]  # warm-up, without what runs once
    assert order[2:] == ["a", "b", "slow", "b", "a", "a", "b"]
    assert [row["rounds"] for row in rows] == [3, 3, 1] and values["slow"] == "slow"
    assert rows[1]["ratio"] == [1.0, 1.0, 1.0]
    for row in rows:
        median, low, high = row["ratio"]
        assert low <= median <= high


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_growth_finds_the_exponent(exponent):
    sizes = [1, 2, 4, 8]
    assert harness.growth(sizes, [3 * size**exponent for size in sizes]) == pytest.approx(exponent)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_counts_what_comes_and_goes():
    """In a process of its own, as the benchmarks do it: the highest memory of this one has been higher already."""
    code = (
        "import numpy as np; from benchmarks import harness; harness.measure_memory(lambda: np.ones(64 * 2**20, "
        "np.uint8).sum(), 'cpu')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    rise = json.loads(done.stdout.strip().splitlines()[-1])["rise"]
    assert 60 * 2**20 < rise < 100 * 2**20


def test_results_are_written_and_become_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    rows = [{"name": "ours", "ratio": [1.0, 0.9, 1.1], "AUPRO": 0.123456}, {"name": "<theirs>", "memory_MB": 3.5}]
    tables = [{"title": "Pixel metrics", "rows": rows, "note": "a note"}]
    assert benchmarks.write(tmp_path, tmp_path) == {}  # nothing measured yet: no page
    harness.write("metrics", SimpleNamespace(device="cpu", quick=True), tables)
    assert not list(tmp_path.glob("*.json")) and "ours" in capsys.readouterr().out
    harness.write("metrics", SimpleNamespace(device="cpu", quick=False), tables)
    loaded = benchmarks.load_results(tmp_path)
    assert loaded[0]["tables"] == tables and loaded[0]["machine"]["cores"] >= 1
    assert benchmarks.write(tmp_path, tmp_path) == {"benchmarks.html": "Benchmarks"}
    page = (tmp_path / "benchmarks.html").read_text()
    assert "1 [0.9, 1.1]" in page and "0.1235" in page and "&lt;theirs&gt;" in page and "a note" in page
    assert loaded[0]["machine"]["date"] in page and "<script" not in page
    assert '<td data-head="AUPRO">0.1235' in page and '<td data-head="name" class="text">ours' in page
    assert [benchmarks.cell(value) for value in (3e-8, -3e-8, 0.0)] == ["< 1e-6", "> -1e-6", "0"]


@pytest.mark.slow
@pytest.mark.parametrize("topic", ["metrics", "knn", "sampling", "features", "img2img_sweep"])
def test_every_topic_runs(topic):
    """With small sizes; what they call changes, and nobody would notice before the next `make bench`."""
    command = [sys.executable, "-m", f"benchmarks.{topic}", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ratio" in done.stdout or "exponent" in done.stdout or "times as fast" in done.stdout
