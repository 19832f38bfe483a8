"""Cuts each lesson's core out of the site as slides: `make slides`, then open build/slides/index.html.

The site must be there (`make site`): a slide is a core code cell with its outputs, the question before it and the
reading aid after it, or the text of a section. Extra cells and exercises, the checks of exercises, self-test, errors
and further reading are left out. Needs no network and no server; explorers stay clickable.
"""

import html
import re
import shutil
import sys
from copy import copy
from pathlib import Path

from bs4 import BeautifulSoup, Tag

from helpers import ROOT, CourseError, design
from helpers.language import width
from tools.lessons.source import LANGUAGES

DOCS = ROOT / "docs"
HEADINGS = ("h1", "h2", "h3", "h4")
LONG = 420  # characters of text that get a slide of their own, before the one with the code
FULL = 1400  # as wide as this many letters may the text of a slide be
LINES = 24  # of code that have room on a slide
LEFT_OUT = re.compile(
    r"选读|自测|常见错误|延伸阅读|可以直接拿走|\bextra\b|Test yourself|Common errors|Code to take away|Further reading"
)
EXTRA = re.compile(r"(选读|Extra)[。.]")
CHECK = re.compile(r"\bl\w\w\.ex\d\.check\(")
READING = re.compile(r"读(图|表|输出)|How to read it|Reading the")
SVG = re.compile(r"<svg\b.*?</svg>", re.DOTALL)  # none lies in another
ASIDE = re.compile(r'<svg data-drawing="(\d+)"></svg>')
TITLE = re.compile(r"<title>(.*?)</title>")
THEME = 'document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"'
PAGE = """<!doctype html>
<html lang="{lang}">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<link rel="icon" href="favicon.svg">
<link rel="stylesheet" href="pygments.css">
<link rel="stylesheet" href="slides.css">
<script>{theme}</script>
<body>
{body}
"""
NAVIGATION = """<nav><a href="../index.html">☰</a><button class="back">←</button><span class="place"></span>\
<button class="on">→</button></nav>
<script src="slides.js"></script>
<script src="explorers.js"></script>"""


def flat(section: Tag) -> list[Tag]:
    """Headings, paragraphs and cells of an article in reading order."""
    blocks = []
    for child in section.find_all(True, recursive=False):
        blocks += flat(child) if child.name == "section" else [child]
    return blocks


def lines(blocks: list[Tag]) -> float:
    """How many lines of code a slide's blocks are as tall as, roughly."""
    tall = 0.0
    for block in blocks:
        pictures = len(block.select(".course-figure")) if block.name == "div" else 0
        codes = block.select("pre")
        tall += 14 * pictures + sum(1.5 + len(code.get_text().rstrip().split("\n")) for code in codes)
        tall += 0 if codes or pictures else 1.5 + len(block.get_text()) / 60
    return tall


def grouped(blocks: list[Tag]) -> list[list[Tag]]:
    """Blocks of text in groups that have room on a slide each; a long list is cut between its items."""
    groups: list[list[Tag]] = []
    room = 0
    for block in blocks:
        items = block.find_all("li", recursive=False) if width(block.get_text()) > FULL // 2 else []
        pieces = [block]
        if items:
            pieces = [copy(block) for _ in items]
            for place, (piece, item) in enumerate(zip(pieces, items, strict=True), int(str(block.get("start", "1")))):
                piece.clear()
                piece["start"] = str(place)
                piece.append(copy(item))
        for piece in pieces:
            # each block ends with a line that is half empty
            needed = width(piece.get_text()) + 60
            if needed > room or not groups:
                groups.append([])
                room = FULL
            groups[-1].append(piece)
            room -= needed
    return groups


class Cutter:
    """Makes ``slides`` of a lesson's blocks, taken in reading order: lists of elements under their heading."""

    def __init__(self):
        self.slides: list[list[Tag]] = []
        self.text: list[Tag] = []  # what has no slide yet
        self.heading: list[Tag] = []  # the one that all stands under
        self.aided: list[Tag] | None = None  # the slide of the last cell, until it has its reading aid
        self.skipping = False  # in a section that is left out

    def take_heading(self, block: Tag) -> None:
        self.close()
        self.aided, self.skipping = None, bool(LEFT_OUT.search(block.get_text()))
        if not self.skipping:
            self.heading = [block]

    def take_cell(self, block: Tag) -> None:
        if {"tag_extra", "tag_copy-me"} & set(block["class"]) or CHECK.search(block.get_text()):
            self.text, self.aided = [], []  # what led to it and what explains it go with it
            if explorer := block.select_one(".course-explorer"):
                self.slides.append([*self.heading, explorer])
            return
        self.skipping = False
        if sum(len(words.get_text()) for words in self.text) > LONG:
            self.close()
        self.aided = [*self.heading, *self.text, block]
        self.slides.append(self.aided)
        output = block.select_one(".cell_output")
        if output and (lines(self.aided) > LINES or output.select_one(".course-explorer")):
            self.aided = [*self.heading, output.extract()]
            self.slides.append(self.aided)
        self.text = []

    def take_words(self, block: Tag) -> None:
        words = block.get_text().strip()
        if self.skipping or EXTRA.match(words):
            return
        if self.aided is not None and READING.match(words):
            self.aided.append(block)
            self.aided = None
        else:
            self.text.append(block)

    def close(self) -> None:
        """Ends the text so far as a slide of its own, or several."""
        self.slides += [[*self.heading, *group] for group in grouped(self.text)]
        self.text = []


def cut(article: Tag) -> list[list[Tag]]:
    """The slides of a lesson, each a list of elements that starts with the heading it stands under."""
    cutter = Cutter()
    for block in flat(article):
        if block.name in HEADINGS:
            cutter.take_heading(block)
        elif "cell" in (block.get("class") or []):
            cutter.take_cell(block)
        elif block.name not in ("details", "span"):
            cutter.take_words(block)
    cutter.close()
    return [slide for slide in cutter.slides if len(slide) > 1 or slide[0].name == "h1"]


def page_html(site_page: Path, lang: str) -> str:
    """The slides of one page of the site."""
    drawings: list[str] = []  # set aside: they are most of a page, and reading them most of the time

    def set_aside(drawing: re.Match) -> str:
        drawings.append(drawing[0])
        return f'<svg data-drawing="{len(drawings) - 1}"></svg>'

    text = SVG.sub(set_aside, site_page.read_text(encoding="utf-8"))
    article = BeautifulSoup(text, "html.parser").select("article.bd-article")[0]
    for mark in article.select("a.headerlink"):
        mark.decompose()
    for link in article.select('a[href^="../"]'):
        if link.get_text() in ("中文", "English"):  # the same lesson in the other language, in front of a dot
            if link.next_sibling:
                link.next_sibling.replace_with(str(link.next_sibling).removeprefix(" · "))
            link.decompose()
    for link in article.select("a[href]"):
        if not re.match("https?:", str(link["href"])):
            link.unwrap()  # the slides have no other pages
    slides = cut(article)
    body = "\n".join(
        f'<section class="slide"><div class="fit">{"".join(map(str, slide))}</div></section>' for slide in slides
    )
    body = ASIDE.sub(lambda place: drawings[int(place[1])], body)
    title = html.escape(slides[0][0].get_text())
    return PAGE.format(lang=lang, title=title, theme=THEME, body=body + NAVIGATION)


def build(root: Path) -> Path:
    """Writes build/slides from build/site. Raises CourseError if there is no site."""
    site, target = root / "build" / "site", root / "build" / "slides"
    if not (site / "index.html").is_file():
        raise CourseError(
            "还没有网站：先运行 make site，再运行 make slides。", "There is no site: run make site first."
        )
    shutil.rmtree(target, ignore_errors=True)
    links = []
    for lang in LANGUAGES:
        folder, static = target / lang, site / lang / "_static"
        (folder / "_images").mkdir(parents=True)
        for picture in (site / lang).glob("_images/*"):
            shutil.copy(picture, folder / "_images")
        for file in (static / "pygments.css", static / "favicon.svg", *DOCS.glob("slides/*"), static / "explorers.js"):
            shutil.copy(file, folder)
        style = folder / "slides.css"
        style.write_text(design.stylesheet() + style.read_text(encoding="utf-8"), encoding="utf-8")
        lessons = [page for page in sorted((site / lang).glob("*.html")) if re.match(r"[A-Z0-9]\d_", page.name)]
        links.append(f"<h2>{'中文' if lang == 'zh' else 'English'}</h2><ul>")
        for page in lessons:
            made = page_html(page, lang)
            (folder / page.name).write_text(made, encoding="utf-8")
            [title] = TITLE.findall(made)
            links.append(f'<li><a href="{lang}/{page.name}">{title}</a></li>')
        links.append("</ul>")
    index = PAGE.format(lang="zh", title="Slides", theme=THEME, body=f'<div class="list">{"".join(links)}</div>')
    (target / "index.html").write_text(re.sub(r'href="(\w+\.(css|svg))"', r'href="zh/\1"', index), encoding="utf-8")
    return target


def main(root: Path = ROOT) -> int:
    try:
        target = build(root)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    print((target / "index.html").relative_to(root))
    return 0


if __name__ == "__main__":
    sys.exit(main())
