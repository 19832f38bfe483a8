"""Runs a lesson outside Jupyter: its cells one after the other in a fresh process, as in no-GPU mode on AutoDL.

The process has 2 GB for its data and no connection to another computer; it reports what was printed and imported, and
the memory used. Tests call :func:`run_lesson`, which starts this file as a script.
"""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 2 * 2**30
HEAVY = ("torch", "transformers", "vllm")


def run_lesson(name: str, folder: Path, **variables: str) -> dict:
    """The report: ``printed`` by each cell, ``heavy`` modules imported, ``peaks`` of this process and its children.

    name: of the notebook in notebooks/zh. folder: for the report. variables: of the environment, beside what the tests
    have (without the course's model). Fails with the process's last words if a cell fails.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COURSE_")}
    dead_proxy = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # for what cells start
    report = folder / "report.json"
    done = subprocess.run(
        [sys.executable, __file__, name, report],
        env=environment | dead_proxy | variables,
        cwd=ROOT / "notebooks" / "zh",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(report.read_text())


def own_memory(field: str) -> int:
    """A field of this process's /proc status, bytes: VmHWM is its peak, RssAnon what is no page of a file."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def stay_local(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple) and not arguments[1][0].startswith("127."):
        raise PermissionError(f"a lesson connects to {arguments[1]}")


def main(name: str, report: str) -> None:
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    sys.addaudithook(stay_local)
    shell, printed = InteractiveShell.instance(), {}
    for cell in nbformat.read(ROOT / "notebooks" / "zh" / f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            with capture_output() as captured:
                result = shell.run_cell(cell.source, store_history=True)
            assert result.success, (cell.id, result.error_in_exec or result.error_before_exec)
            printed[cell.id] = captured.stdout
    # Linux hands a parent's ru_maxrss down to what it starts; VmHWM begins anew.
    peaks = [own_memory("VmHWM"), 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]
    heavy = [module for module in HEAVY if module in sys.modules]
    Path(report).write_text(json.dumps({"printed": printed, "peaks": peaks, "heavy": heavy}))


if __name__ == "__main__":
    main(*sys.argv[1:])
