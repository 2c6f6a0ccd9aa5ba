"""Exact nearest neighbours against scikit-learn, torch.cdist with topk, and faiss: time, memory, agreement.

    python -m benchmarks.knn [--device cuda] [--quick]

256 queries, a bank of 2,000 rows, 16,384 dimensions, 20 neighbours: D3AD's features of a training set. faiss (CPU,
float32 distances) is used where it is installed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.neighbors import NearestNeighbors

from benchmarks import harness
from diffad_utils.kernels import knn, open_bank
from diffad_utils.kernels.knn import l1_distances

NEIGHBOURS = 20


def data(queries: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative features like those behind a ReLU."""
    generator = np.random.default_rng(0)
    return tuple(np.maximum(generator.standard_normal((n, columns), np.float32), 0) for n in (queries, rows))


def ours(queries, bank, p: int) -> np.ndarray:
    return knn(queries, bank, NEIGHBOURS, p=p)[0].cpu().numpy()


def scikit_learn(queries, bank, p: int) -> np.ndarray:
    metric = "manhattan" if p == 1 else "euclidean"
    return NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute", metric=metric).fit(bank).kneighbors(queries)[0]


def torch_cdist(queries, bank, p: int) -> np.ndarray:
    queries, bank = torch.as_tensor(queries), torch.as_tensor(bank)
    return torch.cdist(queries, bank, p=p).topk(NEIGHBOURS, largest=False).values.cpu().numpy()


def faiss_flat(queries, bank, p: int) -> np.ndarray:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlat(bank.shape[1], faiss.METRIC_L1 if p == 1 else faiss.METRIC_L2)
    index.add(bank)
    distances = index.search(queries, NEIGHBOURS)[0]
    return distances if p == 1 else np.sqrt(np.maximum(distances, 0))


CANDIDATES: dict[str, Callable] = {
    "ours": ours,
    "ours, bank in a file": ours,
    "scikit-learn": scikit_learn,
    "torch.cdist and topk": torch_cdist,
    "faiss flat": faiss_flat,
}


def available(device: str) -> dict[str, Callable]:
    chosen = dict(CANDIDATES)
    try:
        import faiss  # noqa: F401
    except ImportError:
        print("faiss is not installed: left out")
        chosen.pop("faiss flat")
    if device.startswith("cuda"):
        return {name: chosen[name] for name in ("ours", "torch.cdist and topk")}
    return chosen


def mapped(bank: np.ndarray, folder: str) -> np.memmap:
    save_file({"bank": bank}, Path(folder) / "bank.safetensors")
    return open_bank(Path(folder) / "bank.safetensors", "bank")


def main() -> None:
    options = harness.arguments("knn", __doc__)
    on_gpu = options.device.startswith("cuda")
    with tempfile.TemporaryDirectory() as folder:
        if options.memory_of:
            name, size = options.memory_of
            p, *shape = map(int, size.split("x"))
            function = available(options.device)[name]

            def on_device(arrays):
                return [torch.from_numpy(values).cuda() for values in arrays] if on_gpu else arrays

            function(*on_device(data(4, 40, 16)), p)  # imports and thread pools do not count
            without_input = harness.memory_in_use(options.device)
            queries, bank = data(*shape)
            bank = mapped(bank, folder) if name == "ours, bank in a file" else bank
            queries, bank = on_device((queries, bank))
            harness.measure_memory(lambda: function(queries, bank, p), options.device, without_input)
            return
        measure(options, folder, on_gpu)


def measure(options, folder: str, on_gpu: bool) -> None:
    shape, tables = (16, 200, 256) if options.quick else (256, 2000, 16384), []
    queries, bank = data(*shape)
    in_file = None if on_gpu else mapped(bank, folder)
    if on_gpu:
        queries, bank = torch.from_numpy(queries).cuda(), torch.from_numpy(bank).cuda()
    for p in (1, 2):
        bound = {
            name: (lambda f=f, b=in_file if name.endswith("file") else bank: f(queries, b, p))  # noqa: B008, B023
            for name, f in available(options.device).items()
        }
        rows, values = harness.interleave(bound, options.repeats or 3, device=options.device)
        for row in rows:
            found = values[row["name"]]
            row["largest difference"] = float(f"{np.max(np.abs(found - values['ours']) / values['ours']):.1e}")
            size = "x".join(map(str, (p, *shape)))
            peak = harness.peak_memory("knn", row["name"], size, options)
            row |= {
                "memory_MB": harness.megabytes(peak["rise"]),
                "with queries and bank, MB": harness.megabytes(peak["with_input"]),
            }
        note = (
            "memory_MB: peak above queries and bank, in a process of its own (with the bank in a file: pages of the "
            "file that "
            "are mapped at the time count too), and the same with them; largest difference: relative, from ours, "
            "which are "
            "float64 sums rounded"
        )
        how = " (Triton kernel)" if on_gpu and l1_distances is not None and p == 1 else ""
        tables.append(
            {
                "title": f"L{p}, {shape[0]} queries x {shape[1]} rows x {shape[2]} columns, k = {NEIGHBOURS}{how}",
                "rows": rows,
                "note": note,
            }
        )
    growing = []
    banks = [100, 200] if options.quick else [1000, 2000, 4000]
    for p in (1, 2):
        for name in ("ours", "torch.cdist and topk"):
            seconds, peaks = [], []
            for count in banks:
                small = data(64, count, 1024)
                if on_gpu:
                    small = tuple(torch.from_numpy(values).cuda() for values in small)
                row = harness.interleave(
                    {name: lambda f=CANDIDATES[name], d=small, p=p: f(*d, p)}, 3, device=options.device
                )[0][0]
                seconds.append(row["wall_s" if on_gpu else "cpu_s"][0])
                peaks.append(harness.peak_memory("knn", name, f"{p}x64x{count}x1024", options)["rise"])
            growing.append(
                {
                    "name": f"{name}, L{p}",
                    "rows": str(banks),
                    "seconds": str(seconds),
                    "memory_MB": str([harness.megabytes(peak) for peak in peaks]),
                    "time exponent": harness.growth(banks, seconds),
                    "memory exponent": harness.growth(banks, peaks),
                }
            )
    tables.append({"title": "How cost grows with the bank (64 queries, 1,024 columns)", "rows": growing})
    harness.write("knn", options, tables)


if __name__ == "__main__":
    main()
