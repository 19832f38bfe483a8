"""The code cells of a lesson in one process, without a kernel: what an image with torch can run of it.

    python -m tools.gpu.plain NOTEBOOK FILE     runs them, and writes as JSON how many, and which were left out and why

A cell that shows an interactive figure needs packages for the page; where they are not installed it is left out.
"""

import json
import linecache
import sys
from pathlib import Path

PAGE = ("anywidget", "traitlets", "IPython")  # what interactive figures need, and nothing in torch does


def run(cells: list[dict]) -> list[str]:
    """Runs code cells of a notebook in turn. Returns those that were left out, and the package that each one wanted.

    Raises what a cell raises.
    """
    names: dict = {"__name__": "__main__"}
    left_out = []
    for cell in cells:
        code, place = "".join(cell["source"]), f"<cell {cell['id']}>"
        linecache.cache[place] = len(code), None, code.splitlines(keepends=True), place  # a traceback shows its line
        print(f"--- {cell['id']}", flush=True)
        try:
            exec(compile(code, place, "exec"), names)
        except ModuleNotFoundError as error:
            if error.name not in PAGE:
                raise
            left_out.append(f"{cell['id']} (no {error.name})")
    return left_out


if __name__ == "__main__":
    notebook, file = map(Path, sys.argv[1:])
    cells = [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    left_out = run(cells)
    ran = {"cells": len(cells) - len(left_out)} | ({"left out": left_out} if left_out else {})
    file.write_text(json.dumps(ran), encoding="utf-8")
