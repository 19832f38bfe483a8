"""helpers/explorer: the data it is given, the saved page in a real browser, and the widget inside a real JupyterLab."""

import base64
import json
import re
from dataclasses import replace

import nbformat
import numpy as np
import pytest
from jupyterlab_server import JupyterLab, screenshot

from helpers.explorer import MemoryExplorer, RoutingExplorer, live
from helpers.explorer.page import RECORDED, replayed
from helpers.explorer.routing import JAVASCRIPT, LABELS, captions
from helpers.routing import RoutingTrace, expert_load
from helpers.tokens import shown

HOSTILE = [
    b"</script><script>document.title='owned'</script>",
    b"<img src=x onerror=\"document.title='owned'\">",
    b"<!--",
    b"&amp;",
    b"\"'`{title}",
    "\u200b\u202e\u200f".encode(),
    b"\n",
]
PIECES = [
    b"<|im_start|>",
    "你好".encode(),
    *(bytes([byte]) for byte in "🙂".encode()),
    *HOSTILE,
    b" 12",
    b"\xe4",
    b" end",
]
PROMPT_LENGTH = 9
EXPERTS, LAYERS, TOP_K = 8, (0, 2, 3), 2  # layer 1 of the model is dense


@pytest.fixture(scope="module")
def trace():
    draw = np.random.default_rng(0)
    shape = (len(LAYERS), len(PIECES))
    first = draw.uniform(0.55, 0.95, shape)
    return RoutingTrace(
        token_ids=np.arange(100, 100 + len(PIECES)),
        pieces=tuple(PIECES),
        prompt_length=PROMPT_LENGTH,
        layers=LAYERS,
        expert_ids=draw.random((*shape, EXPERTS)).argsort(-1)[..., :TOP_K].astype(np.uint8),
        weights=np.stack([first, 1 - first], -1).astype(np.float16),
        entropy=draw.uniform(0, np.log(EXPERTS), shape).astype(np.float16),
        num_experts=EXPERTS,
        provenance={"model": "</script>", "captured_with": "numpy", "dtype": "float16", "date": "2026-11-01"},
    )


# ---------------------------------------------------------------------------------------------- without a browser


def test_both_languages_have_the_same_labels():
    assert LABELS["zh"].keys() == LABELS["en"].keys()
    for name, zh in LABELS["zh"].items():
        assert set(re.findall(r"\{\w+\}", zh)) == set(re.findall(r"\{\w+\}", LABELS["en"][name])), name
    assert set(re.findall(r'label\("(\w+)"', JAVASCRIPT)) <= LABELS["en"].keys()


def test_captions_fit_the_trace(trace):
    def said(changed):
        both = captions(changed)
        assert len(both["zh"]) == len(both["en"])
        return " ".join(both["en"])

    assert "renormalised over the chosen 2 and hide the probability of the other 6" in said(trace)
    assert "add up to less than 1" in said(replace(trace, weights=(trace.weights / 2).astype(np.float16)))
    assert "not their weights" in said(replace(trace, weights=None))
    assert "shapes only" in said(replace(trace, provenance={"model": "x", "weights": "random"}))
    assert "tiny teaching model" in said(replace(trace, provenance={"model": "qwen3-tiny", "weights": "trained"}))
    assert "tiny" not in said(trace)


def test_the_javascript_stands_alone():
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|\bimport\b|\brequire\(|innerHTML|fetch\(", JAVASCRIPT)
    assert "</script" not in JAVASCRIPT


def test_the_saved_page_cannot_be_broken_by_its_data(trace, tmp_path):
    RoutingExplorer(trace).to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    data = page.split('id="data">')[1].split("</script>")[0]
    assert "<" not in data and json.loads(data)["texts"][6] == HOSTILE[0].decode()
    assert not re.search(r"(src|href)=", page.replace(data, ""))
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_the_output_holds_a_picture_for_where_no_widget_runs(trace):
    bundle, _ = RoutingExplorer(trace)._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == "RoutingExplorer(3 layers x 16 tokens, 8 experts)"
    assert "application/vnd.jupyter.widget-view+json" in bundle


@pytest.mark.parametrize("kind", ["routing", "memory"])
def test_a_recording_holds_what_the_class_does_not_know(kind, trace):
    shown = RoutingExplorer(trace, token=3, layer=1) if kind == "routing" else MemoryExplorer(context=8192)
    bundle, _ = shown._repr_mimebundle_()
    recorded = json.loads(json.dumps(bundle[RECORDED]))
    assert len(json.dumps(recorded)) < 4000
    made = replayed(recorded)
    assert made["esm"] == shown._esm
    assert json.loads(json.dumps(made["state"]["data"])) == json.loads(json.dumps(shown.data | {"lang": None}))


@pytest.mark.parametrize(
    "recorded", [{}, {"explorer": "os", "packed": ""}, {"explorer": "RoutingExplorer", "packed": "aGk="}]
)
def test_what_is_no_recording_is_refused(recorded):
    with pytest.raises(ValueError, match="no recorded explorer"):
        replayed(recorded)


# ---------------------------------------------------------------------------------------------- in a browser


class Page:
    """An explorer in a page of the browser, and what the page asked for or complained about."""

    def __init__(self, browser, path, **options):
        self.requests, self.errors = [], []
        self.page = browser.new_context(viewport={"width": 1100, "height": 1000}, **options).new_page()
        self.page.set_default_timeout(120_000)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(".rx-chip small:not(:empty)")

    def texts(self, selector):
        return self.page.locator(selector).all_inner_texts()

    def close(self):
        self.page.context.close()


@pytest.fixture
def open_page(browser, tmp_path):
    opened = []

    def start(trace, lang="en", **options):
        RoutingExplorer(trace).to_html(tmp_path / "page.html", lang=lang)
        opened.append(Page(browser, tmp_path / "page.html", **options))
        return opened[-1]

    yield start
    for page in opened:
        assert page.errors == [] and len(page.requests) == 1  # the page itself
        page.close()


def assert_shows(page, trace, token, row):
    """The explorer shows exactly what the trace says of this token and layer."""
    ids, weights = trace.expert_ids[row, token].tolist(), trace.weights[row, token]
    show = page.locator(".rx")
    assert show.locator(".rx-chip[aria-pressed=true]").get_attribute("data-token") == str(token)
    assert f"layer {trace.layers[row]}" == show.locator(".rx-now").inner_text()
    chosen = show.locator(".rx-chosen li").all_inner_texts()
    wanted = [f"expert {i} {w:.3f}" for i, w in zip(ids, weights.astype(float), strict=True)]
    assert [" ".join(text.split()) for text in chosen] == wanted
    lit = show.locator(".rx-tile.rx-lit").evaluate_all("tiles => tiles.map(tile => Number(tile.dataset.expert))")
    assert lit == sorted(ids)
    cells = show.locator(".rx-cell").evaluate_all(
        "all => all.map(c => [Number(c.dataset.row), Number(c.dataset.expert)])"
    )
    assert cells == [[r, e] for r, layer in enumerate(trace.expert_ids[:, token].tolist()) for e in layer]
    load = expert_load(trace)[row]
    bars = show.locator(".rx-bar").evaluate_all("bars => bars.map(bar => Number(bar.textContent.split(': ')[1]))")
    assert bars == load.tolist()
    heights = show.locator(".rx-bar").evaluate_all("bars => bars.map(bar => Number(bar.getAttribute('height')))")
    scale = max(heights) / load.max()
    assert all(abs(h - scale * count) <= 1 for h, count in zip(heights, load, strict=True))
    numbers = show.locator(".rx-chip small").all_inner_texts()
    assert numbers == [str(expert) for expert in trace.expert_ids[row, :, 0]]


def test_click_and_keys_show_what_the_trace_says(trace, open_page):
    page = open_page(trace).page
    assert_shows(page, trace, 0, 0)
    page.locator(".rx-chip").nth(13).click()
    assert_shows(page, trace, 13, 0)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    assert_shows(page, trace, 12, 1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")  # there is no further layer
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert_shows(page, trace, len(PIECES) - 1, 2)
    page.locator(".rx-layer").focus()
    page.keyboard.press("ArrowLeft")
    assert_shows(page, trace, len(PIECES) - 1, 1)
    page.locator(".rx-line").nth(2).click(position={"x": 3, "y": 3})
    page.locator(".rx-step").nth(0).click()
    page.locator(".rx-step").nth(0).click()
    assert_shows(page, trace, len(PIECES) - 1, 0)
    said = page.locator(".rx-live").text_content()
    assert said.startswith("token 15 ␣end, layer 0, experts ")
    page.locator("summary").click()
    page.locator("tr").nth(len(LAYERS)).wait_for()  # the table fills once it is open
    rows = page.locator("tr").all_inner_texts()
    assert len(rows) == 1 + len(LAYERS) and ", ".join(map(str, trace.expert_ids[1, -1])) in rows[2]


def test_chips_are_the_tokens(trace, open_page):
    page = open_page(trace)
    chips = page.texts(".rx-chip > span")
    assert chips[:2] == ["<|im_start|>", "你好"] and chips[6:10] == [shown(piece) for piece in HOSTILE[:4]]
    assert chips[11:] == ["<U+200B><U+202E><U+200F>", "↵", "␣12", "<E4>", "␣end"]
    assert page.page.title() == "Expert routing · 专家路由"  # the hostile tokens ran nothing
    assert page.page.locator("img").count() == 0
    group = page.page.locator(".rx-group")
    assert group.count() == 1 and group.locator(".rx-chip").count() == 4
    assert group.locator("> span").first.inner_text() == "🙂"
    assert page.page.locator(".rx-written .rx-chip").count() == len(PIECES) - PROMPT_LENGTH
    assert page.page.locator(".rx-chip").nth(1).get_attribute("title") == "1 · id 101 · E4 BD A0 E5 A5 BD"


def test_pinning_an_expert_dims_the_other_tokens(trace, open_page):
    page = open_page(trace).page
    page.locator(".rx-tile").nth(5).click()
    dim = page.locator(".rx-chip").evaluate_all("chips => chips.map(chip => chip.classList.contains('rx-dim'))")
    took = (trace.expert_ids[0] == 5).any(-1)
    assert dim == (~took).tolist() and 0 < took.sum() < len(took)
    assert f"{took.sum()} of 16 tokens took expert 5" in page.locator(".rx-legend").inner_text()
    page.locator(".rx-tile").nth(5).click()
    assert page.locator(".rx-dim").count() == 0


def test_entropy_colours(trace, open_page):
    page = open_page(trace).page
    before = page.locator(".rx-chip").evaluate_all("chips => chips.map(chip => chip.style.background)")
    page.locator("button[value=entropy]").click()
    after = page.locator(".rx-chip").evaluate_all("chips => chips.map(chip => chip.style.background)")
    assert after != before and len(set(after)) > len(PIECES) // 2
    numbers = [float(number) for number in page.locator(".rx-chip small").all_inner_texts()]
    assert numbers == pytest.approx(trace.entropy[0] / np.log(EXPERTS), abs=0.0051)


def test_the_language_switch(trace, open_page):
    page = open_page(trace, lang="zh")
    zh = page.page.locator(".rx").inner_text()
    assert LABELS["zh"]["title"] in zh and captions(trace)["zh"][0] in zh and "第 0 层" in zh
    page.page.locator("button[value=en]").click()
    en = page.page.locator(".rx").inner_text()
    assert LABELS["en"]["title"] in en and captions(trace)["en"][0] in en and "layer 0" in en
    assert re.findall(r"[\u4e00-\u9fff]+", en) == ["中", "你好"]  # the switch itself, and a token
    page.page.locator("button[value=zh]").click()
    assert page.page.locator(".rx").inner_text() == zh


def test_light_and_dark(trace, open_page):
    page = open_page(trace, color_scheme="dark").page
    background = "root => getComputedStyle(root).backgroundColor"
    dark = page.locator(".rx").evaluate(background)
    page.emulate_media(color_scheme="light")
    page.wait_for_selector(".rx[data-theme=light]")
    assert page.locator(".rx").evaluate(background) != dark
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")  # JupyterLab's own theme wins
    page.wait_for_selector(".rx[data-theme=dark]")


def test_a_trace_without_weights(trace, open_page):
    page = open_page(replace(trace, weights=None, entropy=None)).page
    assert "weight not recorded" in page.locator(".rx-chosen").inner_text()
    lit = page.locator(".rx-tile.rx-lit").evaluate_all("tiles => tiles.map(tile => tile.style.background)")
    assert len(lit) == TOP_K and not any("gradient" in background for background in lit)  # full, without a height
    assert page.locator("button[value=entropy]").is_disabled()


def test_play_walks_through_the_text(trace, open_page):
    page = open_page(trace).page
    page.clock.install()
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 1)
    pressed = page.locator(".rx-chip[aria-pressed=true]")
    page.locator(".rx-play").click()
    page.clock.run_for(800)  # a step is 400 ms
    assert pressed.get_attribute("data-token") == "2"
    page.locator(".rx-play").click()
    assert page.locator(".rx-play").inner_text() == LABELS["en"]["play"]
    page.clock.run_for(4000)
    assert pressed.get_attribute("data-token") == "2"


SMALL = """() => [...document.querySelectorAll(".rx *")].filter(node => node.tagName !== "STYLE"
    && node.getClientRects().length
    && [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim()))
  .map(node => {
    const svg = node.closest("svg"), scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    return [scale * parseFloat(getComputedStyle(node).fontSize), node.textContent];
  }).filter(([size]) => size < 11.95)"""


@pytest.mark.parametrize("width", [375, 700, 1280, 1920])
def test_text_is_12_pixels_at_any_width(width, trace, open_page):
    page = open_page(trace).page
    page.set_viewport_size({"width": width, "height": 900})
    scaled = "svg => Math.abs(svg.clientWidth - svg.viewBox.baseVal.width) > 1"
    page.wait_for_function(f"() => ![...document.querySelectorAll('svg')].some({scaled})")
    assert page.evaluate(SMALL) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_expert_has_one_colour_everywhere(trace, open_page):
    page = open_page(trace).page
    colour = "(node, name) => getComputedStyle(node)[name]"
    for token in (0, 13):
        page.locator(".rx-chip").nth(token).click()
        chip = page.locator(".rx-chip").nth(token).evaluate(colour, "backgroundColor")
        expert = trace.expert_ids[0, token, 0]
        assert page.locator(f".rx-bar[data-expert='{expert}']").evaluate(colour, "fill") == chip
        assert page.locator(f".rx-cell[data-row='0'][data-expert='{expert}']").evaluate(colour, "fill") == chip
        assert page.locator(f".rx-chosen li[data-expert='{expert}'] i").evaluate(colour, "backgroundColor") == chip
        assert chip in page.locator(f".rx-tile[data-expert='{expert}']").evaluate(colour, "backgroundImage")


def test_a_tile_is_read_as_expert_and_weight(trace, open_page):
    page = open_page(trace).page
    expert, weight = trace.expert_ids[0, 0, 0], trace.weights[0, 0, 0]
    tile = page.locator(f".rx-tile[data-expert='{expert}']")
    assert tile.get_attribute("aria-label") == f"expert {expert}, chosen, {weight:.2f}"


def test_all_chips_are_printed_in_colour(trace, open_page):
    page = open_page(replace(trace, **longer(trace, 60))).page
    unpainted = "[...document.querySelectorAll('.rx-chip')].filter(chip => !chip.style.background).length"
    assert page.evaluate(unpainted) > 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(unpainted) == 0


def longer(trace, times):
    """The fields of a trace that repeats this one."""
    repeated = {name: np.tile(getattr(trace, name), (1, times, 1)) for name in ("expert_ids", "weights")}
    return repeated | {
        "entropy": np.tile(trace.entropy, (1, times)),
        "pieces": trace.pieces * times,
        "token_ids": np.tile(trace.token_ids, times),
    }


def assert_takes_text(place, text="12×34=?"):
    """The model in the page answers a text of the reader's own, by the same ways as helpers/qwen.py."""
    import torch
    from transformers import AutoTokenizer

    from helpers.capture import capture_reference
    from helpers.qwen import load_model

    place.locator(".rx-own input").fill(text)
    place.locator(".rx-own input").press("Enter")
    place.locator(".rx-captions", has_text="Your own text").wait_for()
    shown = place.locator(".rx-chip > span").all_inner_texts()
    place.locator(".rx-chip").last.scroll_into_view_if_needed()
    place.locator(".rx-chip").last.click()
    chosen = place.locator(".rx-chosen li").all_inner_texts()
    cells = place.locator(".rx-cell").evaluate_all("all => all.map((c) => [+c.dataset.row, +c.dataset.expert])")
    tokenizer, model = AutoTokenizer.from_pretrained(live.MODEL), load_model(live.MODEL, torch.float32, "cpu")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
    trace = capture_reference(model, tokenizer, prompt["input_ids"], max_new_tokens=300)
    assert len(shown) == len(trace.pieces)
    assert cells == [[row, expert] for row, chosen in enumerate(trace.expert_ids[:, -1].tolist()) for expert in chosen]
    assert [float(text.split()[-1]) for text in chosen] == pytest.approx(trace.weights[0, -1].tolist(), abs=2e-3)


# ---------------------------------------------------------------------------------------------- in JupyterLab


SAMPLING = """\
from types import SimpleNamespace
from helpers.explorer import SamplingExplorer
SamplingExplorer({"a": {i: SimpleNamespace(decoded_token=f"t{i}", logprob=-float(i + 1)) for i in range(8)}})"""


@pytest.mark.slow
def test_in_a_real_jupyterlab(tmp_path, browser, trace):
    folder = tmp_path / "notebooks" / "en"
    folder.mkdir(parents=True)
    trace = replace(trace, provenance=trace.provenance | {"model": live.MODEL.name})
    trace.save(folder / "trace.npz")
    code = "from helpers.routing import RoutingTrace\nfrom helpers.explorer import RoutingExplorer\n"
    calculator = "from helpers.explorer import MemoryExplorer\nMemoryExplorer()"
    cells = [code + "RoutingExplorer(RoutingTrace.load('trace.npz'))", calculator, SAMPLING, "6 * 7"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}  # or Lab asks which one
    nbformat.write(notebook, folder / "lesson.ipynb")
    with JupyterLab(tmp_path) as lab:
        page = lab.open(browser, "notebooks/en/lesson.ipynb")
        lab.run_all(page)
        assert lab.complaints(page) == []
        page.wait_for_selector(".rx-chip small:not(:empty)")
        assert_shows(page, trace, 0, 0)  # in English, by the notebook's folder
        page.locator(".rx-chip").nth(4).click()
        assert_shows(page, trace, 4, 0)
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        assert_shows(page, trace, 5, 1)
        assert page.locator(".jp-Cell.jp-mod-active").count() == 1
        page.locator(".rx-layer").focus()
        page.keyboard.press("ArrowRight")
        assert_shows(page, trace, 5, 2)
        assert_takes_text(page.locator(".rx").first)
        page.locator("select[aria-label=model]").select_option("Qwen/Qwen3-32B")
        assert "exceed what vLLM uses" in page.locator(".rx-verdict").inner_text()
        sliders = page.locator(".rx input[type=range]")
        assert sliders.count() == 7  # each moves, keeps the focus and the place
        for slider in sliders.all():
            slider.focus()
            scrolled = page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop")
            at = float(slider.input_value())
            key = "ArrowRight" if at < float(slider.get_attribute("max")) else "ArrowLeft"
            page.keyboard.press(key)
            assert float(slider.input_value()) != at, slider.get_attribute("name") or slider.get_attribute("class")
            assert slider.evaluate("node => node === document.activeElement")
            assert page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop") == scrolled
        for name in ("dl", "dt", "dd"):
            terms = page.locator(f".rx {name}").evaluate_all("all => all.map(node => getComputedStyle(node).float)")
            assert set(terms) == {"none"}, name
        page.click('.lm-MenuBar-itemLabel:text-is("Settings")')
        page.hover('.lm-Menu-itemLabel:text-is("Theme")')
        page.click('.lm-Menu-itemLabel:text-is("JupyterLab Dark")')
        page.wait_for_selector(".rx[data-theme=dark]")
        page.wait_for_selector("#jupyterlab-splash", state="detached")
        screenshot(page, "jupyterlab-dark-en")
        page.context.close()
