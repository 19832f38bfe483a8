"""Runs a lesson outside Jupyter: its cells one after the other in a fresh process, as in no-GPU mode on AutoDL.

`python tests/lesson_code.py NN_slug REPORT` runs every cell of notebooks/zh with at most 2 GB of data, without torch,
transformers or vLLM, and without a connection to another computer; it writes what was imported and the memory used.
"""

import json
import resource
import sys
from pathlib import Path

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 2 * 2**30
HEAVY = ("torch", "transformers", "vllm")


def stay_local(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple) and not arguments[1][0].startswith("127."):
        raise PermissionError(f"a lesson connects to {arguments[1]}")


def main(name: str, report: str) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    sys.addaudithook(stay_local)
    shell = InteractiveShell.instance()
    printed = {}
    for cell in nbformat.read(ROOT / "notebooks" / "zh" / f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            with capture_output() as captured:
                result = shell.run_cell(cell.source, store_history=True)
            assert result.success, (cell.id, result.error_in_exec or result.error_before_exec)
            printed[cell.id] = captured.stdout
    peaks = [resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    heavy = [module for module in HEAVY if module in sys.modules]
    Path(report).write_text(json.dumps({"printed": printed, "peaks": peaks, "heavy": heavy}))


if __name__ == "__main__":
    main(*sys.argv[1:])
