"""A page speaks its language: what the course says, draws and records follows the folder of the notebook."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from conftest import NO_WARNING, ROOT, TOY
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers import CourseError, figures, language, models
from helpers.explorer import (
    MemoryExplorer,
    RoutingExplorer,
    SamplingExplorer,
    ScheduleExplorer,
    memory,
    routing,
    sampling,
    schedule,
)
from helpers.explorer.chat import LABELS as CHAT_LABELS
from helpers.language import say
from helpers.lessons import l04, l05, l06, lA1, lA2, lA3, lA4
from helpers.routing import RoutingTrace
from helpers.schedule_trace import ScheduleTrace
from tools.lessons import build, page_language

KNOWN = page_language.known_words(ROOT)
HAN = re.compile(r"[\u4e00-\u9fff]")


# ---------------------------------------------------------------------------------------------- which language


def test_say_is_in_the_pages_language_and_in_both_where_nobody_knows(monkeypatch):
    error = CourseError("先下载。", "Download first.")
    assert (
        say("一", "one") == "一\none"
        and say("一", "one", " ") == "一 one"
        and str(error) == "先下载。\nDownload first."
    )
    monkeypatch.setattr(language, "LANGUAGE", "zh")
    assert say("一", "one") == "一" and str(error) == "先下载。"
    monkeypatch.setattr(language, "LANGUAGE", "en")
    assert say("一", "one", " ") == "one" and error._render_traceback_() == ["Download first."]


@pytest.mark.parametrize(
    ("folder", "variable", "expected"),
    [
        ("zh", "", "zh"),
        ("en", "", "en"),
        ("zh", "en", "en"),
        ("zh", "fr", "zh"),
        ("work", "", None),
        ("work", "ZH", "zh"),
    ],
)
def test_the_folder_tells_the_language_and_the_variable_overrides(folder, variable, expected, tmp_path, monkeypatch):
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    monkeypatch.setenv("COURSE_LANG", variable)
    assert language.read_language() == expected


# ---------------------------------------------------------------------------------------------- what is foreign


@pytest.mark.parametrize(
    ("lang", "text", "found"),
    [
        ("zh", "这是 the whole answer 的意思", ["the whole answer"]),
        ("zh", "free GPU memory left", ["free GPU memory left"]),
        ("zh", "its top_k is larger", ["its top_k is larger"]),
        ("zh", "a mixture of experts has many", ["a mixture_of_experts has many"]),
        ("zh", "**bold words here**", ["bold words here"]),
        ("zh", "the model's own limit", ["the model's own limit"]),
        ("zh", "看 `from the code` 和 [a link in English](https://a.org/x)，$a b c$，https://a.org/some words", []),
        ("zh", "![a picture of something](../x.png)", ["a picture of something"]),
        ("zh", "首个词元的时间（time to first token）和 Windows Subsystem for Linux", []),
        ("zh", "KV cache，context length: 3 tokens, 5 steps of 7", []),
        ("zh", "helpers/models.py --max-model-len 8192 (batch, seq, heads) head_dim top_k num_experts", []),
        ("zh", "layer   expert   tokens   weight", []),
        ("zh", "```python\nprint(one or two)\n```", []),
        ("zh", "```text\nthe hidden state goes on\n```", ["the hidden state goes on"]),
        ("zh", "<details><summary>Show me the answer</summary>", ["Show me the answer"]),
        ("en", "It says 从前有猫 and goes on", ["从前有猫"]),
        ("en", "It says 从前有 and goes on", []),
        ("en", "the word 专家 and `从前有一只`, in [中文说明在这里](../zh/x.ipynb)", []),
        ("en", "the term 分组查询注意力 stands", []),
    ],
)
def test_foreign_passages_are_found_and_nothing_else(lang, text, found):
    assert page_language.foreign(page_language.prose(text), lang, KNOWN) == found


ENGLISH, CHINESE = "and this is English", "而这一句是中文"
CELLS = {
    "prose": (
        '# %% [markdown] lang="zh" key="more"\n# {zh}\n\n# %% [markdown] lang="en" key="more"\n# {en}\n',
        {"zh": f"还有 {ENGLISH}", "en": f"Also {CHINESE}"},
    ),
    "comment": ('# %% key="more"\n# {zh}\nx = 1\n', {"zh": ENGLISH}),
    "paired comment": ('# %% key="more"\n# zh: {zh}\n# en: {en}\nx = 1\n', {"zh": ENGLISH, "en": CHINESE}),
}


@pytest.mark.parametrize("case", CELLS)
def test_a_source_in_the_other_language_fails_the_check(case, course, capsys):
    cell, wrong = CELLS[case]
    right = {"zh": "都对", "en": "All right"}
    for lang, text in wrong.items():
        course.write(TOY + "\n" + cell.format(**right | {lang: text}))
        assert build.main(["--root", str(course.root)]) == 0
        assert build.main(["--root", str(course.root), "--check"]) == 1
        expected = {"zh": f'"{ENGLISH}" in English', "en": f'"{CHINESE}" in Chinese'}[lang]
        said = capsys.readouterr().err
        assert f"99_toy: {lang}: cell 'more': " in said and expected in said
    if case != "comment":  # a comment of both pages is never right in words: it comes in pairs
        course.write(TOY + "\n" + cell.format(**right))
        assert build.main(["--root", str(course.root)]) == 0
        assert build.main(["--root", str(course.root), "--check"]) == 0


def test_a_line_of_code_that_is_switched_off_is_no_prose(course):
    course.write(
        TOY + '\n# %% key="more"\n# from vllm import LLM\n# llm = LLM(model=folder)\n# print(one, two)\nx = 1\n'
    )
    assert build.main(["--root", str(course.root)]) == 0
    assert build.main(["--root", str(course.root), "--check"]) == 0


def outputs(*results, tags=()):
    cell = new_code_cell("x", id="c", outputs=list(results), metadata={"tags": list(tags)})
    return new_notebook(cells=[cell])


def stream(text):
    return new_output("stream", text=text)


def shown(metadata=None, **data):
    return new_output(
        "display_data", data={kind.replace("_", "/"): text for kind, text in data.items()}, metadata=metadata or {}
    )


LABELLED = {"course": {"labels": [f"$x$ {ENGLISH}", "词元", "bf16"]}}


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (stream(f"42\n{ENGLISH}\n"), 1),
        (stream("context: 2048 tokens\n{'temperature': 0.7}\n"), 0),
        (shown(text_plain=ENGLISH), 1),
        (shown(text_html=f"<b>{ENGLISH}</b>", text_plain="<IPython.core.display.HTML object>"), 1),
        (shown(LABELLED, image_png="AAAA", text_plain="<Figure size 10x10 with one or two Axes>"), 1),
        (shown({"course": {"labels": []}}, image_png="AAAA", text_plain=ENGLISH), 0),
        (shown(image_png="AAAA"), 1),  # nobody knows what it says
    ],
)
def test_outputs_and_labels_are_read_and_raw_ones_are_free(output, found):
    assert len(page_language.check_page(outputs(output), "zh", KNOWN)) == found
    free = page_language.check_page(outputs(output, tags=["raw"]), "zh", KNOWN)
    assert [what for what in free if "which labels" not in what] == []


@pytest.mark.parametrize(
    ("zh", "en", "equal"),
    [
        ("3 个词元里的 2 个\n7", "2 of 3 tokens\n7", True),  # a language may order them otherwise within a line
        ("3 个词元", "three tokens", False),
        ("1\n2", "2\n1", False),
        ("0.25", "0.26", False),
        ("12,000 次", "12,000 times", True),
        ("qwen3 v1", "qwen2 v2", True),  # names, not numbers
    ],
)
def test_recordings_of_both_languages_have_equal_numbers(zh, en, equal):
    def pair(tags=()):
        return page_language.unequal_numbers(outputs(stream(zh), tags=tags), outputs(stream(en), tags=tags))

    assert pair(["varies"]) == [] and pair(["raw"]) == pair()
    assert bool(pair()) != equal
    labels = [shown({"course": {"labels": text.split("\n")}}, image_png="AAAA") for text in (zh, en)]
    assert bool(page_language.unequal_numbers(*map(outputs, labels))) != equal


@pytest.mark.parametrize(("en", "equal"), [("mean 1,\nRMS 2", True), ("mean 1,\nRMS 3", False)])
def test_a_label_may_break_elsewhere_in_the_other_language(en, equal):
    labels = [shown({"course": {"labels": [text]}}, image_png="AAAA") for text in ("平均值\n1，均方根 2", en)]
    assert bool(page_language.unequal_numbers(*map(outputs, labels))) != equal


def unfounded(text, shown="", tags=(), before="", key="read", facts=()):
    """The numbers that are found wanting in a text below a cell that shows something."""
    code = new_code_cell("steps = 4096", id="run", outputs=[stream(shown)] if shown else [])
    code.metadata["tags"] = list(tags)
    page = new_notebook(cells=[new_markdown_cell(before), code, new_markdown_cell(text, id=key)])
    problems = page_language.unfounded_numbers(page, {key: list(facts)})
    assert all(problem.startswith(f"cell '{key}': ") for problem in problems)
    return [re.search(r"says (.*?), which|declares (.*?), which", problem).group(1, 2) for problem in problems]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Two of 286 tokens, 0.51 nats, a rise of 94.7% to 30.5B.", []),
        ("Two of 287 tokens", ["287"]),
        ("共 287 个词元，涨 0.52", ["287", "0.52"]),
        ("It rose by 0.5 to 1,234.6, by 95 %.", []),  # 0.507 to 0.5, 1234.56 to 1,234.6, 0.947 to 95 %
        ("It rose by 0.508, to 1,235.6, 96 %.", ["0.508", "1,235.6", "96 %"]),
        ("It was 0.5070", ["0.5070"]),  # more digits than anything above has
        ("1,234 or 1,235 of 286", ["1,234"]),  # 1234.56 rounds to the second
        ("With 4096 steps of 4097", ["4097"]),  # the code says the first
        ("Lesson 05 of 9 lessons: `287`, $287$, Qwen3-287B, a 16k context", []),
        ("Torch 2.13.0 it was, not 2.13.1", ["2.13.1"]),
        ("287, says [the report](https://a.org)", []),
        ("In [the report](https://a.org):\n\n| a | 287 |\n\nand 288", ["288"]),
        ("In [the report](https://a.org).\n\n| a | 287 |", ["287"]),
        ("Fine.\n\nGuess: are 287 enough?\n\n287", []),
        ("Fine.\n\n**选读。** 先猜：287？", []),
        ("### Exercise of 287 minutes\n\n287", []),
        ("Version 77, and the 77 again", []),  # said before
    ],
)
def test_a_number_that_reads_an_output_stands_above_it(text, found):
    shown = "286 tokens, 0.507 +0.51 0.947\n1234.56, 30.53B [2, 94.71]\ntorch 2.13.0\n"
    wanted = [(number, None) for number in found]
    assert unfounded(text, shown, before="77 is prime") == wanted
    assert unfounded(text) == [], "a lesson that was not run shows nothing to be read"
    facts = [number.rstrip(" %") for number in found]
    assert unfounded(text, shown, before="77 is prime", facts=facts) == []


def test_numbers_of_outputs_that_vary_and_facts_that_nobody_states():
    assert unfounded("It took 0.37 s", "0.372 s") == []
    assert unfounded("It took 0.37 s", "0.372 s", tags=["varies"]) == [("0.37", None)]
    assert unfounded("It took long", "0.372 s", facts=["0.37"]) == [(None, "0.37")]
    recap = "## Recap\n\n- It takes 57 GiB.\n\n1. Do you know 58?"
    assert unfounded(recap, "57") == [] and unfounded(recap, "57", key="recap") == []
    assert unfounded(recap, "56", key="recap") == [("57", None)]


def test_a_folded_answer_does_not_end_the_reading_of_an_output():
    code = new_code_cell("check()", id="check", outputs=[stream("286")])
    answer = new_markdown_cell("286 and 287", id="answer", metadata={"tags": ["solution"]})
    page = new_notebook(cells=[code, answer, new_markdown_cell("Not 287 of them.", id="read")])
    [problem] = page_language.unfounded_numbers(page, {})
    assert problem.startswith("cell 'read': the text says 287, which is in no output")


# ---------------------------------------------------------------------------------------------- what helpers say


def words(node: ast.expr) -> str:
    """The text of a literal; what an f-string fills in counts as a number."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "0" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def said_by(path: Path):
    """(line, zh, en) of every text in two languages in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("say", "CourseError") and len(node.args) > 1:
            yield f"{path.relative_to(ROOT)}:{node.lineno}", words(node.args[0]), words(node.args[1])


SPEAKING = sorted({*ROOT.glob("helpers/**/*.py"), *ROOT.glob("tools/**/*.py")} - {ROOT / "helpers" / "checks.py"})


@pytest.mark.parametrize("path", SPEAKING, ids=lambda path: path.name)
def test_every_text_in_two_languages_has_each_in_its_place(path):
    wrong = [
        (where, passage)
        for where, *texts in said_by(path)
        for lang, text in zip(("zh", "en"), texts, strict=True)
        for passage in page_language.foreign(page_language.prose(text), lang, KNOWN)
    ]
    wrong += [(where, en) for where, _, en in said_by(path) if HAN.search(en)]
    assert wrong == []


@pytest.mark.parametrize(
    "labels", [memory.LABELS, memory.CAPTIONS, routing.LABELS, sampling.LABELS, CHAT_LABELS], ids=range(5)
)
def test_the_explorers_labels_are_in_their_language(labels):
    for lang in ("zh", "en"):
        texts = labels[lang].values() if isinstance(labels[lang], dict) else labels[lang]
        assert [page_language.foreign(page_language.prose(text), lang, KNOWN) for text in texts] == [[]] * len(texts)


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_the_preflight_check_speaks_the_folders_language(lang, tmp_path):
    (tmp_path / lang).mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COURSE_MODEL": "", "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "helpers.machine"], capture_output=True, text=True, cwd=tmp_path / lang, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert page_language.foreign(done.stdout, lang, KNOWN) == []
    assert ("课程可以在这里运行。" in done.stdout) == bool(HAN.search(done.stdout)) == (lang == "zh")


@pytest.mark.parametrize(("lang", "expected"), [("zh", "选择来自：默认"), ("en", "chosen by: the default")])
def test_the_model_is_described_in_the_pages_language(lang, expected, monkeypatch):
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    monkeypatch.setattr(models, "SETTINGS", ROOT / "no-such-file")
    monkeypatch.setattr(language, "LANGUAGE", lang)
    assert expected in models.describe() and bool(HAN.search(models.describe())) == (lang == "zh")


# ---------------------------------------------------------------------------------------------- figures, explorers

TRACE = RoutingTrace(
    token_ids=np.arange(4),
    pieces=(b"a", b"b", b"c", b"d"),
    prompt_length=2,
    layers=(0, 1),
    expert_ids=np.tile(np.array([0, 1], np.uint8), (2, 4, 1)),
    weights=np.full((2, 4, 2), 0.5, np.float16),
    entropy=None,
    num_experts=3,
    provenance={"model": "toy", "captured_with": "numpy", "dtype": "float16", "date": "2026-11-01"},
)
POSITIONS = {"once": {7: type("Logprob", (), {"logprob": -0.1, "decoded_token": "a"})}}
SCHEDULE = ScheduleTrace.load(ROOT / "tests" / "schedule_qwen3_tiny.json")
BALANCE = {name: {"step": np.arange(3), "loss": np.ones(3), "load": np.full((3, 2, 4), 0.25)} for name in ("off", "on")}
TRAININGS = {
    "loss": np.ones((2, 2, 3, 20)),
    "max_logit": np.ones((2, 2, 3, 20)),
    "learning_rates": np.array([0.01, 0.1]),
}
FIGURES = {
    "block_tables": lambda: l05.block_tables({"A": [1, 2], "B": [1, 3]}, {"A": 50, "B": 40}, 32),
    "timeline": lambda: l05.timeline([(0, 3), (4, 9)], 1),
    "candidates": lambda: l05.candidates(
        list(POSITIONS["once"].values()) * 6, dict.fromkeys("ab", torch.full((1, 6), 1 / 6))
    ),
    "routing_map": lambda: lA2.routing_map(TRACE),
    "token_routes": lambda: routing.token_routes(TRACE, 1),
    "load_histograms": lambda: lA2.load_histograms(TRACE),
    "association_bars": lambda: lA2.association_bars(
        {
            "trained": np.array([0.3, 0.2]),
            "untrained": np.ones((3, 2)) / 9,
            "permuted": np.ones((9, 2)) / 9,
        },
        [0, 1],
    ),
    "rise_without_expert": lambda: lA2.rise_without_expert(np.ones((1, 2, 3)), ["digit"], [0, 1], [[0, 1, 2]] * 2),
    "use_against_rise": lambda: lA2.use_against_rise(np.ones((1, 2, 3)), np.ones((1, 2, 3)), ["digit"], [(0, 1, 2)]),
    "calls": lambda: lA2.calls(np.eye(4), TRACE.pieces, 128, 8, 36),
    "balance_figure": lambda: lA2.balance_figure(BALANCE, {name: run["load"] for name, run in BALANCE.items()}, 0),
    "table_of_sizes": lambda: lA2.table_of_sizes({"Qwen3-30B-A3B": (30e9, 3e9, 29e9)}),
    "vectors": lambda: lA4.vectors({"x": torch.arange(4.0), "y": torch.arange(4.0)}),
    "pace_of_pairs": lambda: lA4.pace_of_pairs(
        torch.tensor([1.0, 0.4, 0.2]), {64: torch.arange(4.0), 1064: torch.arange(4.0)}
    ),
    "kv_caches": lA4.kv_caches,
    "before_and_after": lambda: lA4.before_and_after("m", torch.ones(2, 2), torch.ones(2, 2), torch.ones(2), 3.0),
    "logit_histograms": lambda: lA4.logit_histograms([[torch.ones(1, 2, 2)] * 2] * 2, torch.ones(2, 2).tril().bool()),
    "recorded_trainings": lambda: lA4.recorded_trainings(TRAININGS),
    "own_trainings": lambda: lA4.own_trainings([(np.ones(9), np.ones(9))] * 2),
    "branches": l04.branches,
    "budget_curve": lambda: l06.budget_curve({"off": [False], 8: [True], None: [True]}, {"off": 9, 8: 20, None: 40}),
    "held_out_map": lambda: lA1.held_out_map(np.eye(90)),
    "inventory": lambda: lA1.inventory({"π": 9}, {"π": [(2, 3)]}),
    "loss_and_rate": lambda: lA1.loss_and_rate(BALANCE["on"]),
    "load_curves": lambda: lA1.load_curves(BALANCE, {"off": "π", "on": "π"}),
    "live_curves": lambda: lA1.live_curves({"π": [2.0, 1.0], "e": [2.0, 1.5]}, {"π": 0.5, "e": 0.0}, 50),
    "three_steps": lambda: l04.three_steps(torch.tensor([1.0, -1.0, 2.0, 0.0]), 2),
    "gpu_memory": memory.gpu_memory,
    "no room": lambda: memory.gpu_memory("Qwen/Qwen3-32B", 24),
    "memory": lambda: MemoryExplorer().picture(),
    "routing": lambda: RoutingExplorer(TRACE).picture(),
    "sampling": lambda: SamplingExplorer(POSITIONS, "qwen3-tiny").picture(),
    "reserved": lambda: lA3.reserved(SCHEDULE, 256),
    "schedule": lambda: ScheduleExplorer(SCHEDULE, step=39).picture(),
}


@pytest.mark.slow  # half a minute in all; the labels of a recording are read by --check
@NO_WARNING  # a missing glyph is a warning of matplotlib's
@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("lang", ["zh", "en", None])
def test_labels_are_in_the_pages_language_and_have_their_glyphs(lang, name, monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", lang)
    drawn = FIGURES[name]()
    labels = figures.labels(drawn)  # lays it out, which asks the fonts for each glyph
    if lang is None:
        assert figures.png(drawn).startswith(b"\x89PNG")
    if lang:
        assert [page_language.foreign(label, lang, KNOWN) for label in labels] == [[]] * len(labels)
    assert any(HAN.search(label) for label in labels) == (lang != "en")
    latin = set(re.findall(r"[a-z]{4,}", " ".join(labels))) - {
        "digit",
        "once",
        "qwen",
        "tiny",
        "mathdefault",
    }  # data, powers of ten
    assert bool(latin) == (lang != "zh")


def test_every_character_of_a_label_is_in_the_font():
    from matplotlib.font_manager import get_font

    glyphs = get_font(figures.CHINESE_FONT).get_charmap()
    places = ("helpers/figures.py", "helpers/explorer/*.py", "helpers/lessons/**/*.py", "notebooks/source/*.py")
    drawing = [path for place in places for path in ROOT.glob(place)]
    texts = [zh for path in drawing for _, zh, _ in said_by(path)]
    missing = {character for character in HAN.findall("".join(texts)) if ord(character) not in glyphs}
    assert len(texts) > 20 and missing == set()


def test_labels_are_words_each_once():
    drawn, (left, right) = figures.figure(1, 2)
    for ax in (left, right):
        ax.set(xlabel="steps", title="0.5")
        ax.plot([0, 1], [1e6, 2e6], label="loss")
        ax.legend()
    left.text(0, 0, "hidden", visible=False)
    assert sorted(figures.labels(drawn)) == ["loss", "steps"]


@pytest.mark.slow
def test_the_kernels_language_goes_along_with_the_picture(monkeypatch):
    for lang in ("zh", "en", None):
        monkeypatch.setattr(language, "LANGUAGE", lang)
        explorer = MemoryExplorer()
        _, metadata = explorer._repr_mimebundle_()
        assert explorer.data["lang"] == lang
        assert any("放不下" in label or "最长上下文" in label for label in metadata["course"]["labels"]) == (
            lang != "en"
        )


@pytest.mark.parametrize("explorer", ["memory", "routing", "sampling", "schedule"])
@pytest.mark.parametrize(("kernel", "folder", "shown"), [("zh", "en", "zh"), ("en", "zh", "en"), (None, "en", "en")])
def test_an_explorer_starts_in_the_kernels_language(kernel, folder, shown, explorer, browser, tmp_path, monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", kernel)
    made = {
        "memory": MemoryExplorer,
        "routing": lambda: RoutingExplorer(TRACE),
        "sampling": lambda: SamplingExplorer(POSITIONS, "qwen3-tiny"),
        "schedule": lambda: ScheduleExplorer(SCHEDULE),
    }[explorer]()
    (tmp_path / folder).mkdir()
    file = tmp_path / folder / "page.html"
    made.to_html(file)
    if kernel is None:  # a widget without a language, where the address rules; a page by itself starts in Chinese
        file.write_text(file.read_text(encoding="utf-8").replace('"lang": "zh"', '"lang": null'), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    titles = {"memory": memory, "routing": routing, "sampling": sampling, "schedule": schedule}[explorer].LABELS
    assert page.locator(".rx-title").inner_text() == titles[shown]["title"]
    other = {"zh": "en", "en": "zh"}[shown]
    page.locator(f"button[value={other}]").click()
    assert page.locator(".rx-title").inner_text() == titles[other]["title"]
    page.close()


# ---------------------------------------------------------------------------------------------- recording

SPOKEN = """
# %% key="spoken"
from helpers import figures
from helpers.language import say

print(say("共 3 个词元", "3 tokens in all"))

# %% key="drawn"
figure, ax = figures.figure()
ax.set(xlabel=say("训练步", "training step"), title=say("损失", "loss"))
figure

# %% key="plain"
import matplotlib.pyplot as plt

plt.plot([1, 2], label=say("一条线", "a line"))
plt.legend()
plt.show()

# %% key="explorer"
from helpers.explorer import MemoryExplorer

MemoryExplorer()
"""


def cells(course, lang):
    notebook = nbformat.read(course.notebook(lang), as_version=4)
    return {cell.id: cell for cell in notebook.cells}


@pytest.mark.slow
def test_each_language_is_recorded_by_its_own_run(course, capsys):
    arguments = ["--root", str(course.root)]
    course.write(TOY + SPOKEN)
    assert build.main([*arguments, "--record"]) == 0, capsys.readouterr().err
    assert build.main([*arguments, "--check"]) == 0, capsys.readouterr().err
    for lang, said, label, line in (
        ("zh", "共 3 个词元\n", "训练步", "一条线"),
        ("en", "3 tokens in all\n", "training step", "a line"),
    ):
        found = cells(course, lang)
        assert [output.text for output in found["spoken"].outputs] == [said]
        labels = {key: found[key].outputs[0].metadata.course.labels for key in ("drawn", "plain", "explorer")}
        assert (
            label in labels["drawn"]
            and labels["plain"] == [line]
            and any("Qwen3-8B" in text for text in labels["explorer"])
        )
        assert found["setup"].execution_count == 1 and found["explorer"].execution_count == 6
        assert list(found["drawn"].outputs[0].data) == [figures.SVG, "image/png", "text/plain"]

    before = {lang: course.notebook(lang).read_text(encoding="utf-8") for lang in ("zh", "en")}
    course.write(TOY.replace("After `softmax`", "Following `softmax`").replace("# zh: 只有", "# zh: 仅") + SPOKEN)
    assert build.main(arguments) == build.main([*arguments, "--check"]) == 0  # nothing runs
    for lang, text in before.items():
        now = nbformat.reads(text, as_version=4).cells
        assert [c.get("outputs") for c in now] == [c.get("outputs") for c in cells(course, lang).values()]
        assert course.notebook(lang).read_text(encoding="utf-8") != text

    course.write(TOY + SPOKEN.replace("共 3 个词元", "一共 3 个词元"))  # the text of a say is code
    capsys.readouterr()
    assert build.main(arguments) == 0
    assert "99_toy: not run" in capsys.readouterr().out and cells(course, "en")["spoken"].outputs == []


@pytest.mark.slow
def test_a_lesson_that_fails_in_one_language_is_recorded_in_none(course, capsys):
    cell = '\n# %% key="more"\nfrom helpers.language import LANGUAGE\n\nassert LANGUAGE == "zh"\n'
    course.write(TOY + cell)
    assert build.main(["--root", str(course.root)]) == 0
    before = {lang: course.notebook(lang).read_bytes() for lang in ("zh", "en")}
    assert build.main(["--root", str(course.root), "--record"]) == 1
    assert "99_toy: cell 'more' failed, so nothing is recorded" in capsys.readouterr().err
    assert before == {lang: course.notebook(lang).read_bytes() for lang in ("zh", "en")}


@pytest.mark.slow
def test_a_box_in_a_figure_stops_the_recording(course, capsys):
    course.write(TOY + '\n# %% key="more"\nimport matplotlib.pyplot as plt\n\nplt.title("词元")\nplt.show()\n')
    assert build.main(["--root", str(course.root), "--record"]) == 1
    said = capsys.readouterr().err
    assert "cell 'more' failed" in said and "missing from font" in said and "figures.figure" in said
    assert not course.notebook("zh").exists()


@pytest.mark.slow
def test_the_command_for_one_lesson_runs_it_and_prints_what_is_wrong(course, capsys):
    course.write(TOY + '\n# %% key="more"\nprint("this is not so")\n')
    assert page_language.main(["--root", str(course.root), "99"]) == 1
    [finding] = capsys.readouterr().out.splitlines()
    assert finding.startswith("99_toy: zh: cell 'more': the output says \"this is not so\" in English")
    assert not course.notebook("zh").exists()
    course.write(TOY + '\n# %% key="more" tags=["varies"]\nimport time\n\nprint(time.time_ns())\n')
    assert page_language.main(["--root", str(course.root), "99"]) == 0
    course.write(TOY + '\n# %% key="more"\nimport time\n\nprint(time.time_ns())\n')
    assert page_language.main(["--root", str(course.root), "99"]) == 1
    assert "cell 'more': its numbers differ" in capsys.readouterr().out
