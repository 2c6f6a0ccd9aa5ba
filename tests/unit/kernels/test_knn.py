"""Nearest neighbours: golden values, float64 brute force, hard cases, refused inputs."""

import os
import subprocess
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.spatial.distance import cdist

from diffad_utils.kernels import knn, open_bank, screening

implementation = import_module("diffad_utils.kernels.knn")  # the package exports a function of the same name
GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "knn.npz")
NAMES = {1: "cityblock", 2: "euclidean"}


def brute_force(queries, bank, k, p):
    distances = cdist(np.asarray(queries, np.float64), np.asarray(bank, np.float64), NAMES[p])
    indices = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, indices, axis=1), indices


def check(queries, bank, k, p, rtol=1e-6, atol=0.0):
    expected, indices = brute_force(queries, bank, k, p)
    distances, found = knn(queries, bank, k, p=p)
    np.testing.assert_allclose(distances.cpu().numpy(), expected, rtol=rtol, atol=atol)
    np.testing.assert_array_equal(found.cpu().numpy(), indices)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(implementation, "TILE_ELEMENTS", {"cpu": 1000, "cuda": 1000})
    monkeypatch.setattr(implementation, "BANK_TILE", {"cpu": 37, "cuda": 37})
    monkeypatch.setattr(implementation, "PIECE", 100)


@pytest.mark.parametrize(("p", "name"), [(1, "l1"), (2, "l2")])
@pytest.mark.parametrize("k", [5, 20])
def test_golden(p, name, k):
    distances, indices = knn(GOLDEN["queries"], GOLDEN["bank"], k, p=p)
    assert distances.dtype == torch.float32 and indices.dtype == torch.int64
    assert distances.shape == indices.shape == (64, k)
    np.testing.assert_allclose(distances, GOLDEN[f"{name}_dist_k20"][:, :k], rtol=1e-6)
    np.testing.assert_allclose(distances, GOLDEN[f"{name}_dist_k20_f64_cdist"][:, :k], rtol=1e-6)
    np.testing.assert_array_equal(indices, GOLDEN[f"{name}_idx_k20"][:, :k])
    np.testing.assert_allclose(distances.double().mean(1), GOLDEN[f"{name}_mean_k{k}"], rtol=1e-6)


@pytest.mark.parametrize(("p", "name"), [(1, "l1"), (2, "l2")])
@pytest.mark.parametrize("k", [5, 20])
def test_golden_training_means_with_and_without_oneself(p, name, k):
    bank = GOLDEN["bank"]
    distances, indices = knn(bank, bank, k + 1, p=p)
    assert (indices[:, 0] == torch.arange(len(bank))).all() and (distances[:, 0] == 0).all()
    included, excluded = distances[:, :k].double().mean(1), distances[:, 1:].double().mean(1)
    np.testing.assert_allclose(included, GOLDEN[f"{name}_k{k}_self_included_train_mean"], rtol=1e-6)
    np.testing.assert_allclose(excluded, GOLDEN[f"{name}_k{k}_self_excluded_train_mean"], rtol=1e-6)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("k", [1, 7, 64, 150])
def test_small_tiles_change_nothing(small_tiles, p, k):
    generator = np.random.default_rng(0)
    check(generator.normal(size=(30, 250)).astype("f4"), generator.normal(size=(150, 250)).astype("f4"), k, p)


@pytest.mark.parametrize("p", [1, 2])
def test_data_far_from_the_origin_and_crowded(p):
    # |q|^2 + |b|^2 - 2 q.b alone has no correct digit left here
    generator = np.random.default_rng(0)
    bank = (generator.normal(size=(3000, 24)) * 0.01 + 1000).astype("f4")
    check((generator.normal(size=(40, 24)) * 0.01 + 1000).astype("f4"), bank, 9, p)


@pytest.mark.parametrize("p", [1, 2])
def test_one_row_far_away_does_not_spoil_the_others(p):
    generator = np.random.default_rng(0)
    bank = generator.normal(size=(500, 16)).astype("f4")
    bank[123] = 3e7
    check(generator.normal(size=(20, 16)).astype("f4"), bank, 5, p)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e30])
def test_any_scale(p, scale):
    generator = np.random.default_rng(0)
    queries, bank = (generator.normal(size=(n, 16)) * scale for n in (20, 300))
    check(queries.astype("f4"), bank.astype("f4"), 5, p)


@pytest.mark.parametrize("p", [1, 2])
def test_ties_are_ordered_by_index(small_tiles, p):
    generator = np.random.default_rng(0)
    bank = np.tile(generator.integers(0, 3, size=(5, 4)), (40, 1)).astype("f4")
    check(generator.integers(0, 3, size=(11, 4)).astype("f4"), bank, 64, p)
    distances, indices = knn(np.zeros((3, 4)), np.zeros((200, 4)), 10, p=p)
    assert (indices == torch.arange(10)).all() and (distances == 0).all()


@pytest.mark.parametrize("p", [1, 2])
def test_many_copies_and_many_near_copies(p):
    # an empty background: half of the bank is one row, and a hundred more are a rounding error away from it
    generator = np.random.default_rng(0)
    bank = generator.normal(size=(2000, 12)).astype("f4")
    bank[::2] = bank[0]
    bank[1:200:2] = bank[0] * (1 + np.float32(2.0**-22))
    queries = np.concatenate([bank[:3], bank[401:404]])
    check(queries, bank, 7, p)
    rows = implementation._Bank(torch.tensor(bank), torch.device("cpu"), torch.float32)
    assert len(implementation._first_copies(rows, 7)) == 2000 - 1000 + 7 - (100 - 7)


def test_a_collision_of_hashes_drops_no_row(monkeypatch):
    generator = np.random.default_rng(0)
    bank = generator.normal(size=(60, 3)).astype("f4")
    bank[::2] = bank[0]
    monkeypatch.setattr(implementation, "_row_hashes", lambda rows: torch.zeros(len(rows), 2, dtype=torch.int64))
    check(bank[:4], bank, 5, 2)
    check(bank[:4], bank, 5, 1)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("dtype", ["f4", "f2", "f8"])
def test_a_bank_in_a_file_is_searched_where_it_lies(small_tiles, tmp_path, monkeypatch, p, dtype):
    generator = np.random.default_rng(0)
    bank = generator.normal(size=(400, 30)).astype(dtype)
    bank[::3] = bank[0]  # so that the search for copies is needed too
    save_file({"other": torch.zeros(3), "bank": torch.from_numpy(bank)}, tmp_path / "detector.safetensors")
    mapped = open_bank(tmp_path / "detector.safetensors", "bank")
    np.testing.assert_array_equal(mapped, bank)
    read, original = [], implementation._Bank.rows
    monkeypatch.setattr(
        implementation._Bank, "rows", lambda self, chosen: read.append(original(self, chosen)) or read[-1]
    )
    queries = np.concatenate([bank[:2], generator.normal(size=(9, 30)).astype(dtype)])
    distances, indices = knn(queries, mapped, 6, p=p)
    assert max(tile.numel() for tile in read) <= 64 * 30 < bank.size
    expected = knn(queries, bank, 6, p=p)
    assert torch.equal(distances, expected[0]) and torch.equal(indices, expected[1])
    for broken, message in ((mapped[0], "bank must have shape"), (mapped.astype(">f4"), "byte order")):
        with pytest.raises(ValueError, match=message):
            knn(queries, broken, 2)


def test_open_bank_says_what_is_there(tmp_path):
    save_file({"bank": torch.zeros(3, 2), "short": torch.zeros(3, 2, dtype=torch.bfloat16)}, tmp_path / "x.safetensors")
    with pytest.raises(KeyError, match=r"no tensor 'rows', but \['bank', 'short'\]"):
        open_bank(tmp_path / "x.safetensors", "rows")
    with pytest.raises(ValueError, match="BF16"):
        open_bank(tmp_path / "x.safetensors", "short")


TRITON_ON_THE_CPU = """
import numpy as np, torch
from diffad_utils.kernels.l1_triton import l1_distances
generator = np.random.default_rng({seed})
for queries, rows, columns in ((1, 1, 1), (70, 66, 23), (3, 5, 129)):
    a, b = (generator.normal(size=(n, columns)).astype("f4") + 5 for n in (queries, rows))
    exact = np.abs(a.astype("f8")[:, None] - b[None]).sum(2)
    found = l1_distances(torch.from_numpy(a), torch.from_numpy(b), 50).double().numpy()
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    half = [torch.from_numpy(x).half() for x in (a, b)]
    exact = (half[0].double()[:, None] - half[1].double()[None]).abs().sum(2)
    torch.testing.assert_close(l1_distances(*half, 50).double(), exact, rtol=1e-5, atol=1e-9)
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
@pytest.mark.slow
def test_the_triton_kernel_in_tritons_interpreter():
    # in a process of its own: the interpreter is chosen when Triton is imported; inputs drawn afresh
    script = TRITON_ON_THE_CPU.format(seed=np.random.SeedSequence().entropy % 2**32)
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{script}\n{done.stderr}"


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_exact_on_any_grid_of_integers(data):
    # integer coordinates: float64 sums are exact, ties are everywhere, and the expected order is beyond doubt
    rows, columns, p = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 8)), data.draw(st.sampled_from([1, 2]))
    generator = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    size = data.draw(st.sampled_from([2, 10, 100_000]))
    bank = generator.integers(-size, size, size=(rows, columns)).astype("f4")
    queries = generator.integers(-size, size, size=(data.draw(st.integers(0, 9)), columns)).astype("f4")
    check(queries, bank, data.draw(st.integers(1, rows)), p)


@pytest.mark.parametrize("p", [1, 2])
def test_float64_stays_float64(p):
    generator = np.random.default_rng(0)
    queries, bank = generator.normal(size=(20, 30)), generator.normal(size=(100, 30))
    bank[50] = bank[10] + 1e-12  # float32 could not tell these two apart
    distances, _ = knn(queries, bank, 7, p=p)
    assert distances.dtype == torch.float64
    check(queries, bank, 7, p, rtol=1e-13)
    assert knn(queries.astype("f4"), bank, 7, p=p)[0].dtype == torch.float64


@pytest.mark.parametrize("p", [1, 2])
def test_input_kinds(p):
    generator = np.random.default_rng(0)
    bank = generator.integers(0, 50, size=(40, 6))
    expected = knn(bank[:5].astype("f4"), bank.astype("f4"), 3, p=p)
    readonly = bank.astype("f4")
    readonly.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in (bank, bank.tolist(), torch.tensor(bank), torch.tensor(bank).half(), readonly, bank.astype(">f4")):
            distances, indices = knn(form[:5], form, 3, p=p)
            assert torch.equal(distances, expected[0]) and torch.equal(indices, expected[1])
        flipped = readonly[:, ::-1]
        assert torch.equal(knn(flipped[:5], flipped, 3, p=p)[0], expected[0])
    distances, _ = knn(torch.tensor(bank[:5]).float().requires_grad_(), torch.tensor(bank).float(), 3, p=p)
    assert not distances.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(knn(bank[:5].astype("f4"), bank.astype("f4"), 3, p=p)[0], expected[0])


def test_no_queries_and_one_query_as_in_a_batch():
    generator = np.random.default_rng(0)
    queries, bank = generator.normal(size=(50, 20)).astype("f4"), generator.normal(size=(300, 20)).astype("f4")
    distances, indices = knn(queries[:0], bank, 4)
    assert distances.shape == indices.shape == (0, 4)
    together = knn(queries, bank, 4)
    for n in (0, 17, 49):
        alone = knn(queries[n : n + 1], bank, 4)
        assert torch.equal(alone[1][0], together[1][n])
        torch.testing.assert_close(alone[0][0], together[0][n], rtol=2e-7, atol=0)


@pytest.mark.parametrize(("p", "name"), [(1, "_lower_bound_l1"), (2, "_lower_bound_l2_squared")])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_lower_bounds_are_below_and_tight(p, name, offset):
    # the certificate rests on the first, speed on the second
    generator = torch.Generator().manual_seed(0)
    queries, bank = (torch.randn(n, 1500, generator=generator) + offset for n in (30, 80))
    bounds = getattr(implementation, name)(queries, bank, bank.mean(0)).double().numpy()
    exact = cdist(queries.double().numpy(), bank.double().numpy(), NAMES[p]) ** p
    assert (bounds <= exact).all()
    assert (bounds >= exact * (1 - 5e-4)).all()


def test_memory_is_bounded_by_the_tiles(monkeypatch):
    # no tensor as large as the whole distance matrix is ever handed to top-k
    sizes = []
    original = torch.Tensor.topk

    def recording(self, *args, **kwargs):
        sizes.append(self.numel())
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "topk", recording)
    monkeypatch.setattr(implementation, "TILE_ELEMENTS", {"cpu": 20_000, "cuda": 20_000})
    monkeypatch.setattr(implementation, "BANK_TILE", {"cpu": 500, "cuda": 500})
    generator = np.random.default_rng(0)
    knn(generator.normal(size=(400, 8)).astype("f4"), generator.normal(size=(3000, 8)).astype("f4"), 5)
    assert max(sizes) <= 20_000 < 400 * 3000


def hard_data(kind, generator):
    """Queries and a bank large enough for the first pass of `screening`; whole and repeated rows are in both."""
    bank = generator.normal(size=(2500, 40)) * np.linspace(3, 0.1, 40)
    if kind == "ties":
        bank = np.round(bank)
    elif kind == "copies":
        bank[::3] = bank[0]
    elif kind == "one row far away":
        bank[1234] = 3e7
    elif kind == "far from the origin":
        bank = bank * 0.01 + 1000
    elif kind == "near copies":  # half of the bank is closer together than bfloat16 can tell
        bank[::2] = bank[0] + generator.normal(size=(1250, 40)) * 1e-4
    queries = np.concatenate([bank[:3], bank[-150:] + generator.normal(size=(150, 40)) * bank.std(0) * 0.2, bank[:2]])
    scale = {"tiny": 1e-22, "huge": 1e14}.get(kind, 1.0)
    return (queries * scale).astype("f4"), (bank * scale).astype("f4")


HARD = ("plain", "ties", "copies", "one row far away", "far from the origin", "near copies", "tiny", "huge")


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, None])
def test_the_first_pass_changes_no_answer(monkeypatch, kind, dtype):
    monkeypatch.setattr(screening, "product_type", lambda: dtype)
    monkeypatch.setattr(screening, "MINIMA", 100)  # so that there are several rounds
    monkeypatch.setattr(screening, "BLOCK", 64)
    queries, bank = hard_data(kind, np.random.default_rng(0))
    check(queries, bank, 1, 2, atol=1e-36)
    monkeypatch.setattr(screening, "product_type", lambda: None)
    expected = knn(queries, bank, 1)
    monkeypatch.setattr(screening, "product_type", lambda: dtype)
    found = knn(queries, bank, 1)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [2500, 2 * screening.ROWS, screening.ROWS + 3, 7])
def test_the_first_pass_loses_no_nearest_row(kind, dtype, rows):
    queries, bank = hard_data(kind, np.random.default_rng(1))
    queries, bank = torch.from_numpy(queries[:150]), torch.from_numpy(bank[:rows])
    pair, row, left_open = screening.candidates(queries, bank, bank.mean(0), dtype)
    _, nearest = brute_force(queries, bank, 1, 2)
    answered = np.setdiff1d(np.arange(len(queries)), left_open)
    assert {*zip(answered.tolist(), nearest[answered, 0].tolist(), strict=True)} <= {
        *zip(pair.tolist(), row.tolist(), strict=True)
    }
    assert int(row.max() if len(row) else 0) < rows and set(pair.tolist()) == set(answered.tolist())


def test_the_first_pass_leaves_a_few_rows_of_patch_like_features():
    # speed rests on this: some groups of eight rows a query, none left open
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(n, 150, generator=generator) * torch.logspace(1, -1, 150) for n in (4096, 600))
    for dtype, most in ((torch.bfloat16, 40), (torch.float32, 9)):
        pair, _, left_open = screening.candidates(queries, bank, bank.mean(0), dtype)
        assert not len(left_open) and len(pair) <= most * len(queries)


def test_a_users_shorter_products_are_not_taken_for_float32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "ieee"
        assert screening.product_type() == torch.float32
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        assert screening.product_type() is None
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def test_refused_inputs():
    x = np.random.default_rng(0).normal(size=(10, 4)).astype("f4")
    with pytest.raises(ValueError, match="k = 11 neighbours asked for, but the bank has 10 rows"):
        knn(x, x, 11)
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"k must be at least 1, got {k}"):
            knn(x, x, k)
    with pytest.raises(ValueError, match="k must be an integer"):
        knn(x, x, 2.5)
    for p in (0, 3, np.inf, "l1"):
        with pytest.raises(ValueError, match="p must be 1 or 2"):
            knn(x, x, 2, p=p)
    with pytest.raises(ValueError, match="queries have D = 4 columns, bank has 3"):
        knn(x, x[:, :3], 2)
    with pytest.raises(ValueError, match=r"queries must have shape \[rows, D\]"):
        knn(x[0], x, 2)
    with pytest.raises(ValueError, match=r"bank must have shape \[rows, D\]"):
        knn(x, x[None], 2)
    with pytest.raises(ValueError, match="with D > 0"):
        knn(x[:, :0], x[:, :0], 2)
    for value in (np.nan, np.inf, -np.inf):
        broken = x.copy()
        broken[3, 2] = value
        with pytest.raises(ValueError, match="bank must be finite"):
            knn(x, broken, 2)
        with pytest.raises(ValueError, match="queries must be finite"):
            knn(broken, x, 2)
    with pytest.raises(ValueError, match="the bank has 0 rows"):
        knn(x, x[:0], 1)
    with pytest.raises(ValueError, match="list of rows of one length"):
        knn([[1.0], [1.0, 2.0]], x, 1)
    with pytest.raises(ValueError, match="real"):
        knn(x.astype(complex), x, 1)
    with pytest.raises(ValueError, match="one device"):
        knn(torch.zeros(1, 4, device="meta"), torch.tensor(x), 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_cuda_gives_the_same(p, precision):
    generator = np.random.default_rng(0)
    queries, bank = (generator.normal(size=(n, 272)).astype("f4") + 3 for n in (500, 20_000))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        distances, indices = knn(torch.tensor(queries).cuda(), torch.tensor(bank).cuda(), 9, p=p)
    finally:
        torch.set_float32_matmul_precision(before)
    expected = knn(queries, bank, 9, p=p)
    assert distances.is_cuda and torch.equal(indices.cpu(), expected[1])
    torch.testing.assert_close(distances.cpu(), expected[0], rtol=2e-7, atol=0)
