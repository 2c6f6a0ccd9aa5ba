"""Rules for committed notebooks, checked without running them (`make lint`, and before each commit).

    python workflow/check_notebooks.py notebooks/*.ipynb

A notebook has exactly one cell tagged `parameters`, which papermill fills in; no output of an error; at most 1.5 MB,
beyond which web pages refuse to show it. Exit code 1, and a line for each fault.
"""

import argparse
import sys
from pathlib import Path

import nbformat

LIMIT_BYTES = 1_500_000


def faults(notebook: Path) -> list[str]:
    """What is wrong with a notebook, a sentence each; empty if nothing is.

    Raises
    ------
    nbformat.reader.NotJSONError: the file is no notebook.
    """
    cells = nbformat.read(notebook, as_version=4).cells
    found = []
    tagged = sum("parameters" in cell.metadata.get("tags", []) for cell in cells)
    if tagged != 1:
        found.append(f"{tagged} cells have the tag `parameters`, expected exactly one")
    for number, cell in enumerate(cells, 1):
        errors = [output.ename for output in cell.get("outputs", []) if output.output_type == "error"]
        if errors:
            found.append(f"cell {number} ended with {errors[0]}: mend it and run the notebook again (make notebooks)")
    size = notebook.stat().st_size
    if size > LIMIT_BYTES:
        found.append(f"{size / 1e6:.2f} MB, at most {LIMIT_BYTES / 1e6:.1f} MB: draw fewer or smaller pictures")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=Path)
    lines = [f"{notebook}: {fault}" for notebook in parser.parse_args().notebooks for fault in faults(notebook)]
    print("\n".join(lines), end="\n" if lines else "", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
