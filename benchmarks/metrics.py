"""Exact pixel metrics against scikit-learn, torchmetrics, anomalib, ADEval and the loop over 200 thresholds: time,
value, memory.

    python -m benchmarks.metrics [--device cuda] [--quick]

Maps are smooth noise that is higher on blobs, on half of the images, as a detector's are. ADEval (binned, not exact) is
used where it is installed; on a GPU its CUDA code and torchmetrics take tensors there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import label, regionprops
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks import harness
from diffad_utils import metrics


def test_set(count: int, side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps float32 and masks bool [count, side, side]; about 1.5 % of the pixels are anomalous."""
    generator = np.random.default_rng(seed)
    maps = ndimage.gaussian_filter(generator.standard_normal((count, side, side), np.float32), (0, 2, 2))
    small = ndimage.gaussian_filter(generator.standard_normal((count, 64, 64), np.float32), (0, 3, 3))
    small = small > np.quantile(small, 0.97)
    small[::2] = False
    masks = np.repeat(np.repeat(small, side // 64, axis=1), side // 64, axis=2)
    return maps + maps.std() * masks, masks


def ours(maps, masks) -> dict:
    return metrics.pixel_metrics(maps, masks)


def streaming(maps, masks) -> dict:
    with metrics.PixelMetrics() as collected:
        for start in range(0, len(maps), 16):
            collected.update(maps[start : start + 16], masks[start : start + 16])
        return collected.compute()


def scikit_learn(maps, masks) -> dict:
    flat = masks.ravel(), maps.ravel()
    return {"P-AUROC": roc_auc_score(*flat), "P-AP": average_precision_score(*flat)}


def anomalib_aupro(maps, masks) -> dict:
    from anomalib.metrics.aupro import _AUPRO

    metric = _AUPRO()
    metric.update(torch.as_tensor(maps), torch.as_tensor(masks).int())
    return {"AUPRO": float(metric.compute())}


def scikit_learn_and_anomalib(maps, masks) -> dict:
    return scikit_learn(maps, masks) | anomalib_aupro(maps, masks)


def torchmetrics_exact(maps, masks) -> dict:
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    flat = torch.as_tensor(maps).flatten(), torch.as_tensor(masks).flatten().long()
    flat = (flat[0].sub(flat[0].min()).div(flat[0].max() - flat[0].min()), flat[1])  # it squashes what leaves [0, 1]
    return {"P-AUROC": float(binary_auroc(*flat)), "P-AP": float(binary_average_precision(*flat))}


def adeval_binned(maps, masks) -> dict:
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # gone from numpy 2.4
    import adeval

    if isinstance(maps, torch.Tensor):
        values = adeval.auroc_aupr_aupro_cuda(maps, masks.int())
    else:
        values = adeval.auroc_aupr_aupro(maps, masks.astype(np.uint8))
    return dict(zip(("P-AUROC", "P-AP", "AUPRO"), map(float, values), strict=True))


def two_hundred_thresholds(maps, masks) -> dict:
    """AUPRO as much public code has it: 200 equal steps, a loop over regions inside, FPR below 0.3 stretched to 1."""
    regions = [[tuple(region.coords.T) for region in regionprops(label(mask))] for mask in masks]
    normal, points = ~masks, []
    for threshold in np.linspace(maps.min(), maps.max(), 200):
        found = maps > threshold
        overlaps = [one[where].mean() for one, here in zip(found, regions, strict=True) for where in here]
        points.append((found[normal].mean(), np.mean(overlaps)))
    fpr, pro = np.array([point for point in points if point[0] < 0.3][::-1]).T
    return {"AUPRO": float(np.trapezoid(pro, fpr / fpr.max()))}


CANDIDATES: dict[str, Callable] = {
    "ours": ours,
    "ours, in parts": streaming,
    "scikit-learn AUROC + AP and anomalib AUPRO": scikit_learn_and_anomalib,
    "torchmetrics AUROC + AP": torchmetrics_exact,
    "ADEval (1000 bins)": adeval_binned,
    "200 thresholds, AUPRO": two_hundred_thresholds,
}


def available(device: str) -> dict[str, Callable]:
    chosen = dict(CANDIDATES)
    try:
        import adeval  # noqa: F401
    except ImportError:
        print("ADEval is not installed (see benchmarks/README.md): left out")
        chosen.pop("ADEval (1000 bins)")
    if device.startswith("cuda"):
        for name in ("ours, in parts", "scikit-learn AUROC + AP and anomalib AUPRO", "200 thresholds, AUPRO"):
            chosen.pop(name)
        chosen["anomalib AUPRO"] = anomalib_aupro
    return chosen


def prepared(count: int, side: int, device: str):
    maps, masks = test_set(count, side)
    return (
        (torch.from_numpy(maps).to(device), torch.from_numpy(masks).to(device))
        if device.startswith("cuda")
        else (maps, masks)
    )


def stream_a_thousand(count: int, side: int) -> dict:
    """Parts are made as they are needed, so that nothing but the metric holds more than one of them."""
    maps, masks = test_set(20, side)
    generator = np.random.default_rng(1)
    with metrics.PixelMetrics() as collected:
        for _ in range(0, count, 20):
            collected.update(maps + generator.random(dtype=np.float32), masks)
        return collected.compute()


def main() -> None:
    options = harness.arguments("metrics", __doc__)
    warnings.filterwarnings("ignore")
    if options.memory_of:
        name, size = options.memory_of
        count, side = map(int, size.split("x"))
        if name == "a thousand":
            harness.measure_memory(lambda: stream_a_thousand(count, side), "cpu")
        else:
            maps, masks = prepared(count, side, options.device)
            small = prepared(2, 64, options.device)
            available(options.device)[name](*small)  # imports and thread pools do not count
            harness.measure_memory(lambda: available(options.device)[name](maps, masks), options.device)
        return
    candidates, tables = available(options.device), []
    sizes = [(8, 64)] if options.quick else [(64, 256), (128, 512)]
    for count, side in sizes:
        data = prepared(count, side, options.device)
        large = side > 256
        chosen = {name: f for name, f in candidates.items() if not (large and name.startswith(("200", "torchmetrics")))}
        once = [name for name in chosen if large and not name.startswith(("ours", "ADEval"))]
        bound = {name: (lambda f=f: f(*data)) for name, f in chosen.items()}  # noqa: B023
        rows, values = harness.interleave(bound, options.repeats or 5, device=options.device, once=once)
        for row in rows:
            row |= {
                key: round(values[row["name"]][key], 6) for key in metrics.PIXEL_METRICS if key in values[row["name"]]
            }
            row["memory_MB"] = harness.megabytes(
                harness.peak_memory("metrics", row["name"], f"{count}x{side}", options)["rise"]
            )
        note = (
            "ratio: time over ours (medians and range over rounds); memory_MB: peak above the input, in a process "
            "of its own"
        )
        tables.append({"title": f"Pixel metrics, {count} maps of {side} x {side}", "rows": rows, "note": note})
    growing, counts = [], [4, 8] if options.quick else [16, 64, 256]
    for name in ("ours", "ours, in parts", "ADEval (1000 bins)"):
        if name not in candidates:
            continue
        times, peaks = [], []
        for count in counts:
            data = prepared(count, 256, options.device)
            times.append(
                harness.interleave({name: lambda f=candidates[name], d=data: f(*d)}, 3, device=options.device)[0][0]
            )
            peaks.append(harness.peak_memory("metrics", name, f"{count}x256", options)["rise"])
        seconds = [row["wall_s" if options.device != "cpu" else "cpu_s"][0] for row in times]
        growing.append(
            {
                "name": name,
                "maps of 256 x 256": str(counts),
                "seconds": str(seconds),
                "memory_MB": str([harness.megabytes(p) for p in peaks]),
                "time exponent": harness.growth(counts, seconds),
                "memory exponent": harness.growth(counts[1:], peaks[1:]),
            }
        )
    tables.append({"title": "How cost grows with the number of maps", "rows": growing})
    if options.device == "cpu":
        count, side = (40, 64) if options.quick else (1000, 512)
        peak = harness.peak_memory("metrics", "a thousand", f"{count}x{side}", options)
        row = {
            "maps": f"{count} of {side} x {side}",
            "rise_MB": harness.megabytes(peak["rise"]),
            "process_MB": harness.megabytes(peak["total"]),
        }
        tables.append({"title": "Exact metrics in parts, sorted runs in files", "rows": [row]})
    harness.write("metrics", options, tables)


if __name__ == "__main__":
    main()
