"""make site: built by the real Sphinx and read in a real browser: links, languages, search, explorers."""

import contextlib
import functools
import http.server
import re
import shutil
import threading
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from conftest import ROOT, TOY
from test_explorer import assert_takes_text

from benchmarks import page as bench
from helpers import figures
from tools.lessons.source import lesson_names, read_lesson
from tools.site import build_site, build_slides

LESSONS = lesson_names(ROOT)
EXPLORER = re.compile(r"from helpers.explorer import \w*Explorer")  # the chat panel needs a kernel, and is not shown
WITH_EXPLORERS = [
    name for name in LESSONS if EXPLORER.search((ROOT / "notebooks" / "source" / f"{name}.py").read_text("utf-8"))
]
FIRST = "A4_attention_in_depth"  # the lesson that the tests of reading look at


# ---------------------------------------------------------------------------------------------- without Sphinx


@pytest.mark.parametrize(
    ("text", "lang", "expected"),
    [
        ("[x](../zh/99_toy.ipynb)", "zh", '<a href="99_toy.html">x</a>'),
        ("[x](../en/99_toy.ipynb)", "zh", '<a href="../en/99_toy.html">x</a>'),
        ("[x](../notebooks/en/99_toy.ipynb#why)", "en", '<a href="99_toy.html#why">x</a>'),
        ("[x](workshop.zh.md)", "zh", '<a href="workshop.html">x</a>'),
        ("[x](qwen_client.py)", "en", '<a href="../files/qwen_client.py" download>x</a>'),
        ("[a <b> `c`](../en/99_toy.ipynb)", "en", '<a href="99_toy.html">a &lt;b&gt; `c`</a>'),
        ("[x](../zh/98_gone.ipynb), [`code`](../tools/x.py)", "zh", "x, `code`"),
        ("[x](https://a.org/b.md), [y](#here)", "en", "[x](https://a.org/b.md), [y](#here)"),
        ("```python\na[0](b.md)\n```\n[x](b.md)", "en", "```python\na[0](b.md)\n```\nx"),
    ],
)
def test_links_lead_to_pages_or_stay_text(text, lang, expected):
    assert build_site.site_text(text, lang, {"99_toy", "workshop"}) == expected


def test_an_explorer_cannot_break_out_of_its_element():
    hostile = "</script><script>document.title='owned'</script><!--"
    made = build_site.explorer_html({"esm": hostile, "state": {"data": {"texts": [hostile]}}}, "")
    assert made.count("<script") == made.count("</script>") == 1 and "<!--" not in made


def test_a_figure_is_an_svg_with_words_and_names_of_its_own():
    from helpers import figures

    drawn, ax = figures.figure(height=2)
    ax.plot([1, 2])
    made = build_site.picture_html(figures.bundle(drawn), 'a "bar" <is> an expert', "cell-0")
    assert 'role="img" aria-label="a &quot;bar&quot; &lt;is&gt; an expert"' in made
    ids = set(re.findall(r'\bid="([^"]+)"', made))
    assert ids and all(name.startswith("cell-0-") for name in ids)
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', made)) <= ids
    assert "var(--ink)" in made and "<script" not in made
    png = build_site.picture_html({"image/png": "aGk=\n"}, "it's", "cell-1")
    assert png == '<div class="course-figure"><img src="data:image/png;base64,aGk=" alt="it&#x27;s"></div>'


def test_a_figure_says_how_to_read_it():
    def said(text):
        cells = [nbformat.v4.new_code_cell(""), nbformat.v4.new_markdown_cell(text)]
        output = nbformat.v4.new_output("display_data", metadata={"course": {"labels": ["loss", "step"]}})
        return build_site.alternative(cells, 0, output)

    assert (
        said("How to read it: a bar is *one* [expert](x.html). `k` is two. No more.")
        == "a bar is one expert. k is two."
    )
    assert said("读图：一根柱是一个专家。虚线是平均。别的不说。") == "一根柱是一个专家。虚线是平均。"
    assert said("Nothing.") == "loss; step"


def test_a_lessons_map_is_drawn_into_its_page(tmp_path):
    """As an SVG of the page, with the page's colours; what a notebook links stays behind."""
    lesson = read_lesson(ROOT / "notebooks" / "source" / f"{FIRST}.py")
    build_site.write_pages(ROOT, [lesson], {}, tmp_path)
    for lang, here in (("zh", "你在这里：层。"), ("en", "You are here: layers. ")):
        title = nbformat.read(tmp_path / lang / f"{FIRST}.ipynb", as_version=4).cells[0].source
        [drawn] = re.findall(r'^<div class="course-way"><svg role="img" aria-label="(.+?)".*</svg></div>$', title, re.M)
        assert drawn.startswith(here) and "![" not in title and "prefers-color-scheme" not in title


def test_a_heading_that_is_a_link_does_not_lead_away_from_the_contents():
    text = build_site.site_text("## [99 · A toy](../notebooks/en/99_toy.ipynb)\n\ntext", "en", {"99_toy"})
    assert text == '## 99 · A toy\n\n→ <a href="99_toy.html">99 · A toy</a>\n\ntext'


def test_another_model_than_the_bundled_ones_is_refused(course, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(build_site.models, "SETTINGS", tmp_path / "course.toml")
    (tmp_path / "course.toml").write_text('course_model = "Qwen/Qwen3-8B"')
    assert build_site.main(["--root", str(course.root)]) == 1
    assert "the site shows the bundled ones" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failing_lesson_leaves_the_old_site(course, capfd):
    old = course.root / "build" / "site" / "index.html"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    course.write(TOY + '\n# %% key="bad"\n1 / 0\n')
    assert build_site.main(["--root", str(course.root)]) == 1
    said = capfd.readouterr()
    assert "there is no site: 99_toy" in said.err and "ZeroDivisionError" in said.err
    assert old.read_text() == "old"


# ---------------------------------------------------------------------------------------------- the site


@pytest.fixture(scope="module")
def site():
    """The real lessons as they were recorded: tests/test_lessons.py runs them, and toy_site runs one for the site."""
    assert build_site.main(["--recorded"]) == 0
    return ROOT / "build" / "site"


@pytest.fixture(scope="module")
def served(site):
    """The address of the site on a plain web server on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def toy_site(tmp_path_factory):
    """One lesson with the routing explorer on a trace of hostile tokens."""
    root = tmp_path_factory.mktemp("course")
    source = root / "notebooks" / "source" / "99_toy.py"
    source.parent.mkdir(parents=True)
    source.write_text(TOY + EXPLORER, encoding="utf-8")
    assert build_site.main(["--root", str(root)]) == 0
    return root / "build" / "site"


EXPLORER = """
# %% key="explorer"
import numpy as np
from helpers.explorer import RoutingExplorer
from helpers.routing import RoutingTrace

pieces = (b"one", b"</script><script>document.title='owned'</script>", b"<img src=x onerror=alert(1)>", b"<!--")
draw = np.random.default_rng(0)
first = draw.uniform(0.55, 0.95, (2, 4))
trace = RoutingTrace(
    token_ids=np.arange(4), pieces=pieces, prompt_length=2, layers=(0, 1), num_experts=8,
    expert_ids=draw.random((2, 4, 8)).argsort(-1)[..., :2].astype(np.uint8),
    weights=np.stack([first, 1 - first], -1).astype(np.float16), entropy=None,
    provenance={"model": "toy", "captured_with": "numpy", "dtype": "float16", "date": "2026-11-01"},
)
RoutingExplorer(trace)

# %% [markdown] lang="zh" key="read"
# 读图：核心的读法。
#
# **选读。** 跳过的问题。

# %% [markdown] lang="en" key="read"
# How to read it: the core's aid.
#
# **Extra.** A question to skip.

# %% key="skipped" tags=["extra"]
print("skipped output")

# %% [markdown] lang="zh" key="end"
# 读输出：跳过的读法。
#
# ## 小结
#
# 一句话。
#
# ## 自测
#
# 一问。

# %% [markdown] lang="en" key="end"
# How to read it: the skipped aid.
#
# ## Recap
#
# One sentence.
#
# ## Test yourself
#
# A question.
"""


@contextlib.contextmanager
def watched(browser):
    """A page that fails the test if anything leaves this machine or a script complains."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened, problems = context.new_page(), []
    opened.set_default_timeout(120_000)
    local = ("file:", "data:", "blob:", "http://127.0.0.1:")
    opened.on("request", lambda request: None if request.url.startswith(local) else problems.append(request.url))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    yield opened
    context.close()
    assert problems == []


@pytest.fixture
def page(browser):
    with watched(browser) as opened:
        yield opened


class Links(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.targets, self.ids, self.loaded, self.formulas = [], {""}, [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids |= {attributes.get("id"), attributes.get("name")}
        self.formulas += tag == "math"
        if tag == "a" and attributes.get("href"):
            self.targets.append(attributes["href"])
        elif tag in ("link", "script", "img", "iframe", "source"):
            self.loaded += [attributes[name] for name in ("href", "src") if attributes.get(name)]


@pytest.mark.slow
@pytest.mark.network
def test_every_page_is_there_in_both_languages_and_every_link_leads_somewhere(site):
    found = [*site.glob("*.html"), *site.glob("[ez][nh]/*.html")]
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in found}
    for lang in ("zh", "en"):
        assert {path.stem for path in pages if path.parent.name == lang} >= {"index", "search", *LESSONS}
    for path, links in pages.items():
        for target in [*links.targets, *links.loaded]:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https", "mailto"):
                assert target in links.targets, f"{path} loads {target}"
            elif parts.scheme != "data":
                goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                assert goal.is_file(), f"{path}: {target}"
                assert goal.suffix != ".html" or unquote(parts.fragment) in pages[goal].ids, f"{path}: {target}"


@pytest.mark.slow
@pytest.mark.network
def test_outputs_figures_and_formulas_are_on_the_page(site):
    notebook = nbformat.read(ROOT / "notebooks" / "en" / f"{FIRST}.ipynb", as_version=4)
    text = (site / "en" / f"{FIRST}.html").read_text(encoding="utf-8")
    pictures = sum("image/png" in o.get("data", {}) for c in notebook.cells for o in c.get("outputs", []))
    assert text.count('<div class="course-figure">') == pictures > 3
    assert len(re.findall(r'<svg role="img" aria-label="[^"]{20,}"|<img [^>]*alt="[^"]{20,}"', text)) >= pictures
    formulas = sum(
        len(re.findall(r"\$\$.+?\$\$|(?<![\\$`])\$[^$\n]+\$", c.source, re.S))
        for c in notebook.cells if c.cell_type == "markdown"
    )  # fmt: skip
    assert Links(text).formulas == formulas > 3
    [answer] = [o["text"] for c in notebook.cells if c.id == "generate" for o in c.outputs]
    lines = [line for line in answer.splitlines() if line and "<" not in line]  # HTML escapes the others
    assert "1480+222=1702" in lines and "equal: True" in lines and all(line in text for line in lines)
    assert "$$" not in text


@pytest.mark.slow
@pytest.mark.network
def test_no_mark_of_markdown_is_left_on_a_page(site):
    apart = re.compile(r"<(pre|code|script|svg|math)\b.*?</\1>|<[^>]+>", re.DOTALL)
    for path in site.glob("[ez][nh]/*.html"):
        words = apart.sub(" ", path.read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0])
        assert not (left := re.findall(r".{,30}(?:\*\*|`|\$\$).{,30}", words)), (
            f"{path.parent.name}/{path.name}: {left}"
        )


@pytest.mark.slow
@pytest.mark.network
def test_the_front_page_leads_to_the_readers_language(site, browser):
    for locale, folder in (("zh-CN", "zh"), ("fr-FR", "en")):
        context = browser.new_context(locale=locale)
        page = context.new_page()
        page.goto((site / "index.html").as_uri())
        page.wait_for_url(f"**/{folder}/index.html")
        context.close()


def found(page, address, query) -> list[str]:
    page.goto(f"{address}/search.html?q={query}")
    page.wait_for_function("document.querySelector('.search-summary')?.textContent.trim()")
    return [link.get_attribute("href").split(".html")[0] for link in page.locator("ul.search li > a").all()]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(
    ("lang", "query"),
    [
        ("zh", "因果掩码"), ("zh", "注意力分数"),
        ("zh", "归一化"), ("zh", "RMSNorm"), ("zh", "注意力 rope"), ("zh", "熵"),
        ("en", "causal mask"), ("en", "rotary"), ("en", "RMSNorm"), ("en", "residual connections"),
    ],
)  # fmt: skip
def test_search_finds_the_lesson(lang, query, served, page):
    assert FIRST in found(page, f"{served}/{lang}", query)


@pytest.mark.slow
@pytest.mark.network
def test_search_does_not_find_what_is_not_there(served, page):
    """All of a query's pairs of characters must be on a page: those of 码掩果因 are not, though each character is."""
    for lang, query in (("zh", "码掩果因"), ("zh", "鑫鑫"), ("en", "zyzzyva")):
        assert found(page, f"{served}/{lang}", query) == []


@pytest.mark.slow
@pytest.mark.network
def test_search_from_the_sidebar(served, page):
    page.goto(f"{served}/zh/index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("因果掩码")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=*")
    page.locator(f"ul.search a[href^='{FIRST}']").first.click()
    page.wait_for_url(f"**/zh/{FIRST}.html*")


class Visit(NamedTuple):
    """What a page was at each width (0: on paper): ``wide`` its width in pixels, ``cut`` the code cut off there,
    ``columns`` of its code blocks (0 where it has none); ``backgrounds`` as the system asks for light and dark."""

    folder: str
    name: str
    lang: str
    wide: dict[int, int]
    cut: dict[int, list[str]]
    columns: dict[int, float]
    backgrounds: list[str]


LOOK = """() => {
  const blocks = [...document.querySelectorAll(".bd-article pre")];
  const cut = blocks.filter(pre => pre.scrollWidth > pre.clientWidth + 1).map(pre => pre.textContent.slice(0, 40));
  const pre = document.querySelector(".bd-article div.highlight pre");
  if (!pre) return [document.documentElement.scrollWidth, cut, 0];
  const style = getComputedStyle(pre), letter = document.createElement("span");
  letter.textContent = "m".repeat(100);
  letter.style.whiteSpace = "pre";
  pre.append(letter);
  const one = letter.getBoundingClientRect().width / 100;
  letter.remove();
  const room = pre.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  return [document.documentElement.scrollWidth, cut, room / one];
}"""


def visit(page, folder: str, name: str) -> Visit:
    """Looks at the page that is open, without loading it again."""
    looks = {}
    for width in (1280, 1920, 375):
        page.set_viewport_size({"width": width, "height": 800})
        looks[width] = page.evaluate(LOOK)
    if name == "copy-me":
        page.emulate_media(media="print")
        looks[0] = page.evaluate(LOOK)
        page.emulate_media(media="screen")
    backgrounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
        backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    wide, cut, columns = ({width: look[part] for width, look in looks.items()} for part in range(3))
    lang = page.locator("html").get_attribute("lang")
    page.set_viewport_size({"width": 1280, "height": 800})
    return Visit(folder, name, lang, wide, cut, columns, backgrounds)


@pytest.fixture(scope="module")
def visits(served, browser) -> list[Visit]:
    """Every page in both languages, once: from the Chinese one by its language switch to the English one and back."""
    seen = []
    with watched(browser) as page:
        for name in ("index", "search", "copy-me", *LESSONS):
            page.goto(f"{served}/zh/{name}.html")
            for folder, other in (("zh", "en"), ("en", "zh")):
                seen.append(visit(page, folder, name))
                page.locator("a.course-language:visible").first.click()
                page.wait_for_url(f"**/{other}/{name}.html")
    return seen


@pytest.mark.slow
@pytest.mark.network
def test_the_language_switch_keeps_the_page(visits):
    for seen in visits:
        assert seen.lang == {"zh": "zh-CN", "en": "en"}[seen.folder], seen.name
    assert len(visits) == 2 * (len(LESSONS) + 3)


@pytest.mark.slow
@pytest.mark.network
def test_pages_fit_a_phone_and_follow_the_theme(visits):
    for seen in visits:
        assert seen.wide[375] <= 375, f"{seen.folder}/{seen.name}"
        assert len(set(seen.backgrounds)) == 2, f"{seen.folder}/{seen.name}"


@pytest.mark.slow
@pytest.mark.network
def test_code_is_never_cut_and_88_columns_stay_one_line(visits):
    with_code = [seen for seen in visits if seen.columns[1280]]
    assert {seen.name for seen in with_code} >= {"copy-me", *LESSONS}
    for seen in with_code:
        assert not any(seen.cut.values()), f"{seen.folder}/{seen.name}: {seen.cut}"
        assert min(seen.columns[1280], seen.columns[1920]) >= 90, f"{seen.folder}/{seen.name}: {seen.columns}"


@pytest.mark.slow
@pytest.mark.network
def test_the_front_page_is_light_and_says_what_it_is(served, page):
    for lang in ("zh", "en"):
        loaded = []

        def note(response, loaded=loaded):
            if response.url.startswith("http"):  # the worker's own script is none of the network's
                loaded.append(len(response.body()))

        page.on("response", note)
        page.goto(f"{served}/{lang}/index.html", wait_until="networkidle")
        assert 3 <= len(loaded) <= 12 and sum(loaded) <= 400_000, f"{len(loaded)} requests, {sum(loaded)} bytes"
        inside = page.frame_locator(".course-play iframe")
        assert inside.locator("h1").is_hidden() and inside.locator("html").get_attribute("lang").startswith(lang)
        if lang == "zh":  # the model comes with the first touch
            inside.locator(".dials .go").click()
            inside.locator(".answer .chip").last.wait_for(state="attached")
            assert sum(loaded) > 6_000_000
        described = page.locator("meta[name=description]").get_attribute("content")
        assert len(described) > 40 and page.locator("meta[property='og:image']").count() == 1
        title = page.locator("article h1").inner_text().removesuffix("#")
        assert page.title().count(title) <= 1 and page.get_by_text(title, exact=True).count() <= 1
        cards = page.locator(".course-cards a")
        assert cards.count() == len(LESSONS) == page.locator(".course-cards svg").count()
        page.locator(".course-call a").last.click()
        page.wait_for_url(f"**/{lang}/{LESSONS[0]}.html")
        page.go_back(wait_until="networkidle")
        page.locator(".course-call a").first.click()
        page.wait_for_url(f"**/play.html?lang={lang}")


@pytest.mark.slow
@pytest.mark.network
def test_code_is_copied_and_folds_on_a_phone(served, page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{served}/en/copy-me.html")
    block = page.locator(".bd-article div.highlight").first
    block.hover()
    block.locator(".course-copy").click()
    block.locator(".course-copy.done").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == block.locator("pre").text_content()
    contents = page.locator("#pst-page-toc-nav a").all()
    assert len(contents) > 5 and all(link.get_attribute("href").startswith("#") for link in contents)
    page.set_viewport_size({"width": 375, "height": 800})
    page.goto(f"{served}/en/{FIRST}.html")
    cell = page.locator(".cell_input:has(.course-unfold)").first
    folded = cell.locator("pre").bounding_box()["height"]
    assert folded < 50 and cell.locator(".course-unfold").get_attribute("aria-expanded") == "false"
    cell.locator(".course-unfold").click()
    assert cell.locator("pre").bounding_box()["height"] > 2 * folded
    page.emulate_media(media="print")
    heights = page.locator(".course-folded pre").evaluate_all(
        "all => all.map(pre => pre.scrollHeight - pre.clientHeight)"
    )
    assert heights and max(heights) <= 1  # what is folded on the screen is printed whole


@pytest.mark.slow
@pytest.mark.network
def test_a_figure_is_enlarged_and_closed_by_the_keyboard(served, page):
    page.goto(f"{served}/en/{FIRST}.html")
    figure = page.locator(".course-figure").first
    figure.scroll_into_view_if_needed()
    small = figure.locator("> *").first.bounding_box()["width"]
    figure.locator(".course-enlarge").focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog.course-dialog :is(svg, img)").bounding_box()["width"] > 1.3 * small
    page.keyboard.press("Escape")
    page.locator("dialog.course-dialog").wait_for(state="detached")


PHONE = """() => {
  const look = (selector, read) => [...document.querySelectorAll(selector)].map(read);
  const tables = look(".bd-article table:not(.course-explorer *)", table => ({
    scrolls: table.scrollWidth > table.clientWidth, reached: table.tabIndex === 0,
    narrowest: Math.min(...[...table.querySelectorAll("td")].map(cell => cell.getBoundingClientRect().width)),
  }));
  const figure = document.querySelector(".course-figure:not(.course-explorer *)");
  figure.insertAdjacentHTML("afterend", `<div class="course-figure" id="picture"><img alt="" src="data:,"></div>`);
  return { tables, figure: figure.firstElementChild.getBoundingClientRect().width,
    line: getComputedStyle(document.documentElement).getPropertyValue("--line").trim(),
    borders: look(".bd-article .cell_input", cell => getComputedStyle(cell).borderTopColor) };
}"""


@pytest.mark.slow
@pytest.mark.network
def test_on_a_phone_in_the_dark_tables_figures_and_code_are_readable(served, page):
    page.set_viewport_size({"width": 375, "height": 800})
    page.emulate_media(color_scheme="dark")
    page.goto(f"{served}/zh/08_serving_under_load.html")
    seen = page.evaluate(PHONE)
    assert {table["scrolls"] for table in seen["tables"]} == {True, False}  # one of five columns has no room
    for table in seen["tables"]:
        assert table["reached"] == table["scrolls"] and table["narrowest"] > 60, table
    assert seen["figure"] >= 96 * figures.WIDTH  # as drawn, so that 9 points are 12 pixels
    line = tuple(int(seen["line"][at : at + 2], 16) for at in (1, 3, 5))
    assert set(seen["borders"]) == {f"rgb{line}"}
    shown = page.locator("#picture img")
    assert "invert" in shown.evaluate("node => getComputedStyle(node).filter")
    page.emulate_media(color_scheme="light")
    page.wait_for_function("document.documentElement.dataset.theme === 'light'")
    assert shown.evaluate("node => getComputedStyle(node).filter") == "none"


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(("lang", "query"), [("zh", "因果掩码"), ("en", "causal mask")])
def test_search_shows_the_sentence_found(lang, query, served, page):
    found(page, f"{served}/{lang}", query)
    shown = page.locator(f"ul.search li:has(a[href^='{FIRST}']) .context mark").first
    assert shown.inner_text().lower() == query


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_explorers_of_the_lessons_work_without_a_kernel(lang, served, page):
    for name in WITH_EXPLORERS:
        assert_explorers_react(page, f"{served}/{lang}/{name}.html")


def assert_explorers_react(page, address):
    page.goto(address)
    places = page.locator(".course-explorer").all()
    assert places, address
    for place in places:
        place.locator(".course-figure").wait_for(state="detached")
        button = place.locator("button[aria-pressed=false]").first
        value = button.get_attribute("value")
        button.click()
        pressed = place.locator(f"button[value='{value}']").first
        assert pressed.get_attribute("aria-pressed") == "true", address


@pytest.mark.large
@pytest.mark.network
def test_explorers_of_lessons_that_have_just_run_work_from_the_disk(tmp_path, page):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    assert build_site.main([*WITH_EXPLORERS, "--root", str(tmp_path)]) == 0
    for lang in ("zh", "en"):
        for name in WITH_EXPLORERS:
            assert_explorers_react(page, (tmp_path / "build" / "site" / lang / f"{name}.html").as_uri())


@pytest.mark.slow
@pytest.mark.network
def test_from_the_disk_an_explorer_is_clicked_and_hostile_tokens_stay_text(toy_site, page):
    page.goto((toy_site / "zh" / "99_toy.html").as_uri())
    place = page.locator(".course-explorer")
    place.locator(".course-figure").wait_for(state="detached")
    chips = place.locator(".rx-chip")
    assert chips.count() == 4
    assert "</script>" in chips.nth(1).inner_text() and "<!--" in chips.nth(3).inner_text()
    for token in (2, 0):
        chips.nth(token).click()
        assert [chip.get_attribute("aria-pressed") for chip in chips.all()].index("true") == token
    assert "专家路由" in place.inner_text() and page.title().startswith("99")
    page.locator("a.course-language").first.click()
    page.wait_for_url("**/en/99_toy.html")  # or a page that is not there yet has no picture either
    page.locator(".course-explorer .course-figure").wait_for(state="detached")
    assert "Expert routing" in page.locator(".course-explorer").inner_text()


@pytest.mark.slow
@pytest.mark.network
def test_an_explorer_takes_the_readers_own_text_without_a_kernel(toy_site, page):
    with bench.served(toy_site) as address:
        page.goto(f"{address}en/99_toy.html")
        assert_takes_text(page.locator(".course-explorer"))


@pytest.mark.slow
@pytest.mark.network
def test_without_scripts_the_explorer_is_a_picture(toy_site, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((toy_site / "en" / "99_toy.html").as_uri())
    assert page.locator(".course-explorer svg").bounding_box()["height"] > 50
    context.close()


# ---------------------------------------------------------------------------------------------- slides


def test_a_title_is_text(tmp_path):
    title = "&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt; &amp;amp; a &lt; b"
    file = tmp_path / "01_x.html"
    file.write_text(f'<article class="bd-article"><h1>{title}</h1><p>text</p></article>', encoding="utf-8")
    made = build_slides.page_html(file, "en")
    assert "<script>alert" not in made and f"<title>{title}</title>" in made


def test_what_follows_an_extra_cell_stays_out_of_the_slides_as_does_the_other_language(tmp_path):
    file = tmp_path / "01_x.html"
    file.write_text(
        '<article class="bd-article"><h1>01 · x</h1><p><a href="../en/01_x.html">English</a> · recorded</p>'
        '<h2>More (extra)</h2><div class="cell tag_extra"><pre>1</pre></div><p>stray</p>'
        "<h2>Recap</h2><p>kept</p></article>",
        encoding="utf-8",
    )
    made = build_slides.page_html(file, "zh")
    assert "stray" not in made and "English" not in made and "<p>recorded</p>" in made and "kept" in made


def test_slides_need_the_site(tmp_path, capsys):
    assert build_slides.main(tmp_path) == 1
    assert "run make site first" in capsys.readouterr().err and not (tmp_path / "build").exists()


@pytest.mark.slow
@pytest.mark.network
def test_slides_show_the_core_and_nothing_else(toy_site, page):
    root = toy_site.parent.parent
    assert build_slides.main(root) == 0
    page.goto((root / "build" / "slides" / "index.html").as_uri())
    page.click("a[href='en/99_toy.html']")
    page.wait_for_url("**/en/99_toy.html")
    slides = page.locator(".slide")
    texts = [slide.text_content() for slide in slides.all()]
    assert "import sys" in texts[0]
    assert "6 * 7" in texts[1] and "the 3 rows sum to" in texts[1] and "42" in texts[1]
    assert "RoutingExplorer(trace)" in texts[2] and "the core’s aid" in texts[3]  # an explorer has a slide of its own
    assert "One sentence." in texts[4] and len(texts) == 5
    everything = " ".join(texts)
    assert not any(word in everything for word in ("skip", "A question", "Test yourself"))
    for key, shown in (("ArrowRight", 1), (" ", 2), ("End", 4), ("ArrowLeft", 3)):
        page.keyboard.press(key)
        page.locator(f".slide:nth-of-type({shown + 1}).shown").wait_for()
        assert [slide.is_visible() for slide in slides.all()].count(True) == 1
    page.locator(".course-explorer .course-figure").wait_for(state="detached")
    page.locator(".rx-chip").nth(3).click()
    assert page.locator(".rx-chip").nth(3).get_attribute("aria-pressed") == "true"


OVER = """async () => {
  const over = [];
  for (const slide of document.querySelectorAll(".slide")) {
    location.hash = over.length + 1;
    while (!slide.classList.contains("shown")) await new Promise(requestAnimationFrame);
    over.push([slide.scrollHeight - slide.clientHeight, slide.scrollWidth - slide.clientWidth]);
  }
  return over;
}"""


TO_EXPLORER = """() => {
  const explorers = [...document.querySelectorAll(".slide")].map(slide => slide.querySelector(".course-explorer"));
  location.hash = 1 + explorers.findIndex(Boolean);
}"""
WHOLE = """() => {
  const slide = document.querySelector(".slide.shown"), explorer = slide.querySelector(".rx");
  if (!explorer) return false;
  const panels = [...explorer.querySelectorAll(".rx-panel")].map(panel => panel.getBoundingClientRect().bottom);
  return panels.length >= 3 && slide.scrollHeight <= slide.clientHeight + 1
    && Math.max(...panels) <= Math.min(innerHeight, explorer.getBoundingClientRect().bottom) + 1;
}"""


@pytest.mark.slow
@pytest.mark.network
def test_every_core_cell_of_a_lesson_has_its_slide_which_fits_the_screen(site, page):
    assert build_slides.main() == 0
    core = [
        cell
        for cell in read_lesson(ROOT / "notebooks" / "source" / f"{FIRST}.py").code_cells
        if "extra" not in cell.tags and not cell.key.endswith("-check")
    ]
    for lang in ("zh", "en"):
        for width, height in ((1920, 1080), (1024, 768)):
            page.set_viewport_size({"width": width, "height": height})
            page.goto((ROOT / "build" / "slides" / lang / f"{FIRST}.html").as_uri())
            over = page.evaluate(OVER)
            assert len(over) == page.locator(".slide").count() > 5
            for number, sizes in enumerate(over, 1):
                assert max(sizes) <= 1, f"{lang} slide {number} at {width}"
        text = (ROOT / "build" / "slides" / lang / f"{FIRST}.html").read_text(encoding="utf-8")
        assert len(re.findall(r'class="cell_input', text)) == len(core) > 5
        for width, height in ((1920, 1080), (1024, 768)):
            page.set_viewport_size({"width": width, "height": height})
            page.goto((ROOT / "build" / "slides" / lang / "04_moe_routing.html").as_uri())
            page.locator(".course-explorer .rx-panel").first.wait_for(state="attached")
            page.evaluate(TO_EXPLORER)
            page.wait_for_function(WHOLE)  # nothing of it is below the edge, and nothing scrolls
        lessons = {path.name for path in (ROOT / "build" / "slides" / lang).glob("*.html")}
        assert lessons == {f"{name}.html" for name in LESSONS}
