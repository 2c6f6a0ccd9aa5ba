"""The commands on data sets and pretrained weights. Each returns its exit code."""

from __future__ import annotations

import argparse
import json
import sys


def data_list(options: argparse.Namespace) -> int:
    """List the data sets, where each was found, its categories and counts."""
    from diffad_utils import data

    print(data.describe().to_string(index=False, max_colwidth=40))
    return 0


def data_check(options: argparse.Namespace) -> int:
    """Check a data set and say all that is wrong with it, or left out. Exit code 1 if anything of consequence is wrong.

    Layout, counts, labels, every file, masks (kind, share covered, empty ones), ranges and depth, copies between the
    splits, files that are not read, and what will be left out of which metric.
    """
    from diffad_utils import data

    found = data.report(options.dataset, root=options.root, category=options.category)
    if options.json:
        print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
        return 0 if found.ok else 1
    if found.categories:
        print(f"{options.dataset} in {found.root}\n\n{found.table().to_string(index=False)}\n")
    for note in found.notes:
        print(f"note: {note}")
    for problem in found.problems:
        print(problem)
    print(f"{options.dataset}: {'all right' if found.ok else f'{len(found.problems)} problem(s)'}")
    return 0 if found.ok else 1


def data_make(options: argparse.Namespace) -> int:
    """Write the procedural textures as image files in the MVTec AD layout."""
    from diffad_utils.data import textures

    print(f"The textures are in {textures.export(options.out)}")
    return 0


def weights_list(options: argparse.Namespace) -> int:
    """List the pretrained weights that have a name, and where each is on this machine."""
    import pandas as pd

    from diffad_utils import weights

    table = pd.DataFrame(weights.survey()).rename(columns={"size": "MB"})
    print(table.to_string(index=False))
    print("\nfound: package (installed), env ($DIFFAD_WEIGHTS), kaggle, hf-cache, mini, or no. The hub was not asked.")
    return 0


def weights_where(options: argparse.Namespace) -> int:
    """Say where a model's weights would be taken from, and why.

    Exit code 1 if there are none, or only a small model that stands in for them.
    """
    from diffad_utils import weights

    try:
        found = weights.resolve(options.name, allow_mini=not options.no_mini, hub=options.download)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(found.message)
    print(found.path)
    return 1 if found.is_mini and options.name not in weights.MINI_NAMES else 0
