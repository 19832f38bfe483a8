"""helpers/explorer/schedule: the replay in the page is that of Python, and the page shows what the trace says."""

import base64
import json
import random
import re

import pytest
from conftest import ROOT

from helpers import figures, language
from helpers.explorer import ScheduleExplorer
from helpers.explorer.schedule import JAVASCRIPT, LABELS, captions, steps_and_blocks
from helpers.schedule_trace import Change, Request, ScheduleTrace, Settings

RECORDED = ROOT / "tests" / "schedule_qwen3_tiny.json"


@pytest.fixture(scope="module")
def trace():
    return ScheduleTrace.load(RECORDED)


@pytest.fixture(scope="module")
def crowd():
    """Thirty requests in a pool of 400 blocks, whose model has a hostile name; drafts in every third step."""
    settings = Settings(block_size=16, num_blocks=401, max_num_seqs=30, max_num_batched_tokens=128)
    trace = ScheduleTrace(settings, provenance={"model": "</script><img src=x onerror=alert(1)>", "vllm": "0.32.0"})
    trace.requests += [Request(4, 0, None, 0) for _ in range(30)]
    following, known, held = iter(range(1, 401)), 4, 0
    for step in range(70):
        drafts = 2 if step % 3 == 2 else 0
        change = Change(tokens=dict.fromkeys(range(30), 1 + drafts if step else 4))
        if known + drafts > 16 * held:
            change.blocks, held = {request: [next(following)] for request in range(30)}, held + 1
            change.free = 400 - 30 * held
        if drafts:
            change.drafts, change.accepted = dict.fromkeys(range(30), 2), dict.fromkeys(range(30), 2)
        known += 1 + drafts
        trace.changes.append(change)
    trace.check()
    return trace


# ---------------------------------------------------------------------------------------------- without a browser


def test_both_languages_have_the_same_labels():
    assert LABELS["zh"].keys() == LABELS["en"].keys()
    for name, zh in LABELS["zh"].items():
        assert set(re.findall(r"\{\w+\}", zh)) == set(re.findall(r"\{\w+\}", LABELS["en"][name])), name
    assert set(re.findall(r'label\("(\w+)"', JAVASCRIPT)) <= LABELS["en"].keys()


def test_the_javascript_stands_alone():
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|\bimport\b|\brequire\(|innerHTML|fetch\(", JAVASCRIPT)
    assert "</script" not in JAVASCRIPT


def test_captions_say_what_was_recorded(trace, crowd):
    for recorded in (trace, crowd):
        both = captions(recorded)
        assert len(both["zh"]) == len(both["en"])
    assert "qwen3-tiny, bfloat16, vLLM 0.32.0" in captions(trace)["en"][-1] and "tiny" in captions(trace)["en"][-2]
    assert "tiny" not in " ".join(captions(crowd)["en"])


def test_the_output_holds_a_picture_for_where_no_widget_runs(trace, monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", "en")
    bundle, metadata = ScheduleExplorer(trace, step=39)._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == "ScheduleExplorer(7 requests, 80 steps)"
    labels = metadata["course"]["labels"]
    assert any("pool in step 39: 12 of 14 blocks in use, 2 free" in label for label in labels) and "preempted" in labels


def test_the_figure_draws_each_step_once(trace):
    """The lengths of a row's boxes add up to the steps in which its request was there."""
    above = steps_and_blocks(trace, 39).axes[0]
    drawn = dict.fromkeys(range(7), 0)
    for bar in above.patches:
        drawn[round(bar.get_y() + bar.get_height() / 2)] += bar.get_width()
    assert drawn == {number: request.gone - request.arrived for number, request in enumerate(trace.requests)}


def test_a_figure_of_many_requests_says_of_how_many(crowd, monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", "en")
    labels = figures.labels(steps_and_blocks(crowd, 3))
    assert "24 requests of 30, 70 steps" in labels


def far(trace, by=500):
    """The same in a large pool, whose blocks are all ``by`` further on."""
    data = trace.data()
    data["settings"]["num_blocks"] += 4 * by
    for step in data["steps"]:
        step["blocks"] = {
            request: [block + by for block in blocks] for request, blocks in step.get("blocks", {}).items()
        }
        step["free"] = step["free"] + 4 * by if "free" in step else None
    return ScheduleTrace._from_data(data)


def test_of_a_large_pool_the_figure_draws_the_blocks_that_are_used(trace, monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", "en")
    for recorded, first, last in ((trace, 1, 14), (far(trace), 501, 514)):
        held = {block for table in recorded.at(39).tables.values() for block in table}
        below = steps_and_blocks(recorded, 39).axes[1]
        free = {int(text.get_text()) for text in below.texts if text.get_text().isdigit()}
        assert free == set(range(first, last + 1)) - held and len(below.texts) == 14


def test_what_was_planned_says_by_whom_and_not_that_it_was_recorded(trace, monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", "en")
    planned = ScheduleTrace(trace.settings, trace.requests, trace.changes, {"model": "your scheduler"})
    assert "your scheduler: 7 requests, 80 steps" in figures.labels(steps_and_blocks(planned, 3))
    assert "Recorded" not in " ".join(captions(planned)["en"])


# ---------------------------------------------------------------------------------------------- in a browser


@pytest.fixture
def open_page(open_explorer):
    def start(trace, lang="en", color_scheme="light", width=1100, **selected):
        return open_explorer(ScheduleExplorer(trace, **selected), ".sc-words li", lang, color_scheme, width)

    return start


REPLAYED = """([trace, indices]) => {
  const replay = schedule(trace), sorted = (map) => [...map].sort(([a], [b]) => a - b);
  return indices.map((index) => {
    const step = replay.at(index);
    const maps = ["tokens", "kinds", "computed", "tables", "drafts", "accepted"].map((name) => sorted(step[name]));
    const known = sorted(step.known).filter(([request]) => step.tables.has(request));
    const lists = ["waiting", "arrived", "gone", "preempted", "started", "resumed"].map((name) => [...step[name]]);
    return [step.index, step.free, ...maps, known, ...lists];
  });
}"""


def in_python(step):
    names = ("tokens", "kinds", "computed", "tables", "drafts", "accepted", "known")
    maps = [[[request, value] for request, value in sorted(getattr(step, name).items())] for name in names]
    lists = [getattr(step, name) for name in ("waiting", "arrived", "gone", "preempted", "started", "resumed")]
    return json.loads(json.dumps([step.index, step.free, *maps, *lists]))


@pytest.mark.slow
def test_the_replay_in_the_page_is_that_of_python(trace, crowd, browser):
    page = browser.new_page()
    page.add_script_tag(content=JAVASCRIPT.replace("export default", "globalThis.explorer ="))
    for recorded in (trace, crowd):
        steps = [in_python(step) for step in recorded.replay()]
        order = random.Random(0).sample(range(len(steps)), len(steps))  # any step first, then any other
        found = page.evaluate(REPLAYED, [recorded.data(), order])
        assert found == [steps[index] for index in order]
    page.close()


def shown(page) -> dict:
    return page.locator(".rx").evaluate("root => ({...root.dataset})")


def words(page) -> list[str]:
    return page.locator(".sc-words li").all_inner_texts()


def assert_shows(page, trace, index, request):
    step, settings = trace.at(index), trace.settings
    assert page.locator(".sc-now").inner_text() == f"step {index} / {len(trace) - 1}"
    facts = " ".join(page.locator(".sc-facts").inner_text().split())
    total = sum(step.tokens.values())
    assert f"tokens {total} / {settings.max_num_batched_tokens}" in facts
    assert f"running {len(step.tables)} / {settings.max_num_seqs}" in facts
    assert f"free blocks {step.free} / {settings.num_blocks - 1} waiting {len(step.waiting)}" in facts
    held = {block for table in step.tables.values() for block in table}
    found = shown(page)
    assert (int(found["used"]), int(found["shared"])) == (len(held), len(step.shared))
    table = page.locator(".sc-blocks text").evaluate_all("all => all.map(text => Number(text.dataset.block))")
    assert table == list(step.tables.get(request, ()))
    assert page.locator(".sc-choose [aria-pressed=true]").inner_text() == f"r{request}"
    assert page.locator(".sc-rows text.rx-strong").text_content() == f"r{request}"


@pytest.mark.slow
def test_keys_slider_and_pointer_show_what_the_trace_says(trace, open_page):
    page = open_page(trace)
    assert_shows(page, trace, 0, 0)
    page.locator(".sc-scroll").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "PageDown", "ArrowLeft"):
        page.keyboard.press(key)
    assert_shows(page, trace, 11, 1)
    for key in ("End", "ArrowRight", "ArrowUp", "ArrowUp"):  # there is no further step and no request above
        page.keyboard.press(key)
    assert_shows(page, trace, 79, 0)
    page.locator("input[type=range]").fill("39")
    page.locator(".sc-choose button[value='2']").click()
    assert_shows(page, trace, 39, 2)
    page.locator("button[value=whole]").click()
    box = page.locator(".sc-rows").bounding_box()
    wide, left = box["width"] - 42 - 8, 42 + box["x"]
    page.mouse.move(left + wide * 60.5 / 80, box["y"] + 2 + 22 * 4.5)
    page.mouse.down()
    assert_shows(page, trace, 60, 4)
    page.mouse.move(left + wide * 50.5 / 80, box["y"] + 5)  # scrubs, and stays with its request
    page.mouse.up()
    assert_shows(page, trace, 50, 4)


@pytest.mark.slow
def test_the_step_in_words(trace, open_page):
    page = open_page(trace)
    assert words(page) == [
        "New: r0, r1.",
        "r0 starts: 64 of its 73 prompt tokens are computed.",
        "Waiting: r1. The step's 64 tokens are used up (max_num_batched_tokens).",
    ]
    said = {}
    for index in (1, 2, 3, 20, 39, 41, 50):
        page.locator("input[type=range]").fill(str(index))
        said[index] = words(page)
    assert "r1 starts: 64 of 84 prompt tokens are in the prefix cache, 20 computed." in said[1]
    assert "r0 goes on with its prompt: 9 more tokens, now 73 of 73." in said[1]
    assert said[2][:2] == ["New: r2.", "r2 starts: 62 of its 130 prompt tokens are computed."]
    assert "Decode, one token each: r0, r1." in said[3]
    assert said[20][-1] == "Waiting: r4, r5. 4 requests run, the limit of max_num_seqs."
    assert said[39] == [
        "r3 is preempted and gives 2 blocks back (2 more stay, others use them); its tokens will be computed again.",
        "Decode, one token each: r0, r1, r2.",
        "Waiting: r3, r4, r5. A step that preempts lets nobody in.",
    ]
    assert said[41][0] == (
        "r0 has ended (length limit) after 40 new tokens and gives 2 blocks back (2 more stay, others use them)."
    )
    assert "r3 resumes: 128 of 129 tokens are still in the prefix cache, 1 computed." in said[41]
    assert page.locator(".rx-live").text_content().startswith("step 50 / 79: ")
    said_blocks = re.compile(r"r\d needs \d+ blocks, and \d+ are free")
    page.locator("input[type=range]").fill("42")
    assert said_blocks.search(words(page)[-1])


@pytest.mark.slow
def test_many_requests_fit_a_sentence_and_the_pool(crowd, open_page):
    page = open_page(crowd, step=69, request=29)
    assert words(page)[0] == "Decode, one token each: r0, r1, r2, r3, r4 and 25 more."
    assert_shows(page, crowd, 69, 29)
    page.locator("input[type=range]").fill("2")
    assert words(page)[0] == "r0 guesses 2 tokens, 2 of them right."
    assert (
        page.locator(".sc-pool text").count() == 0
        and "never used" in page.locator(".sc-panels .rx-muted").first.inner_text()
    )
    assert page.title() == "The scheduler, step by step · 调度器，一步一步看" and page.locator("img").count() == 0
    rows = page.locator(".sc-scroll")
    assert rows.evaluate("box => box.scrollTop > 0 && box.scrollHeight > box.clientHeight")  # r29 is in view


@pytest.mark.slow
def test_a_large_pool_begins_with_the_first_block_that_is_used(trace, open_page):
    page = open_page(far(trace), step=39, request=1)
    ids = [
        int(text) for text in page.locator(".sc-pool text").evaluate_all("all => all.map(text => text.dataset.block)")
    ]
    assert ids == list(range(501, 515)) and page.locator(".rx").get_attribute("data-used") == "12"
    assert "2000 more were never used" in page.locator(".sc-panels .rx-muted").first.inner_text()
    page = open_page(ScheduleTrace(trace.settings, trace.requests, trace.changes, {"model": "your scheduler"}))
    assert "your scheduler · 7 requests, 80 steps" in page.locator(".rx-head").inner_text()


@pytest.mark.slow
def test_play_goes_on_by_itself_and_stops_at_the_end(trace, open_page):
    page = open_page(trace, step=77)
    page.locator(".sc-play").click()
    assert page.locator(".sc-play").inner_text() == LABELS["en"]["pause"]
    page.wait_for_selector(".rx[data-step='79']")
    page.wait_for_function("text => document.querySelector('.sc-play').textContent === text", arg=LABELS["en"]["play"])


@pytest.mark.slow
def test_the_table_lists_the_requests_of_the_step(trace, open_page):
    page = open_page(trace, step=39)
    page.locator("summary").click()
    page.locator("tr").nth(6).wait_for()
    rows = [row.split("\t") for row in page.locator("tr").all_inner_texts()[1:]]
    assert [row[:2] for row in rows[:4]] == [["r0", "decode"], ["r1", "decode"], ["r2", "decode"], ["r3", "preempted"]]
    assert rows[0][4] == " ".join(map(str, trace.at(39).tables[0])) and rows[0][3] == "111"


@pytest.mark.slow
def test_the_language_switch(trace, open_page):
    page = open_page(trace, lang="zh", step=39)
    zh = page.locator(".rx").inner_text()
    assert LABELS["zh"]["title"] in zh and "r3 被抢占，还回 2 块（另外 2 块还有别人在用）" in zh
    page.locator("button[value=en]").click()
    en = page.locator(".rx").inner_text()
    assert LABELS["en"]["title"] in en and re.findall(r"[\u4e00-\u9fff]+", en) == ["中"]  # the switch itself
    page.locator("button[value=zh]").click()
    assert page.locator(".rx").inner_text() == zh


@pytest.mark.slow
@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_in_either_theme(trace, crowd, color_scheme, open_page):
    colours = set()
    for recorded in (trace, crowd):
        page = open_page(recorded, width=375, color_scheme=color_scheme, step=39)
        assert page.evaluate("document.documentElement.scrollWidth") == 375
        small = page.locator(".rx").evaluate(
            "root => [...root.querySelectorAll('*')].filter(node => node.checkVisibility() && node.textContent.trim() "
            "&& parseFloat(getComputedStyle(node).fontSize) < 12).length"
        )
        assert small == 0
        colours.add(page.locator(".rx").evaluate("root => getComputedStyle(root).backgroundColor"))
    assert colours == {{"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[color_scheme]}
