"""What `tools.lessons.build --check` asks of a lesson: equal languages, its form, the raw API rule, clean outputs.

Every function returns problems as sentences that name the file, the cell and the remedy.
"""

import ast
import csv
import re
from pathlib import Path

from helpers.language import width
from tools.lessons.source import LANGUAGES, Cell, Lesson, comments, parse, without_comments

# Raw API rule: in these lessons a teaching cell calls vLLM and openai itself. Of the helper modules that could do that,
# only these names may be used: they open, close, split or describe. The other modules are free.
RAW_API_LESSONS = {"05", "06", "07", "08", "09"}
ALLOWED_HELPERS = {
    "engine": {"close_engine", "on_cpu", "open_engine", "sized_options", "split"},
    "server": {"Server"},
    **dict.fromkeys(("attached", "endpoint", "llm"), set()),
}
MAX_SETUP_LINES = 8
COLUMNS = 88  # of a code cell, which a page shows without a scroll bar; notebooks/ruff.toml
MAX_BYTES = 400_000
CODE_CELLS = range(10, 33)

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#{1,6}) ", re.MULTILINE)
CODE_SPAN = re.compile(r"(`+)(.+?)\1")
FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$", re.DOTALL)
LINK = re.compile(r"(?<=\]\()[^)\s]+|https?://[^\s)>\"'，。；、）]+")
OF_ITS_LANGUAGE = re.compile(r"(?<=/)(zh|en|zh-cn|zh_CN)(?=/)|\.zh(?=\.md)")
NUMBER = re.compile(r"(?<![A-Za-z0-9_.])\d+(?:[.,]\d+)*")
REMOTE_IMAGE = re.compile(r"!\[[^\]]*\]\(\s*https?:|<(?:img|script|link)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//", re.I)
ABSOLUTE_PATH = re.compile(r"(?<![\w.~/:-])/(?:home|Users|tmp|work|workspace|mnt|var/folders|root(?!/autodl))(?:/|\b)")


def check_lesson(lesson: Lesson, root: Path) -> list[str]:
    """The rules that hold for a source, without its outputs."""
    terms = read_terms(root / "assets" / "terms.csv")
    helpers = _helper_imports(lesson) if lesson.name[:2] in RAW_API_LESSONS else None
    problems = []
    for cell in lesson.cells:
        found = compare(cell.text, terms) if cell.kind == "markdown" else _code(cell, helpers, root)
        problems += [f"{lesson.name}.py: cell '{cell.key}': {what}" for what in found]
    problems += [f"{lesson.name}.py: {what}" for what in _form(lesson)]
    return problems


def warnings(lesson: Lesson) -> list[str]:
    """What is not as it should be in a finished lesson, but may stay so for now."""
    cells = len(lesson.code_cells)
    if cells in CODE_CELLS:
        return []
    return [f"{lesson.name}.py: {cells} code cells; a lesson has {CODE_CELLS[0]} to {CODE_CELLS[-1]}."]


def read_terms(path: Path) -> list[dict[str, str]]:
    """Rows of terms.csv; ``avoid`` holds what must not stand for the term, in either language, split by ``|``."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def compare(text: dict[str, str], terms: list[dict[str, str]]) -> list[str]:
    """Compares two languages of a Markdown text as far as a program can."""
    problems = []
    parts = {lang: _parts(text[lang]) for lang in LANGUAGES}
    for name, remedy in (
        ("heading levels", "give both texts the same headings"),
        ("fenced code", "make it equal but for its comments"),
        ("inline code", "name the same things in both texts"),
        ("links", "link the same pages in both texts"),
        ("formula count", "write the same formulas in both texts"),
        ("numbers", "state the same numbers, in digits, in both texts"),
    ):
        zh, en = parts["zh"][name], parts["en"][name]
        if zh != en:
            if isinstance(zh, set):
                zh, en = sorted(zh - en), sorted(en - zh)
            problems.append(f"{name} differ, zh has {zh}, en has {en}; {remedy}.")
    if "您" in text["zh"]:
        problems.append("the text says 您; write 你.")
    for lang in LANGUAGES:
        problems += [f"{what} ({lang})" for what in _wrong_terms(parts[lang]["prose"], terms)]
        if match := REMOTE_IMAGE.search(text[lang]):
            problems.append(f'"{match[0]}" needs a network when the page is read; put the picture into assets/figures.')
    return problems


def _parts(text: str) -> dict:
    """What must be equal in both languages. Repetition is free for code spans and numbers: they are sets."""
    fences = [(kind, _shell_code(code)) for kind, code in FENCE.findall(text) if kind not in ("", "text")]
    text = FENCE.sub("", text)
    headings = HEADING.findall(text)
    spans = {span.strip() for _, span in CODE_SPAN.findall(text)}
    text = CODE_SPAN.sub(" ", text)
    formulas = FORMULA.findall(text)
    text = FORMULA.sub(" ", text)
    links = sorted(OF_ITS_LANGUAGE.sub("", link) for link in LINK.findall(text))
    prose = LINK.sub(" ", text)
    numbers = {number.replace(",", "") for number in NUMBER.findall(prose)}
    return {
        "heading levels": headings,
        "fenced code": fences,
        "inline code": spans,
        "links": links,
        "formula count": len(formulas),
        "numbers": numbers,
        "prose": prose,
    }


def _shell_code(code: str) -> list[str]:
    lines = [line for line in code.splitlines() if not line.lstrip().startswith("#")]
    return [re.sub(r"\s{2,}#\s.*", "", line) for line in lines]


def _wrong_terms(prose: str, terms: list[dict[str, str]]) -> list[str]:
    problems = []
    for term in terms:
        for variant in filter(None, (term["avoid"] or "").split("|")):
            latin = variant.isascii()
            pattern = rf"\b{re.escape(variant)}\b" if latin else re.escape(variant)
            if re.search(pattern, prose, re.IGNORECASE):
                right = term["en"] if latin else term["zh"]
                problems.append(f'"{variant}" is not this course\'s term; write "{right}", see assets/terms.csv.')
    return problems


def _code(cell: Cell, helpers: dict[str, str] | None, root: Path) -> list[str]:
    """``helpers``: what the lesson imports of them, where it has to call the libraries itself."""
    problems = []
    tree = parse(cell.text["en"])
    if cell.key == "setup" and len(without_comments(cell.text["en"]).splitlines()) > MAX_SETUP_LINES:
        problems.append(f"the setup cell has more than {MAX_SETUP_LINES} lines; move some to the cell that needs them.")
    problems += _wide_lines(cell)
    if cell.save:
        problems += _saved(cell.save, tree, root)
    if "copy-me" in cell.tags:
        problems += _copy_me(tree)
    if helpers is not None:
        used = sorted({name for name in _helper_names(helpers, tree) if not _is_allowed(name)})
        problems += [
            f"{name} does what the learner should see; call vLLM or openai in the cell itself." for name in used
        ]
    problems += [
        f'the comment "{token.string}" is Chinese in both notebooks; write a "# zh:" and "# en:" pair.'
        for token in comments(cell.text["en"])
        if re.search(r"[\u4e00-\u9fff]", token.string)
    ]
    return problems


def _wide_lines(cell: Cell) -> list[str]:
    """Lines of either language that are too wide; a Chinese character takes two columns. Shell lines may be longer: a
    command is copied into a terminal as one line."""
    found = dict.fromkeys(line for lang in LANGUAGES for line in cell.text[lang].splitlines())
    return [
        f"the line {line.strip()[:40]!r} has {width(line)} columns; break it, {COLUMNS} is the most."
        for line in found
        if width(line) > COLUMNS and not line.lstrip().startswith("!")
    ]


def _saved(place: str, tree: ast.Module, root: Path) -> list[str]:
    """``save="helpers/qwen.py::RMSNorm"``: both definitions have the same syntax tree."""
    file, _, name = place.partition("::")
    path = root / file
    if not name or not path.is_file():
        return [f'save="{place}" names no file; write it like "helpers/qwen.py::RMSNorm".']
    here, there = _definition(tree, name), _definition(ast.parse(path.read_text(encoding="utf-8")), name)
    if here is None or there is None:
        return [f'{"the cell" if here is None else file} defines no {name}; define it or correct save="{place}".']
    if ast.dump(here) != ast.dump(there):
        return [f"its {name} differs from the one in {file}; make the two definitions equal."]
    return []


def _definition(tree: ast.Module, name: str) -> ast.stmt | None:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return next((node for node in tree.body if isinstance(node, kinds) and node.name == name), None)


def _copy_me(tree: ast.Module) -> list[str]:
    problems = []
    if any(path.split(".")[0] == "helpers" for node in ast.walk(tree) for path, _ in _imports(node)):
        problems.append("a copy-me cell works without this course; remove its import of helpers.")
    first = next((node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)), None)
    if not isinstance(first, ast.Assign) or not ast.unparse(first.value).startswith("os.environ.get("):
        problems.append("a copy-me cell starts, after its imports, with a setting from os.environ.get(name, default).")
    return problems


def _imports(node: ast.AST) -> list[tuple[str, str]]:
    """(dotted path, local name) of everything that an import statement binds."""
    if isinstance(node, ast.Import):
        return [(a.name if a.asname else a.name.split(".")[0], a.asname or a.name.split(".")[0]) for a in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(f"{node.module}.{a.name}", a.asname or a.name) for a in node.names]
    return []


def _helper_imports(lesson: Lesson) -> dict[str, str]:
    """Dotted paths in helpers by the names that the lesson's imports bind them to."""
    nodes = [node for cell in lesson.code_cells for node in ast.walk(parse(cell.text["en"]))]
    return {name: path for node in nodes for path, name in _imports(node) if path.split(".")[0] == "helpers"}


def _helper_names(helpers: dict[str, str], tree: ast.Module) -> list[str]:
    """Dotted paths in helpers that ``tree`` imports or uses, given the imports of the whole lesson."""
    imported = [path for node in ast.walk(tree) for path, _ in _imports(node)]
    used = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            if first in helpers:
                used.append(".".join([helpers[first], *rest]))
    return [path for path in imported + used if path.split(".")[0] == "helpers"]


def _is_allowed(path: str) -> bool:
    _, module, name, *_ = [*path.split("."), "", ""]
    return not name or module not in ALLOWED_HELPERS or name in ALLOWED_HELPERS[module]


def _form(lesson: Lesson) -> list[str]:
    problems = []
    keys = [cell.key for cell in lesson.cells]
    if "setup" not in keys:
        problems.append('there is no setup cell; give the first code cell key="setup".')
    headings = [
        level for cell in lesson.cells if cell.kind == "markdown" for level in _parts(cell.text["zh"])["heading levels"]
    ]
    if headings.count("#") != 1:
        problems.append(f"{headings.count('#')} headings of level 1; only the title is one, sections start with '## '.")
    for cell in lesson.cells:
        stub = cell.key.removesuffix("-solution")
        if "solution" in cell.tags and (stub == cell.key or keys[keys.index(cell.key) - 1] != stub):
            problems.append(
                f"cell '{cell.key}': a solution to ex1 has key=\"ex1-solution\" and stands directly after ex1."
            )
        if "exercise" not in cell.tags:
            continue
        if f"{cell.key}-solution" not in keys or f"{cell.key}-check" not in keys:
            problems.append(
                f"cell '{cell.key}': the exercise lacks its '{cell.key}-solution' or '{cell.key}-check' cell; add it."
            )
        constants = [node.value for node in ast.walk(parse(cell.text["en"])) if isinstance(node, ast.Constant)]
        if ... not in constants:
            problems.append(
                f"cell '{cell.key}': the exercise's stub returns no `...`; leave the learner's part as `...`."
            )
    return problems


def check_notebook(path: str, notebook, size: int) -> list[str]:
    """The rules for a built notebook: nothing in it may fail, leak or need a network where it is opened."""
    problems = []
    if "widgets" in notebook.metadata:
        problems.append(f"{path}: metadata.widgets makes some viewers refuse the file; record the lesson again.")
    if size > MAX_BYTES:
        problems.append(
            f"{path}: {size // 1000} kB, at most {MAX_BYTES // 1000} kB are allowed; make its figures smaller."
        )
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            problems += [f"{path}: cell '{cell.id}': {what}" for what in _output(output)]
    return problems


def _output(output: dict) -> list[str]:
    if output["output_type"] == "error" or output.get("name") == "stderr":
        return ["the output shows an error or stderr; record the lesson again."]
    data = {"text/plain": output["text"]} if output["output_type"] == "stream" else output["data"]
    problems = []
    if any("widget-view" in kind for kind in data):
        problems.append("the output is a widget view, which is empty without a kernel; record the lesson again.")
    for kind, content in data.items():
        text = content if kind.startswith("text/") else ""
        if match := ABSOLUTE_PATH.search(text):
            problems.append(
                f'the output shows the path "{text[match.start() :][:30].split()[0]}"; print a relative one.'
            )
        if match := REMOTE_IMAGE.search(text):
            problems.append(f'the output needs a network for "{match[0]}"; draw the picture into the output.')
    return problems
