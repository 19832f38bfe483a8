"""The chat panel: streams, stops, and shows whatever a model writes as text, in a real browser too."""

import json
import threading
import time

import nbformat
import pytest
from faulty_server import ENGINE_DEAD, FaultyServer, stream
from jupyterlab_server import JupyterLab, screenshot, wait_until
from openai import OpenAI

from helpers import language
from helpers.explorer import ChatPanel
from helpers.explorer.chat import JAVASCRIPT, LABELS

HOSTILE = '</script><img src=x onerror="document.title=1"><b>bold</b>&amp;\u202e$x$ **md** [a](javascript:alert(1))'
PAGE = """<!doctype html><html lang="{lang}"><meta charset="utf-8"><title>quiet</title><body>
<script type="application/json" id="data">{data}</script><script type="module">
{javascript}
const data = JSON.parse(document.getElementById("data").textContent), sent = [], on = {{}};
window.sent = sent;
window.set = (name, value) => {{ data[name] = value; on["change:" + name]?.(); }};
const model = {{ get: (name) => data[name], send: (message) => sent.push(message), off: () => {{}} }};
model.on = (name, heard) => {{ on[name] = heard; }};
render({{ model, el: document.body }});
</script></body></html>"""
TURNS = [
    {"role": "user", "text": "37×46=?", "thought": "", "state": "done"},
    {"role": "assistant", "text": "\n\n37×46=1702", "thought": "\n46=40+6\n37×40=1480\n", "state": "done"},
    {"role": "user", "text": HOSTILE, "thought": "", "state": "done"},
    {"role": "assistant", "text": HOSTILE, "thought": HOSTILE, "state": f"APIError: {HOSTILE}"},
    {"role": "user", "text": "讲个故事", "thought": "", "state": "done"},
    {"role": "assistant", "text": "从前有一只", "thought": "", "state": "stopped"},
    {"role": "user", "text": "再讲一个", "thought": "", "state": "done"},
    {"role": "assistant", "text": "", "thought": "好的", "state": "open"},
]


def panel(server):
    return ChatPanel(OpenAI(base_url=server.base_url, api_key="EMPTY", max_retries=0), "m")


# ---------------------------------------------------------------------------------------------- in Python


def test_a_reply_grows_and_the_history_goes_along():
    role = {"role": "assistant", "content": ""}
    first = stream(role, {"reasoning": "hm"}, {"content": "\n\n4"}, {"content": "2"}, usage=True)
    with FaultyServer(first, stream({"reasoning_content": "old"}, {"content": "ok"}, finish="length")) as server:
        shown = panel(server)
        shown.ask("?")
        shown.wait(60)
        shown.ask("again", thinking=False)
        shown.wait(60)
        bodies = server.bodies
    assert [turn["state"] for turn in shown.turns] == ["done", "done", "done", "cut"] and not shown.busy
    assert (shown.turns[1]["thought"], shown.turns[1]["text"]) == ("hm", "\n\n42")
    assert (shown.turns[3]["thought"], shown.turns[3]["text"]) == ("old", "ok")
    said = [(message["role"], message["content"]) for message in bodies[1]["messages"]]
    assert said == [("user", "?"), ("assistant", "42"), ("user", "again")]
    switches = [body["chat_template_kwargs"]["enable_thinking"] for body in bodies]
    assert switches == [True, False] and [body["temperature"] for body in bodies] == [0.6, 0.7]


@pytest.mark.parametrize(
    "reply",
    [
        stream({"content": "half"}, finish=None, then=ENGINE_DEAD),
        stream({"content": "half"}, finish=None, done=False),
    ],
)
def test_a_broken_stream_is_shown_as_broken(reply):
    with FaultyServer(reply) as server:
        shown = panel(server)
        shown.ask("?")
        shown.wait(60)
    assert shown.turns[1]["text"] == "half" and "Error" in shown.turns[1]["state"] and not shown.busy


def test_chunks_that_hold_nothing_are_passed_over():
    empty = [{"choices": None}, {"choices": [{"index": 0, "delta": None, "finish_reason": None}]}]
    with FaultyServer(stream({"content": "ok"}, first=empty)) as server:
        shown = panel(server)
        shown.ask("?")
        shown.wait(60)
    assert (shown.turns[1]["text"], shown.turns[1]["state"]) == ("ok", "done")


@pytest.mark.parametrize(
    ("content", "thought", "text"),
    [
        ("<think>\nhm\n</think>\n\n1702", "hm", "1702"),
        ("hm</think>1702", "hm", "1702"),  # the template has opened the thought
        ("1702", "", "1702"),
    ],
)
def test_a_thought_without_a_parser_is_folded_away_and_not_sent_back(content, thought, text):
    pieces = [{"content": letter} for letter in content]
    with FaultyServer(stream(*pieces), stream({"content": "ok"})) as server:
        shown = panel(server)
        for question in ("?", "again"):
            shown.ask(question)
            shown.wait(60)
        history = [message["content"] for message in server.bodies[1]["messages"]]
    assert (shown.turns[1]["thought"].strip(), shown.turns[1]["text"].strip()) == (thought, text)
    assert history == ["?", text, "again"] and shown.turns[1]["state"] == "done"


@pytest.mark.parametrize(
    ("deltas", "finish", "state"),
    [
        ([{"reasoning": "hm"}], "length", "cut thought"),
        ([{"content": "<think>\nhm"}], "length", "cut thought"),
        ([], "length", "cut"),
        ([{"content": "half"}], "length", "cut"),
        ([{"reasoning": "1702"}], "stop", "taken"),
        ([{"reasoning": "1702"}, {"content": "\n\n"}], "stop", "taken"),
        ([{"content": "<think>\nhm"}], "stop", "only thought"),
        ([{"content": "<think>\nhm</think>\n"}], "stop", "only thought"),
        ([], "stop", "empty"),
        ([{"content": "half"}], "abort", "finish_reason: abort"),
    ],
)
def test_a_reply_without_an_answer_says_why(deltas, finish, state):
    with FaultyServer(stream(*deltas, finish=finish), stream({"content": "ok"})) as server:
        shown = panel(server)
        for question in ("?", "again"):
            shown.ask(question)
            shown.wait(60)
        assert not any(
            "think" in message["content"] or "hm" in message["content"] for message in server.bodies[1]["messages"]
        )
    assert shown.turns[1]["state"] == state
    assert ":" in state or all(state in labels for labels in LABELS.values())


def test_stop_ends_the_stream_and_the_panel_stays_usable():
    endless = stream(*[{"content": "x"}] * 1000, pause=0.5)
    with FaultyServer(endless, stream({"content": "fine"})) as server:
        shown = panel(server)
        shown.ask("?")
        shown.ask("not while busy")
        while not shown.turns[1]["text"]:
            time.sleep(0.01)
        shown._receive(shown, {"type": "stop"}, [])
        shown.wait(60)
        assert shown.turns[1]["state"] == "stopped" and len(shown.turns[1]["text"]) < 1000
        wait_until(lambda: server.now == 0)  # the server saw the connection close
        shown._receive(shown, {"type": "send", "text": "more", "thinking": False}, [])
        shown.wait(60)
        assert shown.turns[-1]["text"] == "fine" and len(shown.turns) == 4
        shown._receive(shown, {"type": "clear"}, [])
        assert shown.turns == []


def test_stop_ends_a_stream_in_which_nothing_comes():
    released = threading.Event()

    def stalls(handler):
        handler.start_events()
        handler.event(json.dumps({"id": "c", "choices": [{"index": 0, "delta": {"content": "half"}}]}))
        released.wait(600)

    with FaultyServer(stalls) as server:
        shown = panel(server)
        shown.ask("?")
        wait_until(lambda: shown.turns[1]["text"])
        shown.stop()
        shown.wait(60)
        released.set()
    assert not shown.busy and (shown.turns[1]["text"], shown.turns[1]["state"]) == ("half", "stopped")


def test_the_page_is_not_sent_every_piece():
    with FaultyServer(stream(*[{"content": "x"}] * 500)) as server:
        shown, sent = panel(server), []
        shown.observe(sent.append, "turns")
        shown.ask("?")
        shown.wait(60)
    assert shown.turns[1]["text"] == "x" * 500 and len(sent) < 250


def test_nothing_behind_the_address_is_said_with_the_remedy():
    shown = ChatPanel(OpenAI(base_url="http://127.0.0.1:9/v1", api_key="EMPTY", max_retries=0), "m")
    shown.ask("?")
    shown.wait(60)
    assert shown.turns[1]["state"] == "gone" and "run the cell" in LABELS["en"]["gone"]


def test_both_languages_have_the_same_labels():
    assert LABELS["zh"].keys() == LABELS["en"].keys()


def test_the_kernels_language_goes_along(monkeypatch):
    assert ChatPanel(None, "m").lang is None
    monkeypatch.setattr(language, "LANGUAGE", "zh")
    assert ChatPanel(None, "m").lang == "zh"


def test_the_javascript_writes_text_only():
    assert not any(
        word in JAVASCRIPT for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "fetch(", "eval(", "import ")
    )


# ---------------------------------------------------------------------------------------------- in a browser


@pytest.fixture
def open_panel(browser, tmp_path):
    opened, errors = [], []

    def start(lang="en", turns=TURNS, kernel=None, **options):
        busy = turns[-1:] == TURNS[-1:]
        data = {"labels": LABELS, "lang": kernel, "model": "qwen3-tiny", "turns": turns, "busy": busy}
        text = json.dumps(data).replace("<", "\\u003c")
        (tmp_path / "panel.html").write_text(PAGE.format(lang=lang, data=text, javascript=JAVASCRIPT), encoding="utf-8")
        page = browser.new_context(viewport={"width": 900, "height": 640}, **options).new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.goto((tmp_path / "panel.html").as_uri())
        page.wait_for_selector(".cx")
        opened.append(page)
        return page

    yield start
    for page in opened:
        page.context.close()
    assert errors == []


def test_it_starts_in_the_kernels_language(open_panel):
    page = open_panel(lang="en", kernel="zh")
    assert page.locator(".cx .rx-title").inner_text() == LABELS["zh"]["title"]
    page.locator("button[value=en]").click()
    assert page.locator(".cx .rx-title").inner_text() == LABELS["en"]["title"]


def test_hostile_text_is_text(open_panel):
    page = open_panel()
    assert page.locator(".cx-text").all_text_contents()[2:4] == [HOSTILE, HOSTILE]
    assert page.locator(".cx-thought").nth(3).text_content() == HOSTILE
    assert page.locator(".cx-state").nth(3).text_content() == f"APIError: {HOSTILE}"
    assert page.locator("img, b, .cx a").count() == 0 and page.title() == "quiet"


def test_thoughts_are_folded_and_stay_as_the_reader_left_them(open_panel):
    page = open_panel()
    thought = page.locator(".cx-thought").nth(1)
    assert page.get_by_role("group", name="you", exact=True).count() == 4  # a screen reader says who speaks
    assert page.get_by_role("group", name="qwen3-tiny", exact=True).count() == 4
    assert not thought.is_visible() and page.locator("summary").nth(1).inner_text() == "Thought"
    page.locator("summary").nth(1).click()
    assert thought.is_visible() and thought.inner_text() == "46=40+6\n37×40=1480"
    page.evaluate("turns => set('turns', turns)", [*TURNS[:-1], TURNS[-1] | {"text": "more", "state": "done"}])
    assert thought.is_visible() and page.locator(".cx-text").last.inner_text() == "more"
    assert page.locator("details").nth(0).is_hidden()  # a turn without a thought has nothing to unfold


def test_sending_and_stopping(open_panel):
    page = open_panel(turns=[])
    page.locator("textarea").fill("37×46=?")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("!")
    page.locator("input[type=checkbox]").uncheck()
    page.locator("textarea").press("Enter")
    assert page.evaluate("sent") == [{"type": "send", "text": "37×46=?\n!", "thinking": False}]
    assert page.locator("textarea").input_value() == ""
    page.locator(".cx-send").click()  # nothing is written: nothing is sent
    page.evaluate("set('busy', true)")
    assert page.locator(".cx-send").inner_text() == LABELS["en"]["stop"] and page.locator(".cx-clear").is_disabled()
    page.locator("textarea").fill("later")
    page.locator("textarea").press("Enter")  # Enter does not stop
    page.locator(".cx-send").click()
    page.evaluate("set('busy', false)")
    page.locator(".cx-clear").click()
    assert [message["type"] for message in page.evaluate("sent")] == ["send", "stop", "clear"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_both_languages_light_and_dark(scheme, lang, open_panel):
    page = open_panel(lang=lang, color_scheme=scheme)
    assert page.locator(".cx").get_attribute("data-theme") == scheme
    assert page.locator(".cx .rx-title").inner_text() == LABELS[lang]["title"]
    assert page.locator(".cx-state").nth(5).inner_text() == LABELS[lang]["stopped"]
    assert page.locator("summary").last.inner_text() == LABELS[lang]["thinking"]
    screenshot(page, f"panel-{scheme}-{lang}")
    other = "en" if lang == "zh" else "zh"
    page.locator(f"button[value={other}]").click()
    assert page.locator(".cx .rx-title").inner_text() == LABELS[other]["title"]


@pytest.mark.large
def test_in_a_real_jupyterlab(browser, tmp_path):
    """A kernel, a panel and a server whose model writes HTML: it stays text, and the stop button stops."""
    endless = stream(*[{"content": f"{HOSTILE} "}] * 2000, pause=0.5)  # longer than any machine needs to click
    first = stream({"reasoning": HOSTILE}, {"content": HOSTILE})
    (tmp_path / "en").mkdir()
    with FaultyServer(first, endless) as server, JupyterLab(tmp_path) as lab:
        code = "from openai import OpenAI\nfrom helpers.explorer import ChatPanel\n"
        code += f"ChatPanel(OpenAI(base_url={server.base_url!r}, api_key='EMPTY'), 'm')"
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, tmp_path / "en" / "lesson.ipynb")
        page = lab.open(browser, "en/lesson.ipynb")
        title = page.title()
        lab.run_all(page)
        assert lab.complaints(page) == []
        page.wait_for_selector(".cx")
        page.locator(".cx textarea").fill("hi")
        page.locator(".cx textarea").press("Enter")
        wait_until(lambda: page.locator(".cx-text").nth(1).text_content() == HOSTILE)
        assert page.locator(".cx-thought").nth(1).text_content() == HOSTILE
        wait_until(lambda: page.locator(".cx-send").inner_text() == LABELS["en"]["send"])  # Enter does nothing before
        page.locator(".cx textarea").fill("for ever")
        page.locator(".cx textarea").press("Enter")
        wait_until(lambda: page.locator(".cx-text").nth(3).text_content().startswith(HOSTILE))  # the second answer
        page.locator(".cx-send").click()  # the stop button
        wait_until(lambda: page.locator(".cx-state").last.text_content() == LABELS["en"]["stopped"])
        wait_until(lambda: server.now == 0)
        assert page.locator(".cx img, .cx b").count() == 0 and page.title() == title
        screenshot(page, "panel-jupyterlab")
        page.context.close()
