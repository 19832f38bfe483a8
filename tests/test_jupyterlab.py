"""Every lesson in a real JupyterLab and a real browser: one language run from the menu, the other opened as it comes.

`make test` runs lesson 04, which has formulas, figures and an explorer, and opens it; `make test-all` all. One server
and one browser for all; what the server shows is a copy of the course. SCREENSHOTS=folder keeps pictures.
"""

import json
import re
import shutil
from urllib.parse import urlsplit

import nbformat
import pytest
from conftest import LESSONS, ROOT, languages
from jupyterlab_server import JupyterLab, screenshot, wait_until
from test_explorer import assert_shows

from helpers import models
from helpers.capture import capture_conversation
from helpers.explorer.routing import LABELS
from helpers.lessons.l04.record import QUESTIONS

pytestmark = pytest.mark.large
ROUTING = "04_moe_routing"
IN_CI = ("01_environment", ROUTING)  # with explorers; the others before a release
CASES = [name if name in IN_CI else pytest.param(name, marks=pytest.mark.release) for name in LESSONS]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "build", "my", "course.toml", "__pycache__", "*.egg-info", ".*_cache"
)
FORMULA = re.compile(r"\$[^$\n]+\$")

# Pictures, links, and the characters that no installed font has: they look like one that no font can have.
LOOK = """() => {
  const panel = document.querySelector(".jp-NotebookPanel:not(.lm-mod-hidden)");
  const pictures = [...panel.querySelectorAll(".jp-OutputArea img, .jp-RenderedMarkdown img")];
  const context = Object.assign(document.createElement("canvas"), { width: 48, height: 48 }).getContext("2d",
    { willReadFrequently: true });
  context.font = "24px " + getComputedStyle(panel.querySelector(".jp-RenderedMarkdown") || panel).fontFamily;
  const drawn = (text) => {
    context.clearRect(0, 0, 48, 48);
    context.fillText(text, 8, 32);
    return context.getImageData(0, 0, 48, 48).data.join();
  };
  const box = drawn("\\u{10fffe}");
  const characters = [...new Set(panel.innerText)].filter((character) => character > "\\x7f");
  return {
    pictures: pictures.length,
    broken: pictures.filter((picture) => !picture.naturalWidth).map((picture) => picture.alt || "picture"),
    missing: characters.filter((character) => drawn(character) === box).join(""),
    drawn: panel.querySelectorAll("mjx-container").length,
    formulas: [...panel.querySelectorAll("mjx-merror, math [mathcolor=red]")].map((node) => node.textContent),
    links: [...panel.querySelectorAll(".jp-RenderedMarkdown a[href]")].map((link) => link.href),
  };
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jupyterlab")
    shutil.copytree(ROOT, folder / "course", ignore=LEFT_OUT)
    patch = pytest.MonkeyPatch()
    for variable in ("COURSE_MODEL", "COURSE_MOE_MODEL", "OPENAI_BASE_URL"):
        patch.delenv(variable, raising=False)
    # The kernels take the copy's helpers, so that a lesson that stores a choice stores it there.
    with JupyterLab(folder / "course", folder / "state", variables={"PYTHONPATH": str(folder / "course")}) as started:
        yield started
    patch.undo()


def saved_pictures(lab, notebook: str) -> int:
    cells = nbformat.read(lab.folder / notebook, as_version=4).cells
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


def prose(lab, notebook: str) -> str:
    """The text of a notebook without what is code in it."""
    cells = nbformat.read(lab.folder / notebook, as_version=4).cells
    return re.sub(r"`+[^`]*`+", "", "\n".join(cell.source for cell in cells if cell.cell_type == "markdown"))


def assert_page_is_sound(lab, page, notebook: str, pictures: int):
    page.wait_for_function("() => [...document.querySelectorAll('.jp-OutputArea img')].every((i) => i.complete)")
    looks, has_formulas = [None], bool(FORMULA.search(prose(lab, notebook)))

    def is_settled() -> bool:  # text, links and formulas are drawn whether or not the kernel is ready
        looks.append(page.evaluate(LOOK))
        return looks[-1] == looks[-2] and bool(looks[-1]["links"]) and bool(looks[-1]["drawn"]) == has_formulas

    wait_until(is_settled)
    seen = looks[-1]
    assert (seen["broken"], seen["missing"], seen["formulas"]) == ([], "", [])
    assert seen["pictures"] >= pictures
    for link in dict.fromkeys(seen["links"]):
        address = urlsplit(link)
        if link.startswith(lab.address) and address.path.startswith("/files/"):
            assert page.request.get(link).ok, f"{notebook}: the link {address.path} leads nowhere"
        else:
            assert address.scheme == "https" or address.fragment, f"{notebook}: the link {link} cannot be followed"


def assert_explorer_reacts(explorer, lang: str):
    """The language switch changes its words and back; at least one other control changes what it shows."""
    other = "en" if lang == "zh" else "zh"
    assert explorer.locator(f"button[value={lang}][aria-pressed=true]").count() == 1
    before = explorer.inner_text()
    explorer.locator(f"button[value={other}]").first.click()
    assert explorer.inner_text() != before
    explorer.locator(f"button[value={lang}]").first.click()
    assert explorer.inner_text() == before
    sliders = explorer.locator("input[type=range]:enabled, select:enabled, input[type=number]:enabled")
    buttons = explorer.locator("button:enabled:not([value=zh]):not([value=en])")
    shown = explorer.evaluate("root => root.innerHTML")
    controls = [(sliders.nth(i), "ArrowRight") for i in range(sliders.count())]
    controls += [(buttons.nth(i), "Enter") for i in range(min(5, buttons.count()))]
    for control, key in controls:
        control.press(key)
        if explorer.evaluate("root => root.innerHTML") != shown:
            return
    raise AssertionError("no control of the explorer changes what it shows")


def assert_shows_its_own_conversation(page, explorer, lang: str):
    """The explorer of lesson 04 shows the routing that the lesson's model has in the lesson's conversation."""
    import torch
    from transformers import AutoTokenizer

    from helpers.qwen import load_model

    folder = models.find_checkpoint("qwen3-moe-tiny")
    model, tokenizer = load_model(folder, torch.float32, "cpu"), AutoTokenizer.from_pretrained(folder)
    wanted = capture_conversation(model, tokenizer, QUESTIONS)
    assert LABELS[lang]["title"] in explorer.inner_text()  # by the notebook's folder
    explorer.scroll_into_view_if_needed()
    assert explorer.evaluate("""root => {
        const [text, chip] = [".rx-text", ".rx-chip[aria-pressed=true]"].map(
            (part) => root.querySelector(part).getBoundingClientRect());
        return text.top <= chip.top && chip.bottom <= text.bottom;
    }""")
    assert_shows(page, wanted, wanted.prompt_length + 2, 0)
    explorer.locator(".rx-chip").nth(20).click()
    assert_shows(page, wanted, 20, 0)
    explorer.locator(".rx-layer").fill("3")
    assert_shows(page, wanted, 20, 3)
    explorer.locator(".rx-layer").focus()
    page.keyboard.press("ArrowLeft")  # on the slider: a layer back
    assert_shows(page, wanted, 20, 2)
    explorer.locator(".rx-chip").nth(30).click()
    page.keyboard.press("ArrowUp")
    assert_shows(page, wanted, 30, 1)


@pytest.mark.parametrize("name", CASES)
def test_lesson_in_jupyterlab(name, lab, browser):
    lang = languages(name)[0]
    notebook = f"notebooks/{lang}/{name}.ipynb"
    pictures = saved_pictures(lab, notebook)
    page = lab.open(browser, notebook)
    try:
        lab.run_all(page)
        assert lab.complaints(page) == []
        explorers = page.locator(".rx:not(.cx)")
        if name == ROUTING:
            assert explorers.count() == 1
            assert_shows_its_own_conversation(page, explorers.first, lang)
        for index in range(explorers.count()):
            assert_explorer_reacts(explorers.nth(index), lang)
        # A live widget stands where the unrun notebook has its picture.
        assert_page_is_sound(lab, page, notebook, pictures - explorers.count())
        assert lab.complaints(page) == []
    finally:
        page.locator(".rx, .jp-OutputArea img, .jp-Cell").first.scroll_into_view_if_needed()
        screenshot(page, f"{name}-{lang}-run")
        lab.close(page)


@pytest.mark.parametrize("name", CASES)
def test_other_language_opened_unrun(name, lab, browser):
    lang = languages(name)[1]
    notebook = f"notebooks/{lang}/{name}.ipynb"
    page = lab.open(browser, notebook)
    try:
        assert_page_is_sound(lab, page, notebook, saved_pictures(lab, notebook))
        assert lab.complaints(page) == []
    finally:
        screenshot(page, f"{name}-{lang}-opened")
        lab.close(page)


def test_these_checks_see_what_is_wrong(lab, browser):
    """A notebook with one of each: a failing cell, stderr, a picture that is none, a lost link and a lost glyph."""
    cells = ["import sys\n\nprint('careful', file=sys.stderr)", "print('printed before')\n1 / 0", "print('never')"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    text = "中文 ▶ \U0003134f [lost](../zh/98_lost.ipynb) ![none](none.png) $\\nothing$"
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell(text))
    path = "notebooks/zh/98_wrong.ipynb"
    (lab.folder / path).write_text(json.dumps(notebook), encoding="utf-8")
    page = lab.open(browser, path)
    try:
        lab.run_all(page)
        wait_until(lambda: len(lab.complaints(page)) >= 2)
        stderr, error = lab.complaints(page)
        assert "careful" in stderr and "printed before\n" in error and "ZeroDivisionError" in error
        page.wait_for_selector("mjx-container")
        seen = page.evaluate(LOOK)
        assert seen["broken"] == ["none"] and seen["missing"] == "\U0003134f" and seen["formulas"] == ["\\nothing"]
        [link] = seen["links"]
        assert "98_lost" in link and not page.request.get(link).ok
    finally:
        lab.close(page)
        (lab.folder / path).unlink()
