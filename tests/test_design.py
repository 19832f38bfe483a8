"""helpers/design.json: one place for colours, fonts and sizes, which site, slides, explorers and figures read."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT

from helpers import design, figures
from helpers.explorer.memory import gpu_memory
from helpers.explorer.routing import token_routes
from helpers.lessons import l01, l03, l04, l05, lA1, lA2, lA3, lA4, lA5
from helpers.routing import RoutingTrace
from helpers.schedule_trace import ScheduleTrace
from tools.site import lean

BOTH = {"light": design.LIGHT, "dark": design.DARK}
TRACE = ROOT / "assets" / "traces" / "routing-qwen3-moe-tiny.npz"


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# ---------------------------------------------------------------------------------------------- the values


def test_both_themes_name_the_same_colours_and_no_colour_has_two_names():
    assert design.LIGHT.keys() == design.DARK.keys()
    assert len(design.EXPERTS) == len(design.EXPERT_LINES) == 8
    swapped = [*design.LIGHT.values(), *design.EXPERT_LINES]
    assert len(set(swapped)) == len(swapped)  # or a figure could not tell which one to swap
    assert not set(swapped) & {*design.EXPERTS, design.ON}  # these stay as they are


@pytest.mark.parametrize("theme", BOTH)
def test_text_and_lines_stand_out(theme):
    colours = BOTH[theme]
    for ink in ("ink", "muted", "accent", "good", "bad", "first", "second", "third", "fourth", "strong", "rest"):
        assert contrast(colours[ink], colours["bg"]) >= 4.5, ink
    for ink in ("ink", "muted"):
        assert contrast(colours[ink], colours["panel"]) >= 4.5, ink
    assert contrast(colours["bg"], colours["accent"]) >= 4.5  # a pressed button
    assert all(contrast(design.ON, expert) >= 4.5 for expert in design.EXPERTS)
    lines = design.EXPERT_LINES if theme == "light" else design.EXPERTS
    assert all(contrast(line, colours["bg"]) >= 4.5 for line in lines)


def test_no_second_place_defines_a_value():
    values = {*design.LIGHT.values(), *design.DARK.values(), *design.EXPERTS, *design.EXPERT_LINES, design.ON}
    values -= {"#ffffff", "#000000"}
    files = [
        path
        for folder, kinds in (
            ("helpers", ("py", "js", "css")),
            ("docs", ("css", "js", "svg", "html")),
            ("tools", ("py",)),
        )
        for kind in kinds
        for path in (ROOT / folder).rglob(f"*.{kind}")
        if path.name != "favicon.svg"  # a file of its own, which can read no other
    ]
    assert len(files) > 60
    twice = {
        f"{path.relative_to(ROOT)}: {colour}"
        for path in files
        for colour in re.findall(r"#[0-9a-fA-F]{6}\b", path.read_text(encoding="utf-8"))
        if colour.lower() in values
    }
    assert not twice
    fonts = [path for path in files if re.search(r"PingFang|DejaVu Sans Mono", path.read_text(encoding="utf-8"))]
    assert not fonts


def test_the_style_sheet_has_every_value():
    text = design.stylesheet(".rx", ".rx[data-theme=dark]")
    light, dark = text.strip().splitlines()
    for theme, line in ((design.LIGHT, light), (design.DARK, dark)):
        assert all(f"--{name}:{colour}" in line for name, colour in theme.items())
    assert f"--expert-7:{design.EXPERTS[7]}" in light and f"--expert-line-7:{design.EXPERT_LINES[7]}" in light
    assert "--radius:" in light and "--font:" in light and "PingFang SC" in light


# ---------------------------------------------------------------------------------------------- figures


@pytest.fixture(scope="module")
def trace():
    return RoutingTrace.load(TRACE)


@pytest.fixture(scope="module")
def drawn(trace):
    """A figure of every room and explorer."""
    draw = np.random.default_rng(0)
    experts = np.tile(np.arange(8), (4, 1))
    runs = {
        name: {"step": np.arange(9), "loss": np.ones(9), "load": np.full((9, 4, 8), 0.125)} for name in ("off", "on")
    }
    weights = torch.ones(12, 12).tril().softmax(dim=-1)
    words = (" a", " an", " the", " model", "et", "从前")
    entries = [SimpleNamespace(decoded_token=word, logprob=-0.1) for word in words]
    return {
        "packages": l01.largest_packages(3),
        "head": l03.head_map(weights, list("12×3=3637×4="), columns=5, rows=3),
        "rotation": l03.rotation(),
        "block": l03.block(),
        "branches": l04.branches(),
        "steps": l04.three_steps(torch.tensor([1.0, -1.0, 2.0, 0.0, 0.1, -2.0, 0.3, 0.4]), 2),
        "samples": lA1.token_strips(
            {"a sample": ([b"<|im_start|>", b"\n"] * 30, [0, 1] * 30), "cut": ([b"1"], [2])}, ["no", "yes", "forced"]
        ),
        "map": lA2.routing_map(trace),
        "load": lA2.load_histograms(trace),
        "token": token_routes(trace, 13, 1),
        "rise": lA2.rise_without_expert(draw.random((3, 4, 8)), ["a", "b", "c"], [0, 1, 2, 3], experts),
        "use": lA2.use_against_rise(draw.random((3, 4, 8)), draw.random((3, 4, 8)), ["a", "b", "c"], [(0, 1, 2)]),
        "calls": lA2.calls(np.eye(12, 8), trace.pieces[:12], 128, 8, 36),
        "balance": lA2.balance_figure(runs, {name: run["load"] for name, run in runs.items()}, 0),
        "sizes": lA2.table_of_sizes(dict.fromkeys(lA2.CONFIGS, (30e9, 3e9, 29e9))),
        "vectors": lA4.vectors({name: torch.arange(64.0) for name in ("input", "LayerNorm", "RMSNorm")}),
        "pace": lA4.pace_of_pairs(torch.tensor([1.0, 0.4, 0.2]), {64: torch.arange(64.0), 1064: torch.arange(64.0)}),
        "caches": lA4.kv_caches(),
        "norm": lA4.before_and_after("qwen3-tiny", torch.ones(5, 2), torch.ones(5, 2), torch.ones(5), 3.0),
        "logits": lA4.logit_histograms([[torch.randn(6, 9, 9)] * 2] * 5, torch.ones(9, 9).tril().bool()),
        "trainings": lA4.own_trainings([(np.ones(150), np.ones(150))] * 2),
        "memory": gpu_memory(),
        "blocks": l05.block_tables({"a": [1, 2, 3], "b": [1, 2, 5]}, {"a": 44, "b": 40}, 16),
        "timeline": l05.timeline([(0, 3), (0, 5), (4, 9)], 2),
        "candidates": l05.candidates(entries, dict.fromkeys("abcd", torch.full((1, 6), 1 / 6))),
        "confidence": l05.confidence({"a title": entries * 7}),
        "speeds": l05.speeds({"vLLM, batch=64": 3081.2, "transformers, batch=64": 1530.0}, "qwen3-tiny, cpu"),
        "reserved": lA3.reserved(ScheduleTrace.load(ROOT / "tests" / "schedule_qwen3_tiny.json"), 256),
        "cache": lA5.cache_over_context({"Qwen3-8B": (147456, 0), "Qwen3.5-9B": (32768, 1 << 20)}),
    }


@pytest.mark.slow
def test_figures_are_as_wide_as_a_page_and_their_text_is_12_pixels(drawn):
    from matplotlib.text import Text

    for name, figure in drawn.items():
        assert figure.get_size_inches()[0] <= 7, name
        figure.draw_without_rendering()
        sizes = {
            text.get_text(): text.get_fontsize()
            for text in figure.findobj(Text)
            if text.get_visible() and text.get_text().strip()
        }
        small = {text: size for text, size in sizes.items() if size < 9}  # points; a pixel is three quarters of one
        assert sizes and not small, f"{name}: {small}"


@pytest.mark.slow
def test_nothing_in_a_figure_is_cut_off(drawn):
    for name, figure in drawn.items():
        figure.draw_without_rendering()  # only now are its parts laid out
        width, height = figure.bbox.width, figure.bbox.height
        box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, f"{name}: {box}"


def test_a_sample_is_read_line_by_line_in_large_letters(drawn):
    first, second = drawn["samples"].axes
    written = [text for text in first.texts if text.get_text() == "<|im_start|>"]
    assert len({text.get_position()[1] for text in first.texts}) == 6  # five such pairs have room in a line
    assert len(written) == 30 and {text.get_fontsize() for text in [*first.texts, *second.texts]} == {11}
    drawn["samples"].draw_without_rendering()
    for box, text in zip(first.patches, first.texts, strict=True):  # no letter is outside its token
        room, letters = box.get_window_extent(), text.get_window_extent()
        assert room.x0 <= letters.x0 and letters.x1 <= room.x1


def test_what_nobody_sees_takes_no_room(drawn):
    import io

    plain = io.StringIO()
    drawn["token"].savefig(plain, format="svg", metadata={"Date": None})
    svg = figures.svg(drawn["token"])
    assert len(svg) < 0.8 * len(plain.getvalue())
    names = set(re.findall(r'\bid="([^"]*)"', svg))
    assert names >= set(re.findall(r'(?:url\(|href=")#([^")]*)', svg)) and not any("_" in name for name in names)
    outlines = [re.findall(r"\d+", d) for d in re.findall(r'd="([^"]*)"\s+transform="scale\(0\.25\)"', svg)]
    assert outlines and max(int(number) for outline in outlines for number in outline) < 1000  # 400 to an em


def test_a_figure_follows_the_theme(drawn):
    svg = design.follow_theme(figures.svg(drawn["load"]))
    assert svg.startswith("<svg") and "<!--" not in svg and "<script" not in svg
    colours = set(re.findall(r"#[0-9a-f]{6}\b", svg))
    assert colours == set(design.EXPERTS)  # what is left are the experts, which both themes show alike
    assert {"--bg", "--ink", "--strong"} <= set(re.findall(r"var\((--[\w-]+)\)", svg))
    assert not re.search(r"20\d\d-\d\d-\d\d", svg)  # a recording made later is the same


@pytest.mark.slow
def test_a_recording_holds_the_figure_twice(drawn, trace):
    import base64

    kinds = figures.bundle(drawn["token"])
    assert base64.b64decode(kinds["image/png"]).startswith(b"\x89PNG")
    assert figures.unpacked(kinds[figures.SVG]).startswith("<svg ")
    assert len(kinds[figures.SVG]) < 40_000
    hostile = replace(trace, pieces=(b"--><script>alert(1)</script>", *trace.pieces[1:]))
    assert "script>" not in figures.svg(lA2.routing_map(hostile))


def test_a_notebook_has_room_for_its_smaller_figures_as_svg():
    from tools.lessons.record import SVG_ROOM, _make_room

    shown = [{"image/png": "p", figures.SVG: "x" * size} for size in (SVG_ROOM, SVG_ROOM // 2, SVG_ROOM // 3)]
    _make_room([*shown, {"text/plain": "1"}])
    assert [figures.SVG in data for data in shown] == [False, True, True] and all("image/png" in d for d in shown)


def test_a_row_of_many_panels_is_broken_and_keeps_its_shape():
    figure, axes = figures.figure(1, 4, height=2, width_ratios=[2, 2, 1, 1], sharey=True)
    assert axes.shape == (4,) and tuple(figure.get_size_inches()) == (7, 4)
    figure.draw_without_rendering()
    assert axes[0].get_position().x0 == pytest.approx(axes[2].get_position().x0, abs=0.02)
    assert axes[0].get_position().y0 > axes[2].get_position().y1
    figure, axes = figures.figure(2, 5, sharex=True, sharey="row")
    assert axes.shape == (2, 5) and len(figure.axes) == 10
    axes[0, 0].set_ylim(0, 5)
    assert axes[0, 4].get_ylim() == (0, 5) != axes[1, 0].get_ylim()
    assert figures.figure(1, 2)[1].shape == (2,)


@pytest.mark.parametrize(
    "title",
    ["qwen3-tiny: mean entropy of attention, in nats", "每个词元的损失，每个数字的 nat（有均衡和没有均衡）", "short"],
)
def test_the_line_of_a_title_is_broken_where_its_panel_ends(title):
    figure, axes = figures.figure(1, 2, height=2)
    axes[0].set_title(title)
    said = figures.labels(figure)[0]
    assert said.replace("\n", "").replace(" ", "") == title.replace(" ", "")
    assert said.count("\n") == (title != "short")
    [text] = [text for text in axes[0].findobj(type(axes[0].title)) if text.get_text() == said]
    assert text.get_window_extent().x1 < axes[1].get_window_extent().x0


def test_lines_of_experts_are_dark_enough_and_named():
    from matplotlib.colors import to_hex

    figure, ax = figures.figure(height=2)
    for expert, colour in enumerate(design.EXPERTS):
        ax.plot([0, 1], [0, 0.01 * expert], color=colour)
    figure.draw_without_rendering()
    assert [to_hex(line.get_color()) for line in ax.lines] == list(design.EXPERT_LINES)
    assert sorted(text.get_text() for text in ax.texts) == list("01234567")
    figure.draw_without_rendering()
    boxes = sorted(text.get_window_extent().y0 for text in ax.texts)
    assert len(ax.texts) == 8 and min(np.diff(boxes)) > 5  # each once, and none on another


def test_numbers_of_lines_that_end_together_stand_around_their_end():
    apart, few, many = [0, 50, 100], [0, 1, 2], [60 + place / 8 for place in range(8)]
    assert figures._beside(apart) == [(0, 0), (50, 0), (100, 0)]
    assert figures._beside(few) == [(-8, 0), (1, 0), (10, 0)]
    places = figures._beside(few + many)
    assert places[:3] == figures._beside(few) and {column for _, column in places[3:]} == {0, 1}
    assert len(set(places)) == 11 and max(abs(height - 60.4375) for height, _ in places[3:]) == 13.5
    assert sorted(height for height, column in places if column == 0) == [height for height, c in places if c == 0]


def test_ink_on_a_filling_stays_dark():
    figure, ax = figures.figure(height=2)
    ax.bar([0, 1], [1, 1], color=[design.EXPERTS[5], design.LIGHT["quiet"]])
    for place in (0, 1, 2):
        ax.text(place, 0.5, "x", ha="center", va="center")
    figure.draw_without_rendering()
    assert [text.get_color() for text in ax.texts] == [design.ON, design.LIGHT["ink"], design.LIGHT["ink"]]


def test_ink_is_chosen_by_contrast():
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    for name in ("viridis", "Reds", "Blues", "gray"):
        for place in range(256):
            colour = to_hex(colormaps[name](place))
            assert contrast(figures.ink_on(colour), colour) >= 4.5, (name, place)


# ---------------------------------------------------------------------------------------------- style sheets


def test_rules_that_no_page_uses_are_left_out():
    css = """/* a { } */ @import "x.css"; @font-face { font-family: y; src: url(y.woff2) }
    :root { --a: "}{"; } .used, .gone:hover { color: red } .gone { color: blue }
    a:not(.gone) > b { color: green } @media (min-width: 1px) { .gone { x: y } } @media print { .used .used { x: y } }
    @keyframes spin { 0% { a: b } 100% { a: c } } .used:is(.gone, .other) p { x: z }"""
    kept = lean.used_rules(css, {"used"})
    assert "import" not in kept and "font-face" not in kept and "gone:hover" not in kept
    assert '--a: "}{"' in kept and ".used{ color: red }" in kept and "blue" not in kept
    assert "a:not(.gone) > b" in kept and "min-width" not in kept and "@media print{.used .used{ x: y }}" in kept
    assert "100% { a: c }" in kept and ".used:is(.gone, .other) p{ x: z }" in kept
