"""Builds the lessons as a static bilingual site; then open build/site/index.html.

    make site                    runs every lesson on the bundled models, in both languages, and shows the outputs
    make site LESSONS="04 06"    runs these only; the others show their recorded outputs

Sphinx lives in an environment of its own, build/site-env, made from docs/requirements.txt when it is missing or old.
The site makes no request to another host and needs no server: pages, search and explorers work from the disk. Only
the lines of text under a search result need a web server (`python3 -m http.server -d build/site`).
"""

import argparse
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import nbformat

from helpers import ROOT, CourseError, design, figures, models
from helpers.explorer import live
from helpers.explorer.page import RECORDED, replayed
from helpers.routing import RoutingTrace
from helpers.tokens import shown
from tools.art import way
from tools.lessons.build import notebook_path, recorded_outputs
from tools.lessons.checks import FENCE
from tools.lessons.record import normalised, provenance
from tools.lessons.source import (
    LANGUAGES,
    Lesson,
    LessonError,
    build_notebook,
    choose_lessons,
    lesson_names,
    notebook_text,
    read_lessons,
    way_picture,
    way_words,
)
from tools.site import build_play
from tools.site.lean import make_lean

DOCS = ROOT / "docs"
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
ABILITIES = re.compile(r"^\|\s*(?:学完能做|You will be able to)\s*\|\s*(.+?)\s*\|", re.MULTILINE)
FILES = {path.name for kind in ("*.py", "*.service") for path in DOCS.glob(kind)} - {"conf.py"}  # for readers to copy
CAPTIONS = {"zh": ("课程", "附录", "更多"), "en": ("Lessons", "Appendix", "More")}
CALLS = {  # to the model in a page, and to the first lesson
    "zh": ("打开网页里的模型", "从第一课开始"),
    "en": ("Open the model in its page", "Start with the first lesson"),
}
HEADING = re.compile(r"^(#+) \[(.+)\]\((\S+)\)$", re.MULTILINE)
READING = re.compile(r"^(?:读图|How to read it)\s*[：:]\s*(.+)$", re.MULTILINE)
SENTENCE = re.compile(r".+?(?:[。；]|[.;] )|.+", re.DOTALL)
LANDING = """<!doctype html>
<html lang="zh">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Qwen3 in Notebooks · Qwen3 笔记本课</title>
<link rel="icon" href="zh/_static/favicon.svg">
<style>
  body { font: 20px/2 system-ui, sans-serif; text-align: center; margin-top: 20vh; color-scheme: light dark }
  a { margin: 0 1em }
</style>
<script>location.replace(navigator.language.startsWith("zh") ? "zh/index.html" : "en/index.html")</script>
<h1>Qwen3 in Notebooks</h1>
<a href="zh/index.html" lang="zh">中文</a><a href="en/index.html" lang="en">English</a>
"""


# ---- running the lessons


def run_lessons(lessons: list[Lesson], folder: Path, jobs: int) -> dict[tuple[str, str], nbformat.NotebookNode]:
    """The notebook of each (lesson, language) after a run in a fresh kernel, ``jobs`` at a time; raises CourseError.

    ``folder`` becomes one course for each language, ``folder/zh`` and ``folder/en``.
    """
    if models.SETTINGS.exists():
        raise CourseError(
            f"{models.SETTINGS.name} 选了别的模型，而网站展示自带的模型：先把它移走。",
            f"{models.SETTINGS.name} chooses another model, but the site shows the bundled ones: move it away.",
        )
    command = [sys.executable, "-m", "tools.lessons.run"]
    for lang in LANGUAGES:
        sources = folder / lang / "notebooks" / lang
        sources.mkdir(parents=True)
        for lesson in lessons:
            text = notebook_text(build_notebook(lesson, lang))
            (sources / f"{lesson.name}.ipynb").write_text(text, encoding="utf-8")
        for name in ("assets", "helpers", "tools"):  # a lesson's kernel starts in notebooks/LANG of a course
            (folder / lang / name).symlink_to(ROOT / name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "LESSONS"))}

    def run(page: tuple[str, str]) -> int:
        name, lang = page
        where = ["--root", str(folder / lang), "--lang", lang]
        return subprocess.run([*command, *where, name], cwd=ROOT, env=environment).returncode

    pages = [(lesson.name, lang) for lesson in lessons for lang in LANGUAGES]
    with ThreadPoolExecutor(jobs) as pool:
        failed = [f"{name} ({lang})" for (name, lang), code in zip(pages, pool.map(run, pages), strict=True) if code]
    if failed:
        raise CourseError(
            f"这几课没有跑通，没有生成网站：{', '.join(failed)}；原因见上面。",
            f"These lessons failed, so there is no site: {', '.join(failed)}; the reasons are above.",
        )
    runs = {page: folder / page[1] / "build" / "run" / f"{page[0]}.ipynb" for page in pages}
    return {page: nbformat.read(path, as_version=4) for page, path in runs.items()}


def fresh_outputs(notebook: nbformat.NotebookNode, root: Path) -> dict:
    """Outputs of a run by cell key, as :func:`build_notebook` takes them."""
    return {
        cell.id: (cell.execution_count, [] if "no-output" in cell.metadata.get("tags", []) else normalised(cell, root))
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def model_beside() -> dict:
    """The model that lies beside the pages, for an explorer that takes the reader's own text."""
    files = live.described(live.read())
    return {"engine": "../model/engine.js", "folder": "./", "files": files}


def explorer_html(explorer: dict, picture: str) -> str:
    """An explorer, of :func:`helpers.explorer.page.replayed`, and the picture that stays where no script runs.

    All of it is data: without any "<" it cannot end its element.
    """
    data = json.dumps(explorer, ensure_ascii=False).replace("<", "\\u003c")
    return f'<div class="course-explorer">{picture}<script type="application/json">{data}</script></div>'


def picture_html(data: dict, alt: str, name: str) -> str:
    """A figure for a page: an SVG that follows the page's theme where there is one, else the PNG.

    name: unlike that of any other figure of the page, for what the SVG refers to inside itself.
    """
    said = html.escape(alt, quote=True)
    if figures.SVG in data:
        svg = design.follow_theme(figures.unpacked(data[figures.SVG]))
        svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
        picture = svg.replace("<svg ", f'<svg role="img" aria-label="{said}" ', 1)
    else:
        picture = f'<img src="data:image/png;base64,{data["image/png"].strip()}" alt="{said}">'
    return f'<div class="course-figure">{picture}</div>'


def alternative(cells: list, place: int, output: nbformat.NotebookNode) -> str:
    """What a figure shows, in words: how to read it, from the text behind its cell, or else its labels."""
    following = cells[place + 1].source if place + 1 < len(cells) else ""
    if found := READING.search(following):
        said = re.sub(r"[*`$]|\]\([^)]*\)|\[(?=[^\]]*\]\()", "", found[1])
        return "".join(SENTENCE.findall(said)[:2]).strip()
    return "; ".join(output.metadata.get("course", {}).get("labels", [])[:6])


def map_html(lesson: str, lang: str) -> str:
    """The map of a lesson that stands on the way, drawn into its page."""
    said = html.escape(way_words(lesson, lang), quote=True)
    svg = way.draw(lesson, lang, alone=False).replace("<svg ", f'<svg role="img" aria-label="{said}" ', 1)
    return f'<div class="course-way">{svg}</div>'


def show_pictures(notebook: nbformat.NotebookNode) -> None:
    """Turns the figures and explorers of a notebook into HTML for its page."""
    for place, cell in enumerate(notebook.cells):
        for number, output in enumerate(cell.get("outputs", [])):
            if "image/png" not in output.get("data", {}):
                continue
            picture = picture_html(output.data, alternative(notebook.cells, place, output), f"{cell.id}-{number}")
            if RECORDED in output.data:
                picture = explorer_html(replayed(output.data[RECORDED]) | {"live": model_beside()}, picture)
            output.data = nbformat.from_dict({"text/html": picture})


# ---- pages


def site_text(text: str, lang: str, pages: set[str]) -> str:
    """Markdown of a repository's file as it stands on the site: links lead to pages, or stay as plain text."""

    def link(match: re.Match) -> str:
        words, target = match.groups()
        if re.match(r"https?:|mailto:|#", target):
            return match[0]
        if target in FILES:
            return f'<a href="../files/{target}" download>{html.escape(words)}</a>'
        path, _, anchor = target.partition("#")
        name, suffix = PurePosixPath(path).stem, PurePosixPath(path).suffix
        name, other = name.removesuffix(".zh"), lang
        if suffix == ".ipynb":
            other = PurePosixPath(path).parent.name
        elif suffix == ".md":
            other = "zh" if ".zh." in path else "en"
        if name not in pages or suffix not in (".ipynb", ".md") or other not in LANGUAGES:
            return words
        anchor = f"#{anchor}" if anchor else ""
        return f'<a href="{"" if other == lang else f"../{other}/"}{name}.html{anchor}">{html.escape(words)}</a>'

    text = HEADING.sub(r"\1 \2\n\n→ [\2](\3)", text)  # or the page's contents would lead away from it
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(link, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(link, text[end:])])


def card(lesson: Lesson, lang: str) -> str:
    """A lesson on the front page: its picture, its title, what one will be able to do."""
    abilities = ABILITIES.search(lesson.cells[0].text[lang])
    picture = DOCS / "cards" / f"{lesson.name.partition('_')[0]}.svg"
    if not picture.is_file():
        picture = DOCS / "cards" / "other.svg"
    does = html.escape(abilities[1].replace("`", "")) if abilities else ""
    return (
        f'<li><a href="{lesson.name}.html">{picture.read_text(encoding="utf-8").strip()}'
        f"<strong>{html.escape(lesson.title(lang))}</strong><span>{does}</span></a></li>"
    )


def hero(lang: str) -> str:
    """The model in its page, inside the front page; a picture of what it does where no script runs."""
    title = {"zh": "网页里的模型", "en": "The model in its page"}[lang]
    frame = f'<iframe src="../play.html?embed&lang={lang}" title="{title}" loading="lazy"></iframe>'
    return f'<div class="course-play">{frame}<noscript>{recorded_tokens(lang)}</noscript></div>'


def recorded_tokens(lang: str, tokens: int = 14) -> str:
    """The last tokens of the recorded trace, in the colour of the heaviest expert that each took in every layer."""
    trace = RoutingTrace.load(ROOT / "assets" / "traces" / "routing-qwen3-moe-tiny.npz")
    stop = len(trace.token_ids) - 1
    start = max(0, stop - tokens)
    rows = [
        "".join(
            f'<b style="background:var(--expert-{expert})">{expert}</b>'
            for expert in trace.expert_ids[row, start:stop, 0]
        )
        for row in range(len(trace.layers))
    ]
    texts = "".join(f"<i>{html.escape(shown(piece)[:6])}</i>" for piece in trace.pieces[start:stop])
    alt = {
        "zh": "课程自带的小模型写出的词元；每一行是一层，数字和颜色是它选中的、权重最大的专家。",
        "en": "Tokens that the course's tiny model wrote; a row is a layer, number and colour the heaviest expert.",
    }[lang]
    lines = "".join(f"<div>{row}</div>" for row in [texts, *rows])
    return f'<div class="course-hero" role="img" aria-label="{alt}">{lines}</div>'


def index_page(lessons: list[Lesson], lang: str, more: list[str]) -> str:
    """The front page: docs/index.LANG.md with a picture and a card for each lesson in their places."""
    trees = []
    cards = "".join(card(lesson, lang) for lesson in lessons)
    play, first = CALLS[lang]
    calls = f'<a href="../play.html?lang={lang}">{play}</a><a href="{lessons[0].name}.html">{first}</a>'
    groups = (
        [lesson.name for lesson in lessons if lesson.name[0].isdigit()],
        [lesson.name for lesson in lessons if not lesson.name[0].isdigit()],
        more,
    )
    for caption, names in zip(CAPTIONS[lang], groups, strict=True):
        if names:
            trees += ["```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```", ""]
    text = (DOCS / f"index.{lang}.md").read_text(encoding="utf-8")
    for mark, filling in (
        ("<!-- lessons -->", f'<ul class="course-cards">{cards}</ul>'),
        ("<!-- hero -->", hero(lang)),
        ("<!-- call -->", f'<div class="course-call">{calls}</div>'),
    ):
        text = text.replace(mark, filling)
    return text + "\n" + "\n".join(trees)


def write_pages(root: Path, lessons: list[Lesson], ran: dict, folder: Path) -> None:
    """The sources of both sites: front page, lessons with their outputs, and the pages of docs/ with an English and a
    Chinese form (NAME.md and NAME.zh.md)."""
    more = sorted(
        path.name.removesuffix(".zh.md")
        for path in DOCS.glob("*.zh.md")
        if path.with_name(path.name.replace(".zh.md", ".md")).is_file()  # index has index.en.md: it is the front page
    )
    pages = {lesson.name for lesson in lessons} | set(more)
    now = provenance()
    for lang in LANGUAGES:
        target = folder / lang
        target.mkdir(parents=True)
        (target / "index.md").write_text(index_page(lessons, lang, more), encoding="utf-8")
        for name in more:
            source = DOCS / (f"{name}.zh.md" if lang == "zh" else f"{name}.md")
            text = site_text(source.read_text(encoding="utf-8"), lang, pages)
            (target / f"{name}.md").write_text(text, encoding="utf-8")
        for lesson in lessons:
            if (lesson.name, lang) in ran:
                notebook = build_notebook(lesson, lang, ran[lesson.name, lang], now)
            else:
                notebook = build_notebook(lesson, lang, *recorded_outputs(notebook_path(root, lesson, lang), lesson))
            show_pictures(notebook)
            notebook.metadata.language_info.pygments_lexer = "ipython3"  # knows shell lines
            if picture := way_picture(lesson.name, lang):
                title = notebook.cells[0]
                title.source = title.source.replace(picture, map_html(lesson.name, lang), 1)
            for cell in notebook.cells:
                if cell.cell_type == "markdown":
                    cell.source = site_text(cell.source, lang, pages)
            (target / f"{lesson.name}.ipynb").write_text(notebook_text(notebook), encoding="utf-8")


# ---- Sphinx


def site_python() -> Path:
    """The Python of build/site-env, which is made anew where it does not hold what docs/requirements.txt names."""
    folder, requirements = ROOT / "build" / "site-env", DOCS / "requirements.txt"
    stamp, wanted = folder / "requirements.sha256", hashlib.sha256(requirements.read_bytes()).hexdigest()
    python = folder / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != wanted:
        print("Sphinx: installing docs/requirements.txt into build/site-env ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        # Python compiles what Sphinx imports, a small part of all this, when it imports it
        command += ["--no-compile", "--no-deps", "-r", str(requirements)]
        if subprocess.run(command).returncode:
            raise CourseError(
                "网站用的 Sphinx 没有装上：检查网络或 pip 的软件源，再运行 make site。",
                "Sphinx for the site could not be installed: check the network or pip's index, then run it again.",
            )
        stamp.write_text(wanted)
    return python


def run_sphinx(sources: Path, target: Path) -> None:
    """Both languages; raises CourseError if Sphinx fails or warns."""
    python = site_python()
    for lang in LANGUAGES:
        command = [str(python), "-m", "sphinx", "-q", "-W", "--keep-going", "-t", lang, "-c", str(DOCS)]
        if subprocess.run([*command, "-d", sources / f".doctrees-{lang}", sources / lang, target / lang]).returncode:
            raise CourseError(
                "Sphinx 报了错，没有生成网站：见上面。", "Sphinx complained, so there is no site: see above."
            )
        preview = ROOT / "assets" / "figures" / f"routing_explorer_{lang}_light.png"
        shutil.copy(preview, target / lang / "_static" / "preview.png")
        make_lean(target / lang)
    shutil.rmtree(target / "jupyter_execute")  # myst-nb's own copies
    (target / "index.html").write_text(LANDING, encoding="utf-8")


def build(root: Path, names: list[str], jobs: int) -> Path:
    """Run the lessons ``names``, build both languages and put them in place of build/site at the end."""
    work, target = root / "build" / "site-work", root / "build" / "site"
    shutil.rmtree(work, ignore_errors=True)
    lessons = read_lessons(root, lesson_names(root))
    chosen = [lesson for lesson in lessons if lesson.name in names]
    ran = {}
    if chosen:
        notebooks = run_lessons(chosen, work / "course", jobs)
        ran = {page: fresh_outputs(notebook, work / "course" / page[1]) for page, notebook in notebooks.items()}
    write_pages(root, lessons, ran, work / "pages")
    run_sphinx(work / "pages", work / "site")
    build_play.build(work / "site")
    (work / "site" / "files").mkdir()
    for name in sorted(FILES):
        shutil.copy(DOCS / name, work / "site" / "files")
    shutil.rmtree(target, ignore_errors=True)
    (work / "site").rename(target)
    return target


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lessons", nargs="*", help="lessons to run; default: $LESSONS, else all")
    parser.add_argument("--recorded", action="store_true", help="run none: show the recorded outputs of all")
    parser.add_argument("--jobs", type=int, default=2, help="lessons that run at a time (%(default)s)")
    parser.add_argument("--root", type=Path, default=ROOT, help="where the lessons are and build/site goes")
    options = parser.parse_args(arguments)
    try:
        names = [] if options.recorded else choose_lessons(lesson_names(options.root), options.lessons)
        target = build(options.root, names, options.jobs)
    except (LessonError, CourseError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{(target / 'index.html').relative_to(options.root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
