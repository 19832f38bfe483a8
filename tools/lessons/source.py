"""Reads a lesson's source and makes its Chinese and English notebooks from it.

A lesson is one file, ``notebooks/source/NN_slug.py``, in jupytext's percent format: every cell starts with a marker
line, which gives it a key, and the file starts with one::

    # %% [markdown] lang="zh" key="title"        prose: a Chinese cell, directly followed by its English twin
    # # 05 · 离线推理                               (same key, same tags)
    # %% [markdown] lang="en" key="title"
    # # 05 · Offline generation
    # %% key="setup"                             code: one cell for both languages
    # zh: 只有成对的整行注释才区分语言                whole-line comments may come in pairs, Chinese lines first;
    # en: only whole-line pairs differ            a notebook keeps its own language, without the prefix
    import helpers
    # !curl -s {base_url}/models                  a shell line or a line magic is written as a comment

Attributes of a cell:

- ``key="scores"``: unique within the lesson, letters, digits, ``-`` and ``_``; it becomes the cell's id, so links,
  outputs and test messages keep pointing at the same cell when its text changes.
- ``tags=["..."]``: ``extra`` (may be skipped; everything else is core), ``no-output`` (its outputs are not recorded),
  ``copy-me`` (complete in itself: no import from helpers, settings come from ``os.environ``),
  ``exercise`` (a stub that returns ``...``) and ``solution`` (no code in the notebooks: folded text); ``varies`` (the
  numbers in its output differ from run to run: timings, memory, sampling; those of all other cells are equal in the
  recordings of both languages) and ``raw`` (its output is what a tool or a model itself wrote: a log, JSON, an
  exception, an answer; all other outputs are in the page's language). A cell may need both.
- ``facts="399 46,000"``: numbers in a text below an output that are no outputs, but known from elsewhere and said here
  without a link. All other numbers there must occur above it, see ``page_language.unfounded_numbers``.
- ``save="helpers/qwen.py::RMSNorm"``: the cell defines ``RMSNorm`` with exactly the syntax tree it has in that file.

Fixed keys: the first cell is ``title``, its first line the lesson's only ``# `` heading; ``setup`` has at most 8 lines.
Exercise ``ex1`` is three code cells: ``ex1`` (tag ``exercise``), ``ex1-solution`` (tag ``solution``,
directly after it, defining the same names) and ``ex1-check``, which calls ``l05.ex1.check(...)`` of the lesson's room,
``helpers/lessons/l05``. In the notebooks the solution stands below the check as a folded text, which nothing runs.

Links to other lessons are written ``../zh/02_model_download.ipynb`` in Chinese and ``../en/...`` in English cells.
The lines under the title (link to the other language, where the outputs come from, the map) are generated.
"""

import ast
import functools
import hashlib
import io
import json
import os
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jupytext
import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers import CourseError

LANGUAGES = ("zh", "en")
TAGS = {"copy-me", "exercise", "extra", "no-output", "raw", "solution", "varies"}
ATTRIBUTES = {"facts", "key", "lang", "save", "tags", "lines_to_next_cell"}  # the last is a note that jupytext makes
ANSWER = {"zh": "参考答案", "en": "Reference answer"}
KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
NAME = re.compile(r"[A-Z0-9]\d_[a-z0-9_]+")
MAGIC = re.compile(r"^(\s*)[!%](?=[\w%./~])", re.MULTILINE)
COMMENT_LANGUAGE = re.compile(r"#\s*(zh|en):\s?")


class LessonError(Exception):
    """What is wrong with a source: one sentence with file, cell and remedy for each problem."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass
class Cell:
    """One cell: ``text`` holds its source in each language; of a code cell only the paired comments differ."""

    key: str
    kind: str
    text: dict[str, str]
    tags: list[str] = field(default_factory=list)
    save: str | None = None
    facts: list[str] = field(default_factory=list)


@dataclass
class Lesson:
    name: str
    cells: list[Cell]

    @property
    def code_cells(self) -> list[Cell]:
        """The code cells of the notebooks, thus without solutions."""
        return [cell for cell in self.cells if cell.kind == "code" and "solution" not in cell.tags]

    @property
    def facts(self) -> dict[str, list[str]]:
        """By cell, the numbers that its text states as facts and not as outputs."""
        return {cell.key: cell.facts for cell in self.cells if cell.facts}

    @property
    def code_hash(self) -> str:
        """Names the code that outputs belong to: keys and code of all code cells, comments left out."""
        code = [[cell.key, without_comments(cell.text["en"])] for cell in self.code_cells]
        return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]

    def title(self, lang: str) -> str:
        return self.cells[0].text[lang].splitlines()[0].removeprefix("# ")


def comments(code: str) -> list[tokenize.TokenInfo]:
    """The comments of a cell; ``#`` inside a string is none. Shell lines and line magics are passed over."""
    masked = MAGIC.sub(r"\1#", code)
    tokens = tokenize.generate_tokens(io.StringIO(masked).readline)
    lines = code.split("\n")
    return [t for t in tokens if t.type == tokenize.COMMENT and lines[t.start[0] - 1][t.start[1]] == "#"]


def without_comments(code: str) -> str:
    """The code alone, as text that does not depend on the Python version: no comments, no blank lines."""
    lines = code.split("\n")
    for token in comments(code):
        row, column = token.start
        lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def parse(code: str) -> ast.Module:
    """The syntax tree of a cell; shell lines and magics count as the calls that IPython makes of them."""
    return ast.parse(TransformerManager().transform_cell(code))


def split_languages(code: str) -> dict[str, str]:
    """Both languages' forms of a code cell. Raises ValueError for a comment without its twin."""
    marked = {}
    for token in comments(code):
        match = COMMENT_LANGUAGE.match(token.string)
        if match and token.line[: token.start[1]].strip():
            raise ValueError(f'the comment "{token.string}" stands behind code, but only whole lines have a language')
        if match:
            marked[token.start[0] - 1] = match
    order = "".join(marked[row][1][0] + ("" if row + 1 in marked else " ") for row in sorted(marked))
    if not re.fullmatch(r"((z+e+)+ )*", order):
        raise ValueError('a "# zh:" comment must be directly followed by its "# en:" comment')
    text = {}
    for lang in LANGUAGES:
        lines = []
        for row, line in enumerate(code.split("\n")):
            if row not in marked:
                lines.append(line)
            elif marked[row][1] == lang:
                lines.append(line.replace(marked[row][0], "# ", 1))
        text[lang] = "\n".join(lines)
    return text


@functools.lru_cache(maxsize=64)
def _raw_cells(text: str) -> list[nbformat.NotebookNode]:
    """A source's cells as jupytext reads them, most of the time of reading a lesson; nobody changes them."""
    return jupytext.reads(text, {"extension": ".py"}).cells


def read_lesson(path: Path) -> Lesson:
    """Reads ``NN_slug.py``. Raises LessonError naming every cell that breaks the format above."""
    problems: list[str] = []
    cells: list[Cell] = []
    if not NAME.fullmatch(path.stem):
        problems.append(f"{path.name}: the name must look like 05_offline_generation.py: two signs, then lower_snake.")
    for number, raw in enumerate(_raw_cells(path.read_text(encoding="utf-8")), 1):
        key = raw.metadata.get("key")
        if isinstance(key, str) and KEY.fullmatch(key):
            found = [*_attribute_problems(raw.metadata), *_add(raw, cells)]
        else:
            key, start = f"number {number}", (raw.source.strip().splitlines() or ["empty"])[0]
            found = [f'it starts "{start[:40]}" and has no usable key; add key="letters-digits" to its marker.']
        problems += [f"{path.name}: cell '{key}': {what}" for what in found]
    problems += [
        f"{path.name}: cell '{cell.key}': the English text is missing; "
        f'put a lang="en" key="{cell.key}" cell directly after it.'
        for cell in cells
        if "en" not in cell.text
    ]
    if not cells or cells[0].key != "title" or any(not t.startswith("# ") for t in cells[0].text.values()):
        problems.append(f"{path.name}: the first cell must be markdown with key=\"title\" and a '# ' heading first.")
    if problems:
        raise LessonError(problems)
    return Lesson(path.stem, cells)


def _attribute_problems(attributes: dict) -> list[str]:
    return [
        *(
            f"unknown attribute '{name}'; use key, lang, tags, facts and save, with values in double quotes."
            for name in sorted(set(attributes) - ATTRIBUTES)
        ),
        *(
            f"unknown tag '{tag}'; use one of {', '.join(sorted(TAGS))}."
            for tag in sorted(set(attributes.get("tags", [])) - TAGS)
        ),
    ]


def _add(raw: nbformat.NotebookNode, cells: list[Cell]) -> list[str]:
    """Adds a cell of the source to those before it, an English text to its Chinese one. Returns what is wrong."""
    key, lang = raw.metadata["key"], raw.metadata.get("lang")
    cell = Cell(key, raw.cell_type, {}, list(raw.metadata.get("tags", [])), raw.metadata.get("save"))
    cell.facts = str(raw.metadata.get("facts", "")).split()  # one number alone is read as a number
    if cell.kind == "markdown" and lang == "en" and cells and (cells[-1].key, set(cells[-1].text)) == (key, {"zh"}):
        cells[-1].text["en"] = raw.source
        same = (cell.tags, cell.facts) == (cells[-1].tags, cells[-1].facts)
        return [] if same else ["its Chinese and English cells have different tags or facts; make them equal."]
    problems = []
    if key in {other.key for other in cells}:
        problems.append("another cell has this key; give each cell its own.")
    if cell.kind == "code":
        if lang:
            problems.append("code is shared by both languages; remove lang, use # zh: and # en: comments.")
        try:
            cell.text = split_languages(raw.source)
            parse(raw.source)
        except (ValueError, SyntaxError, tokenize.TokenError) as error:  # SyntaxError: in 3.12+ also from tokenize
            return [*problems, f"{error}; correct the code."]
    elif cell.kind == "markdown" and lang == "zh":
        cell.text = {"zh": raw.source}
    elif lang == "en":
        return [*problems, f'the Chinese text is missing; put a lang="zh" key="{key}" cell directly before it.']
    else:
        return [*problems, 'write code cells, or [markdown] cells with lang="zh" or lang="en".']
    cells.append(cell)
    return problems


def lesson_names(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "notebooks" / "source").glob("*.py"))


def read_lessons(root: Path, names: list[str]) -> list[Lesson]:
    """The named lessons of notebooks/source; raises LessonError with the problems of all of them."""
    lessons, problems = [], []
    for name in names:
        try:
            lessons.append(read_lesson(root / "notebooks" / "source" / f"{name}.py"))
        except LessonError as error:
            problems += error.problems
    if problems:
        raise LessonError(problems)
    return lessons


def choose_lessons(names: list[str], arguments: list[str]) -> list[str]:
    """The lessons out of ``names`` that the arguments, else $LESSONS, name by number or in full; all if neither does.

    Raises CourseError for a name that is no lesson.
    """
    wanted = arguments or os.environ.get("LESSONS", "").replace(",", " ").split()
    unknown = [name for name in wanted if not any(name in (lesson, lesson.split("_")[0]) for lesson in names)]
    if unknown or not names:
        missing, known = ", ".join(unknown) or "*", ", ".join(lesson.split("_")[0] for lesson in names) or "-"
        raise CourseError(
            f"没有这一课：{missing}；LESSONS 里写课号，用空格隔开，现有：{known}。",
            f"No such lesson: {missing}; LESSONS takes lesson numbers separated by spaces, out of: {known}.",
        )
    return [lesson for lesson in names if not wanted or {lesson, lesson.split("_")[0]} & set(wanted)]


def other_language(name: str, lang: str) -> str:
    """The link to the same lesson in the other language."""
    return f"[English](../en/{name}.ipynb)" if lang == "zh" else f"[中文](../zh/{name}.ipynb)"


def head_line(name: str, lang: str, recorded: dict | None) -> str:
    """The line under the title: the other language, and where the outputs come from."""
    versions = ", ".join(f"{package} {version}" for package, version in (recorded or {}).get("versions", {}).items())
    if lang == "zh":
        unrun, run = "**未运行**：这一版代码还没有录制输出", "输出录制于 {date}，{device}，{versions}"
    else:
        unrun = "**Not run**: no outputs have been recorded for this code"
        run = "Outputs recorded on {date}, {device}, {versions}"
    status = run.format(date=recorded["date"], device=recorded["device"], versions=versions) if recorded else unrun
    return f"{other_language(name, lang)} · {status}"


class Station(NamedTuple):
    """A place on the way to a service: its name in both languages, and the lessons that are about it."""

    zh: str
    en: str
    lessons: set[str]


SERVED = (  # from an empty machine to a service
    Station("机器", "machine", {"00", "01"}),
    Station("权重", "weights", {"00", "02", "A1"}),
    Station("引擎", "engine", {"00", "05", "06", "A3"}),
    Station("服务", "service", {"00", "07", "08", "09"}),
)
INSIDE = (  # the engine: from a text to the next token
    Station("文字", "text", {"00", "06", "A1"}),
    Station("词元编号", "token ids", {"00", "05", "A1"}),
    Station("层", "layers", {"00", "03", "04", "A2", "A4", "A5"}),
    Station("logits", "logits", {"00", "03"}),
    Station("采样", "sampling", {"00", "05"}),
)


def stations_of(name: str) -> list[Station]:
    """Where the lesson stands; nowhere for one that is not of this course."""
    return [station for station in SERVED + INSIDE if name.partition("_")[0] in station.lessons]


def way_words(name: str, lang: str) -> str:
    """The map of the lesson in words: where it stands, and the whole way."""
    here, served, inside = (
        [getattr(station, lang) for station in stations] for stations in (stations_of(name), SERVED, INSIDE)
    )
    way, steps = " → ".join(served), " → ".join(inside)
    if lang == "zh":
        return f"你在这里：{'、'.join(here)}。整条路：{way}；引擎里面：{steps}"
    return f"You are here: {', '.join(here)}. The whole way: {way}; inside the engine: {steps}"


def way_picture(name: str, lang: str) -> str:
    """The map of the lesson, which tools/art/way.py draws; nothing for a lesson that stands nowhere on it."""
    file = f"../../assets/figures/way_{name.partition('_')[0]}_{lang}.svg"
    return f"![{way_words(name, lang)}]({file})" if stations_of(name) else ""


def answer_cell(solution: Cell, lang: str):
    """A solution as a learner sees it: folded, and text, so that opening it changes nothing in the kernel."""
    code = re.sub(r"  # noqa: \w+$", "", solution.text[lang].strip(), flags=re.MULTILINE)
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", code))])
    text = f"<details><summary>{ANSWER[lang]}</summary>\n\n{fence}python\n{code}\n{fence}\n\n</details>"
    return new_markdown_cell(text, id=solution.key, metadata={"tags": solution.tags})


def build_notebook(lesson: Lesson, lang: str, outputs: dict | None = None, recorded: dict | None = None):
    """One language's notebook. ``outputs``: by cell key, an (execution count, list of outputs) pair."""
    cells = []
    below = {cell.key.replace("-solution", "-check"): cell for cell in lesson.cells if "solution" in cell.tags}
    for cell in lesson.cells:
        if "solution" in cell.tags:
            continue
        source = cell.text[lang]
        metadata = {"tags": cell.tags} if cell.tags else {}
        if cell.key == "title":
            heading, _, rest = source.partition("\n")
            lines = filter(None, [head_line(lesson.name, lang, recorded), way_picture(lesson.name, lang)])
            source = "\n\n".join([heading, *lines]) + f"\n{rest}".rstrip()
        if cell.kind == "markdown":
            cells.append(new_markdown_cell(source, id=cell.key, metadata=metadata))
        else:
            count, results = (outputs or {}).get(cell.key, (None, []))
            cells.append(new_code_cell(source, id=cell.key, metadata=metadata, execution_count=count, outputs=results))
        if cell.key in below:
            cells.append(answer_cell(below[cell.key], lang))
    return new_notebook(
        cells=cells,
        metadata={
            "course": {"source": f"notebooks/source/{lesson.name}.py", "recorded": recorded},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
    )


def notebook_text(notebook) -> str:
    """The notebook as it stands in the file: sorted keys, one indentation, a final newline."""
    return nbformat.writes(notebook) + "\n"
