"""Single functions of the explorers' JavaScript, in a real browser; whole explorers have tests of their own."""

import math

import pytest

from helpers import routing
from helpers.explorer import RoutingExplorer, page
from helpers.explorer.page import javascript


@pytest.fixture
def call(browser):
    """``call(code, script)`` in a page of any address: what an expression gives after an explorer's script has run."""
    context = browser.new_context(locale="de-DE", color_scheme="light")

    def answer(code, script="dom", path="/", html="<html>"):
        context.route("**/*", lambda route: route.fulfill(body=f"<!doctype html>{html}", content_type="text/html"))
        opened = context.new_page()
        opened.goto(f"http://page.test{path}")
        text = page.FOLDER.joinpath("dom.js").read_text("utf-8") if script == "dom" else javascript(*script)
        opened.add_script_tag(content=text.replace("export default", "globalThis.explorer ="))
        return opened.evaluate(code)

    yield answer
    context.close()


@pytest.mark.parametrize(
    ("kernel", "path", "html", "language"),
    [
        ("en", "/zh/05.html", "<html lang=zh>", "en"),  # the kernel knows best
        (None, "/lab/tree/my/zh/05.ipynb", "<html lang=en>", "zh"),  # then the folder in the address
        (None, "/lab/tree/%E6%88%91/en/05.ipynb", "<html lang=zh-CN>", "en"),
        (None, "/french/zhen/05.ipynb", "<html lang=zh-Hans>", "zh"),  # then the page
        (None, "/zh", "<html>", "en"),  # then the browser: what is not Chinese gets English
    ],
)
def test_the_language_of_a_page(kernel, path, html, language, call):
    assert call(f"pageLanguage({'null' if kernel is None else repr(kernel)})", path=path, html=html) == language


@pytest.mark.parametrize(
    ("html", "dark"),
    [
        ("<html><body>", False),
        ("<html data-theme=dark><body>", True),
        ("<html data-theme=dark><body data-jp-theme-light=true>", False),
        ("<html><body data-jp-theme-light=false>", True),
        ("<html data-theme=light><body data-vscode-theme-kind=vscode-dark>", True),
        ("<html><body data-vscode-theme-kind=vscode-light>", False),
    ],
)
def test_light_or_dark_is_what_the_surroundings_say(html, dark, call):
    assert call("isDark()", html=html) is dark


def test_a_label_fills_in_its_values_and_stays_text(call):
    code = """() => {
        const state = { lang: "en" }, labels = { en: { a: "{x} of {y}, {x}" }, zh: { a: "{y} 之 {x}" } };
        const { label, said, translate } = explorerPage(labels, state, () => {}), node = element("p");
        said(node, () => label("a", { x: "<b>&amp;", y: 3 }));
        const shown = ["en", "zh"].map((lang) => (Object.assign(state, { lang }), translate(), node.textContent));
        return [...shown, node.children.length];
    }"""
    assert call(code, ["routing"]) == ["<b>&amp; of 3, <b>&amp;", "3 之 <b>&amp;", 0]


def test_numbers_come_out_of_base64(call):
    code = """[numbers(null, 16), [...numbers("AAH/", 8)], [...numbers("AQD/fwCA", 16)]]"""  # the low byte first
    assert call(code, ["routing"]) == [None, [0, 1, 255], [1, 0x7FFF, 0x8000]]


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_on_a_colour_can_be_read(call):
    trace = routing.RoutingTrace.load(routing.recorded_path("qwen3-moe-tiny"))
    data = RoutingExplorer(trace).data
    colours = [*data["scale"], *data["expertColours"]]
    for colour, ink in zip(colours, call(f"{colours}.map(inkOn)", ["routing"]), strict=True):
        low, high = sorted((luminance(colour), luminance(ink)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (colour, ink)


def test_draws_and_entropy_at_their_edges(call):
    code = """[pick([0.25, 0.75], () => 0.2499), pick([0.25, 0.75], () => 0.25), pick([0, 1, 0], () => 0),
        pick([0.7, 0.3 - 1e-12, 0], () => 1 - 1e-15), entropy([1, 0, 0]), entropy([0.5, 0.25, 0.25])]"""
    *drawn, certain, spread = call(code, ["sampling", "errors", "sample"])
    assert drawn == [0, 1, 1, 0]  # rounding left a rest: the likeliest, never one that is impossible
    assert certain == 0 and math.isclose(spread, 1.5)


def test_what_sampling_leaves_and_cuts(call):
    code = """(() => {
        const logprobs = Float64Array.from([0.4, 0.3, 0.2, 0.1], Math.log);
        const plain = { temperature: 1, topK: 0, topP: 1, minP: 0 };
        return [{}, { topK: 2 }, { topP: 0.75 }, { temperature: 0 }, { minP: 0.6 }]
            .map((options) => settle(logprobs, { ...plain, ...options }))
            .map(({ used, kept, cut }) => [[...used], kept, cut]);
    })()"""
    found = call(code, ["sampling", "errors", "sample"])
    assert [kept for _, kept, _ in found] == [4, 2, 3, 1, 2]
    assert [cut for _, _, cut in found] == pytest.approx([0, 0.3, 0.1, 0, 0.3])
    assert all(sum(used) == pytest.approx(1) for used, _, _ in found)
    assert found[1][0] == pytest.approx([4 / 7, 3 / 7, 0, 0])
