"""Runs the lessons, each in a fresh kernel, into build/run: `make run`, or `LESSONS="05 07" make run`.

Two at a time where the machine has room for both; those that measure it run alone, after the others. The kernel is the
Python that runs this file, whatever kernels are registered on the machine.
"""

import argparse
import contextlib
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellExecutionError, DeadKernelError

from helpers import GIB, ROOT, CourseError, machine, models
from tools.lessons.source import LANGUAGES, choose_lessons, notebook_text

CELL_TIMEOUT = 600  # seconds
KERNEL_TIMEOUT = 600  # seconds until a kernel answers: a busy machine needs more than the minute that nbclient waits
MEMORY = 3 * GIB  # of one lesson, at most
ALONE = ("08",)  # measures throughput, and uses all cores for it
# Run in a kernel before its first cell; it leaves no name for the lesson to lean on.
KEEP_FIGURES = "__import__('helpers.figures').figures.keep_figures()"
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class CellFailed(Exception):
    """A cell raised, ran too long or took the kernel with it; ``key`` names the cell, ``str()`` tells what happened."""

    def __init__(self, key: str, error: str):
        super().__init__(error)
        self.key = key


@dataclass
class Result:
    lesson: str
    cells: int
    seconds: float
    failure: CellFailed | None


managers: set[AsyncKernelManager] = set()  # of this process's kernels


class LessonClient(NotebookClient):
    """Starts its kernel with this Python, even where the user's kernel ``python3`` is another one."""

    manager: AsyncKernelManager | None = None  # stays when the kernel has ended; ``km`` does not

    def create_kernel_manager(self):
        specs = KernelSpecManager(kernel_dirs=[])  # only the one that belongs to the installed ipykernel is left
        self.km = self.manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
        managers.add(self.manager)
        return self.km

    @property
    def interrupted(self) -> bool:
        return hasattr(self, "_async_cleanup_kernel_future")  # set by nbclient's handler of SIGINT and SIGTERM alone


def execute(
    notebook: nbformat.NotebookNode,
    folder: Path,
    environment: dict[str, str] | None = None,
    timeout: int = CELL_TIMEOUT,
    progress: Callable[[int, int, str], None] = lambda number, total, key: None,
    before: str = "",
) -> None:
    """Runs all cells of ``notebook`` in place, in a fresh kernel that starts in ``folder`` and always ends.

    ``progress(number, total, key)`` is called before each code cell; ``timeout`` is in seconds, for one cell;
    ``before`` is a line of Python that the kernel runs before the first cell and does not count. Raises
    CellFailed at the first cell that fails (``notebook`` then holds the outputs up to it), KeyboardInterrupt on Ctrl-C.
    """
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code_cells:
        cell.update(outputs=[], execution_count=None)
    started = []

    def start(cell: nbformat.NotebookNode, cell_index: int) -> None:
        started.append(cell)
        progress(len(started), len(code_cells), cell.id)

    client = LessonClient(
        notebook,
        timeout=timeout,
        startup_timeout=KERNEL_TIMEOUT,
        coalesce_streams=True,
        on_cell_execute=start,
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=[f"--IPKernelApp.exec_lines={before}"] if before else [],
    )
    with tempfile.TemporaryFile() as log:  # what the kernel says outside of cells, wanted only when it dies
        try:
            client.execute(env=environment or dict(os.environ), stdout=log, stderr=log)
        except Exception as error:
            if client.interrupted:
                raise KeyboardInterrupt from None
            if not started or not isinstance(error, CellControlSignal | DeadKernelError):
                raise
            log.seek(0)
            raise CellFailed(
                started[-1].id, _describe(error, started[-1], log.read().decode(errors="replace"))
            ) from None
        finally:
            managers.discard(client.manager)
    if client.interrupted:
        raise KeyboardInterrupt


def _describe(error: Exception, cell: nbformat.NotebookNode, log: str) -> str:
    if isinstance(error, CellExecutionError):
        traceback = [line for output in cell.outputs for line in output.get("traceback", [])]
        return ANSI.sub("", "\n".join(traceback)) or f"{error.ename}: {error.evalue}"
    if isinstance(error, DeadKernelError):
        return "\n".join([str(error), *log.splitlines()[-10:]])
    return str(error).splitlines()[0]  # a cell that ran too long: the rest is the cell's code


def show(line: str, last: bool = False) -> None:
    """Prints ``line``; in a terminal the next one overwrites it unless it is the ``last``."""
    terminal = sys.stdout.isatty()
    sys.stdout.write(f"\r\x1b[K{line}" + "\n" * last if terminal else f"{line}\n")  # at once: two lessons may print
    sys.stdout.flush()


def show_progress(lesson: str) -> Callable[[int, int, str], None]:
    """A ``progress`` for :func:`execute`."""
    start = time.monotonic()

    def progress(number: int, total: int, key: str) -> None:
        show(f"{lesson}  cell {number}/{total}  {key}  ({time.monotonic() - start:.0f} s)")

    return progress


def run_lesson(source: Path, target: Path, timeout: int = CELL_TIMEOUT, environment: dict | None = None) -> Result:
    """Runs the notebook ``source`` and saves it, as far as it came, as ``target``."""
    notebook = nbformat.read(source, as_version=4)
    start, failure = time.monotonic(), None
    try:
        execute(notebook, source.parent, environment, timeout, show_progress(source.stem), KEEP_FIGURES)
    except CellFailed as error:
        failure = error
    finally:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(notebook_text(notebook), encoding="utf-8")
    seconds = time.monotonic() - start
    show(f"{source.stem}  {'ok' if failure is None else 'FAILED'}  {seconds:.1f} s", last=True)
    return Result(source.stem, sum(cell.cell_type == "code" for cell in notebook.cells), seconds, failure)


def lessons_at_once() -> int:
    """Two, if cores and memory suffice and there is no GPU, other model or shared server for both to fight for."""
    here = machine.look()
    available = psutil.virtual_memory().available
    memory = min(here.memory or available, available)
    if here.cores < 2 or memory < 2 * MEMORY or here.gpus or os.environ.get("OPENAI_BASE_URL", "").strip():
        return 1
    try:
        folders = [models.chosen(name).folder for name in (models.MODEL_VARIABLE, models.MOE_VARIABLE)]
    except CourseError:  # the lesson that needs it will say so
        return 1
    return 2 if all(map(models.is_bundled, folders)) else 1


def run_all(lessons: list[str], jobs: int, run: Callable[[str], Result]) -> list[Result]:
    """Results in the order of ``lessons``, of which ``jobs`` run at a time. On KeyboardInterrupt every kernel ends."""
    alone = [lesson for lesson in lessons if jobs > 1 and lesson[:2] in ALONE]
    running: dict[str, Future] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            running |= {lesson: pool.submit(run, lesson) for lesson in lessons if lesson not in alone}
            wait(running.values())
            for lesson in alone:
                running[lesson] = pool.submit(run, lesson)
                wait([running[lesson]])
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            end_kernels(running.values())
            raise
    return [running[lesson].result() for lesson in lessons]


def end_kernels(running: Collection[Future], patience: float = 10) -> None:
    """Ends these runs: an interrupt lets a cell close what it opened; what goes on after ``patience`` s is killed."""
    deadline = time.monotonic() + patience
    while not all(future.done() for future in running):
        number = signal.SIGINT if time.monotonic() < deadline else signal.SIGKILL
        for manager in tuple(managers):
            if group := getattr(manager.provisioner, "pgid", None):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, number)
        wait(running, timeout=0.5)


def table(results: list[Result]) -> str:
    rows = [("lesson", "cells", "seconds", "result")]
    for result in results:
        outcome = "ok" if result.failure is None else f"FAILED at {result.failure.key}"
        rows.append((result.lesson, str(result.cells), f"{result.seconds:.1f}", outcome))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(" | ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def kernel_environment() -> dict[str, str]:
    """This process's environment; a model folder given relative to here holds in the lessons' folder too."""
    variables = (models.MODEL_VARIABLE, models.MOE_VARIABLE)
    chosen = {name: str(models.chosen(name).folder) for name in variables if os.environ.get(name, "").strip()}
    return {**os.environ, **chosen}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("lessons", nargs="*", help="lesson numbers; default: $LESSONS, else all")
    parser.add_argument("--root", type=Path, default=ROOT, help="repository root")
    parser.add_argument("--lang", choices=LANGUAGES, default="zh", help="which notebooks (%(default)s)")
    parser.add_argument("--jobs", type=int, help="lessons that run at a time; default: two, if the machine has room")
    parser.add_argument("--timeout", type=int, default=CELL_TIMEOUT, help="seconds for one cell (%(default)s)")
    options = parser.parse_args(arguments)
    folder = options.root / "notebooks" / options.lang
    try:
        lessons = choose_lessons(sorted(path.stem for path in folder.glob("*.ipynb")), options.lessons)
        models.course_model()
        print(models.describe(), flush=True)
        environment = kernel_environment()
        jobs = options.jobs or lessons_at_once()
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1

    def run(lesson: str) -> Result:
        target = options.root / "build" / "run" / f"{lesson}.ipynb"
        return run_lesson(folder / f"{lesson}.ipynb", target, options.timeout, environment)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results = run_all(lessons, jobs, run)
    except KeyboardInterrupt:
        print("\n已中断，内核已结束。\nInterrupted; the kernels have ended.", file=sys.stderr)
        return 130
    print("\n" + table(results))
    failures = [(result.lesson, result.failure) for result in results if result.failure]
    for lesson, failure in failures:
        print(f"\n{lesson}, cell {failure.key}:\n{failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
