"""Is a page in its own language? Finds English sentences on a Chinese page, and Chinese ones on an English page.

    python -m tools.lessons.page_language 05 [06 ...]
        builds and runs the lessons, each language in its own kernel; prints findings
    python -m tools.lessons.page_language --recorded [05]
        the same for the notebooks as they are, without running anything

Foreign are three or more consecutive Latin words, or four or more Chinese characters, in prose, comments, text outputs
and figure labels. Free are code, links, the terms of assets/terms.csv, the names in assets/names.txt, and the outputs
of cells tagged ``raw``: what a tool or a model itself wrote. A number, a punctuation mark, a path or two blanks
(columns of a table) end a run of words; terms, names, identifiers and abbreviations (GPU) neither count nor end it.

Beside that, :func:`unequal_numbers` compares the recordings of both languages, and :func:`unfounded_numbers` the prose
with the outputs above it.
"""

import argparse
import ast
import contextlib
import html
import re
import sys
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from itertools import zip_longest
from pathlib import Path

import nbformat

from helpers import ROOT, CourseError
from tools.lessons.checks import NUMBER, read_terms
from tools.lessons.source import (
    LANGUAGES,
    LessonError,
    build_notebook,
    choose_lessons,
    comments,
    lesson_names,
    read_lesson,
)

WORDS, CHARACTERS = 3, 4  # from how many in a row on, in the other language, something is said in it
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
NO_PROSE = re.compile(
    r"(`+).+?\1"  # code
    r"|\$\$.+?\$\$|\$[^$\n]+\$"  # formulas
    r"|(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\([^)\s]+\)|(?<=\])\([^)\s]+\)"  # links; of a picture only its address
    r"|https?://\S+|<[^<>]*>",
    re.DOTALL,
)
BREAK = re.compile(r"[^\x20-\x7e’]|[,;:!?()\[\]{}|\"“”<>=]|\.(?=\s|$)|\s{2,}|\n")
WORD = re.compile(r"(?:[A-Za-z]?[a-z]+(?:['’][a-z]+)?|I|A)(?:-[A-Za-z]?[a-z]+)*")
NEUTRAL = re.compile(r"[A-Z]+s?|[\w-]*_[\w-]*")
CHINESE = re.compile(rf"[\u4e00-\u9fff]{{{CHARACTERS},}}")
GROUPED = re.compile(r"(?<![A-Za-z0-9_.])(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d|\.\d)|\d+(?:\.\d+)*)")
SAID = re.compile(GROUPED.pattern + r"(?![A-Za-z0-9_]|\.\d)( ?%)?")  # not the 30 of 30B
LINK = re.compile(r"\]\([^)\s]+\)|https?://")
READING_ENDS = re.compile(r"#|\*\*(?:Extra|选读)|Guess|先猜")


def known_words(root: Path) -> dict[str, re.Pattern]:
    """What may stand on a page of the other language: terms and names, by the language they are written in.

    Only those that are long enough to be taken for a passage: "answer" within a sentence does not hide it.
    """
    terms, names = read_terms(root / "assets" / "terms.csv"), root / "assets" / "names.txt"
    listed = names.read_text(encoding="utf-8").splitlines() if names.is_file() else []
    zh = [row["zh"] for row in terms if len(row["zh"]) >= CHARACTERS]
    en = [row["en"] for row in terms] + [name for line in listed if (name := line.partition("#")[0].strip())]
    en = [name for name in en if len(re.split(r"[ -]", name)) >= WORDS]
    return {
        lang: re.compile(pattern.format("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "(?!)"), re.I)
        for lang, words, pattern in (("zh", zh, "(?:{})"), ("en", en, r"\b(?:{})s?\b"))
    }


def foreign(text: str, lang: str, known: dict[str, re.Pattern]) -> list[str]:
    """The passages of a text without markup that are in another language than ``lang``."""
    if lang == "en":
        return CHINESE.findall(known["zh"].sub("\n", text))
    found = []
    text = known["en"].sub(lambda name: name[0].replace(" ", "_"), text.replace("*", ""))
    for part in BREAK.split(text):
        run: list[str] = []
        count = 0
        for token in [*part.split(), ""]:
            if WORD.fullmatch(token):
                count += 1
            elif not NEUTRAL.fullmatch(token):
                if count >= WORDS:
                    found.append(" ".join(run))
                run, count = [], 0
                continue
            run.append(token)
    return found


def prose(markdown: str) -> str:
    """A Markdown text without code, formulas, links and tags; what a diagram in a fence says is prose as well."""
    kept = FENCE.sub(lambda fence: fence[2] if fence[1] in ("", "text") else "\n", markdown)
    return NO_PROSE.sub("\n", kept)


def _is_code(comment: str) -> bool:
    """Whether a comment is a line of Python that was switched off, not words."""
    try:
        [statement] = ast.parse(comment.lstrip("# ")).body
    except (SyntaxError, ValueError):
        return False
    return not isinstance(statement, ast.Expr) or isinstance(statement.value, ast.Call)


def output_texts(output: dict) -> list[str]:
    """What an output says to its reader: printed text, a result or a table, and the labels of a figure."""
    if output["output_type"] == "stream":
        return [output["text"]]
    if output["output_type"] == "error":
        return []
    data, said = output["data"], []
    labels = output["metadata"].get("course", {}).get("labels", [])
    richer = [kind for kind in data if kind in ("text/html", "text/markdown") or kind.startswith("image/")]
    for kind in richer or ["text/plain"]:
        if kind.startswith("text/"):
            text = data.get(kind, "")
            said.append(text if kind == "text/plain" else html.unescape(re.sub(r"<[^<>]*>", "\n", text)))
    return [*said, *(label.replace("\n", " ") for label in labels)]  # a label breaks where its panel ends


def _is_silent(output: dict) -> bool:
    """Whether an output shows a picture without its labels, which :func:`helpers.figures.keep_figures` writes."""
    pictures = [kind for kind in output.get("data", {}) if kind.startswith("image/")]
    return bool(pictures) and "labels" not in output["metadata"].get("course", {})


def check_page(notebook, lang: str, known: dict[str, re.Pattern]) -> list[str]:
    """Everything on a page that is in the other language: one sentence each, with the cell and the remedy."""
    other = {"zh": "English", "en": "Chinese"}[lang]
    problems = []
    for cell in notebook.cells:
        raw = "raw" in cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            said = [("the text", prose(cell.source), "write it in the page's language or, if it is code, in backticks")]
        else:
            notes = [token.string for token in comments(cell.source) if not _is_code(token.string)]
            said = [("a comment", note, 'write a "# zh:" and "# en:" pair') for note in notes]
            said += [
                ("the output", NO_PROSE.sub("\n", text), 'print it with say(zh, en); tag what a tool wrote "raw"')
                for output in ([] if raw else cell.outputs)
                for text in output_texts(output)
            ]
        if any(_is_silent(output) for output in cell.get("outputs", [])):
            problems.append(f"cell '{cell.id}': a figure does not say which labels it has; record the lesson again.")
        for where, text, remedy in said:
            problems += [
                f"cell '{cell.id}': {where} says \"{passage}\" in {other}; {remedy}."
                for passage in dict.fromkeys(foreign(text, lang, known))
            ]
    return list(dict.fromkeys(problems))


def numbers(cell) -> list[list[str]]:
    """The numbers of each line of a cell's outputs; within a line sorted, since languages order them differently."""
    lines = [line for output in cell.outputs for text in output_texts(output) for line in text.splitlines()]
    return [sorted(found) for line in lines if (found := NUMBER.findall(line))]


def unequal_numbers(zh, en) -> list[str]:
    """Where the recordings of both languages show other numbers, though the cell is not tagged ``varies``."""
    english = {cell.id: cell for cell in en.cells}
    no_line: list[str] = []
    problems = []
    for cell in zh.cells:
        if cell.cell_type != "code" or "varies" in cell.metadata.get("tags", []) or cell.id not in english:
            continue
        for here, there in zip_longest(numbers(cell), numbers(english[cell.id]), fillvalue=no_line):
            if here != there:
                shown = ["(" + " ".join(line) + ")" for line in (here, there)]
                problems.append(
                    f"cell '{cell.id}': its numbers differ, zh has {shown[0]}, en has {shown[1]}; make the output "
                    'equal in both languages, or tag the cell "varies".'
                )
                break
    return problems


def _occurs(number: str, percent: bool, above: set[str]) -> bool:
    """Whether a number stands in ``above``, or one that rounds to it; 95 % is also found as 0.95."""
    number = number.replace(",", "")
    if number in above or number.count(".") > 1:  # a version is no number and does not round
        return number in above
    said, decimals = Decimal(number), len(number.partition(".")[2])
    for other in above:
        places = len(other.partition(".")[2])
        for shift in (0, 2) if percent else (0,):
            if other.count(".") < 2 and places - shift >= decimals:
                value = Decimal(other).scaleb(shift)
                if any(value.quantize(said, half) == said for half in (ROUND_HALF_UP, ROUND_HALF_EVEN)):
                    return True
    return False


def unfounded_numbers(notebook, facts: dict[str, list[str]]) -> list[str]:
    """Where a text that reads an output has a number which is neither in the outputs above it nor known otherwise.

    What reads an output: the text directly below a cell with outputs, as far as the next heading, guess or extra part,
    and the points of the recap. Its numbers of two and more digits, outside code, formulas and names such as 30B, must
    stand in the outputs, the code or the text above, rounded if need be; outputs of cells tagged ``varies`` do not
    count. Free are paragraphs with a link, the table that such a one announces with a colon, lesson numbers (05), and
    ``facts``: by cell, the numbers that its marker declares. They come from elsewhere, and are no outputs.
    """

    def numbers_in(text: str) -> set[str]:
        return {number.replace(",", "") for number in GROUPED.findall(text)}

    steady: set[str] = set()
    varying: set[str] = set()
    problems: list[str] = []
    reading = cited = False
    for cell in notebook.cells:
        if cell.cell_type == "code":
            steady |= numbers_in(cell.source)
            shown = "\n".join(text for output in cell.outputs for text in output_texts(output))
            (varying if "varies" in cell.metadata.get("tags", []) else steady).update(numbers_in(shown))
            reading = bool(cell.outputs)
            continue
        if "solution" in cell.metadata.get("tags", []):
            continue  # what follows it still reads the output above
        declared = facts.get(cell.id, [])
        said = {match[0].rstrip(" %") for match in SAID.finditer(prose(cell.source))}
        problems += [
            f"cell '{cell.id}': its marker declares {number}, which its text does not say; remove it from facts."
            for number in declared
            if number not in said
        ]
        steady.update(number.replace(",", "") for number in declared)
        for paragraph in re.split(r"\n\s*\n", cell.source):
            reading = reading and not READING_ENDS.match(paragraph)
            cited = bool(LINK.search(paragraph)) or (cited and paragraph.startswith("|"))
            if not cited and (reading or (cell.id == "recap" and paragraph.startswith("- "))):
                for match in SAID.finditer(prose(paragraph)):
                    number = match[0].rstrip(" %")
                    if re.fullmatch(r"\d|0\d", number) or _occurs(number, bool(match[1]), steady):
                        continue
                    why = "is in no output, code or text above"
                    if _occurs(number, bool(match[1]), varying):
                        why = "is only in an output that varies from run to run"
                    problems.append(
                        f"cell '{cell.id}': the text says {match[0]}, which {why}; correct it, say it without "
                        'the number, or cite its source; a fact that is no output goes into facts="..." of the marker.'
                    )
            cited = cited and paragraph.rstrip().endswith((":", "："))
            steady |= numbers_in(paragraph)
        reading = False
    return problems


def findings(notebooks: dict, known: dict[str, re.Pattern], facts: dict[str, list[str]]) -> list[str]:
    """All of the above for a lesson: ``notebooks`` holds its Chinese and its English notebook."""
    found = [f"{lang}: {what}" for lang in LANGUAGES for what in check_page(notebooks[lang], lang, known)]
    found += [f"{lang}: {what}" for lang in LANGUAGES for what in unfounded_numbers(notebooks[lang], facts)]
    return found + [f"zh, en: {what}" for what in unequal_numbers(notebooks["zh"], notebooks["en"])]


def main(arguments: list[str] | None = None) -> int:
    from tools.lessons.record import run_bundled
    from tools.lessons.run import CellFailed

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recorded", action="store_true", help="judge the notebooks as they are; run nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="repository root")
    parser.add_argument("lessons", nargs="*", metavar="LESSONS")
    options = parser.parse_args(arguments)
    sources = options.root / "notebooks" / "source"
    known, found = known_words(options.root), []
    try:
        for name in choose_lessons(lesson_names(options.root), options.lessons):
            lesson, notebooks = read_lesson(sources / f"{name}.py"), {}
            for lang in LANGUAGES:
                if options.recorded:
                    path = options.root / "notebooks" / lang / f"{name}.ipynb"
                    notebooks[lang] = nbformat.read(path, as_version=4)
                else:
                    with contextlib.redirect_stdout(sys.stderr):  # its progress
                        ran = run_bundled(lesson, options.root, lang)
                    notebooks[lang] = build_notebook(lesson, lang, *ran)
            found += [f"{name}: {what}" for what in findings(notebooks, known, lesson.facts)]
    except (CellFailed, CourseError, LessonError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(found) or "every page is in its language.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
