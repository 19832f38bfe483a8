"""Lesson 08: the batch cell stands alone and survives faults, its commands exist."""

import ast
import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import openai
import pytest
from conftest import ROOT
from faulty_server import FaultyServer, body, chat, cut, drop, page, status

from helpers import GIB, attached, catalogue
from helpers.endpoint import Metrics
from helpers.language import say
from helpers.lessons import l08
from tools.lessons.source import parse, read_lesson

LESSON = read_lesson(ROOT / "notebooks" / "source" / "08_serving_under_load.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}
PROSE = {(cell.key, lang): cell.text[lang] for cell in LESSON.cells if cell.kind == "markdown" for lang in ("zh", "en")}
NOWHERE = "http://127.0.0.1:9/v1"


# ---------------------------------------------------------------------------------------------- copy-me


def started(tmp_path, code=CELLS["copy-batch"], **variables):
    """The cell as a script in a process that knows nothing but these variables."""
    (tmp_path / "copied.py").write_text(code, encoding="utf-8")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | variables
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-I", "copied.py"], cwd=tmp_path, env=environment, **pipes)


def ended(process):
    """Its exit status, output and errors; killed where it does not end."""
    try:
        return process.wait(60), *process.communicate()
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_copy_me_cell_says_when_nothing_is_behind_the_address(tmp_path):
    status, _, errors = ended(started(tmp_path, BASE_URL=NOWHERE))
    assert status == 1 and f"No server at {NOWHERE}" in errors and "Traceback" not in errors


@pytest.fixture
def batch(monkeypatch, one_certificate):
    """``batch(server, questions, ...)``: answers of the copy-me cell's ``ask_all``."""

    def ask(server, questions, **options):
        monkeypatch.setenv("BASE_URL", server.base_url)
        names = {"__name__": "copied"}
        exec(compile(CELLS["copy-batch"], "copy-batch", "exec"), names)
        options = {"pause": 0.01} | options
        return asyncio.run(SimpleNamespace(**names).ask_all(questions, **options))

    return ask


def test_answers_come_in_the_order_of_the_questions_and_no_more_than_allowed_at_once(batch):
    questions = [str(n) for n in range(30)]
    with FaultyServer() as server:

        def reply(handler):
            question = handler.body["messages"][-1]["content"]
            time.sleep(0.2 / (1 + int(question)))  # the first questions are answered last
            chat(question)(handler)

        server.replies = [reply]
        assert batch(server, questions, concurrency=4) == questions
        assert 2 <= server.most <= 4 and len(server.bodies) == 30


@pytest.mark.parametrize("fault", [status(503), status(500), status(429), status(408), drop])
def test_what_may_pass_is_tried_again(fault, batch):
    with FaultyServer(fault, fault, chat("there")) as server:
        assert batch(server, ["?"]) == ["there"]
        assert len(server.bodies) == 3


def busy(after):
    """A 429 that says when to come again."""

    def reply(handler):
        handler.send_response(429)
        handler.send_header("Retry-After", after)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return reply


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7), ("0", 0), ("99999", 60), ("9" * 5000, 60), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("-1", 0)],
)
def test_a_server_may_say_how_long_to_wait(said, seconds):
    names = {"__name__": "copied"}
    exec(compile(CELLS["copy-batch"], "copy-batch", "exec"), names)
    with FaultyServer(busy(said)) as server, pytest.raises(openai.RateLimitError) as error:
        openai.OpenAI(base_url=server.base_url, api_key="x", max_retries=0).completions.create(model="m", prompt="?")
    assert names["retry_after"](error.value) == seconds
    assert names["retry_after"](openai.APIConnectionError(request=None)) == 0


def test_the_batch_waits_as_long_as_the_server_says(batch):
    times = []

    def noted(reply):
        return lambda handler: (times.append(time.monotonic()), reply(handler))

    with FaultyServer(noted(busy("1")), noted(chat("there"))) as server:
        assert batch(server, ["?"]) == ["there"]
    assert times[1] - times[0] >= 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (status(400), openai.BadRequestError),
        (status(404), openai.NotFoundError),
        (status(409), openai.ConflictError),
        (page, RuntimeError),
        (cut(), RuntimeError),
        (cut("half"), RuntimeError),
        (chat(None, reasoning="1702"), RuntimeError),
        (chat(None), RuntimeError),
        (chat("<tool_call>{}</tool_call>"), RuntimeError),
        (chat("half", finish="abort"), RuntimeError),
        (body({"choices": None}), RuntimeError),
    ],
)
def test_what_stays_wrong_is_tried_once_and_harms_no_other(fault, error, batch):
    with FaultyServer(fault, chat("fine")) as server:
        first, second = batch(server, ["?", "!"], concurrency=1)
        assert isinstance(first, error) and second == "fine" and len(server.bodies) == 2


@pytest.mark.slow
def test_attempts_have_an_end_and_a_timeout(batch):
    with FaultyServer(status(503)) as server:
        [result] = batch(server, ["?"], attempts=3)
        assert isinstance(result, openai.InternalServerError) and len(server.bodies) == 3
    released = threading.Event()
    with FaultyServer(lambda handler: released.wait(60)) as server:
        [result] = batch(server, ["?"], attempts=2, timeout=1)
        assert isinstance(result, openai.APITimeoutError) and len(server.bodies) == 2
        released.set()


@pytest.mark.slow
def test_a_timeout_is_tried_again_once_at_most(batch):
    """A busy server would only get busier; other errors may be tried as often as attempts says."""
    released = threading.Event()
    with FaultyServer(lambda handler: released.wait(60)) as server:
        results = batch(server, ["?", "!", "."], timeout=1, attempts=9)
        assert all(isinstance(result, openai.APITimeoutError) for result in results) and len(server.bodies) == 6
        released.set()
    with FaultyServer(status(504)) as server:  # a proxy's
        [result] = batch(server, ["?"], attempts=9)
        assert isinstance(result, openai.InternalServerError) and len(server.bodies) == 2


def test_a_request_has_a_limit_of_tokens_and_no_thought(batch):
    with FaultyServer(chat("hm</think>\n\n1702")) as server:  # no parser, and a model that thinks all the same
        assert batch(server, ["?"]) == ["1702"]
        [sent] = server.bodies
        assert sent["max_tokens"] == 1024 and sent["chat_template_kwargs"] == {"enable_thinking": False}
        batch(server, ["?"], max_tokens=7)
        assert server.bodies[-1]["max_tokens"] == 7


@pytest.mark.slow
def test_a_restart_of_the_server_loses_nothing(batch):
    """After a lost connection nothing is asked until /health is well again."""
    asked_while_down = []
    with FaultyServer() as server:
        health = [status(200), status(503), status(503), status(503), status(200)]

        def get(handler):
            (health.pop(0) if len(health) > 1 else health[0])(handler)

        def reply(handler):
            if len(server.bodies) == 5 and len(health) == 4:
                drop(handler)  # killed in mid-run
            elif 1 < len(health) < 4:
                asked_while_down.append(handler.body)
                drop(handler)
            else:
                chat(handler.body["messages"][-1]["content"])(handler)

        server.get_reply, server.replies = get, [reply]
        questions = [str(n) for n in range(12)]
        assert batch(server, questions, concurrency=1, attempts=2) == questions
        assert server.got == ["/health"] * 5 and not asked_while_down and len(server.bodies) == 13


def test_a_server_that_stays_away_ends_the_run_and_keeps_what_was_answered(batch, tmp_path):
    path = tmp_path / "answers.jsonl"
    with FaultyServer(chat("a"), chat("b"), drop) as server:
        health = [status(200), status(503)]
        server.get_reply = lambda handler: (health.pop(0) if len(health) > 1 else health[0])(handler)
        with pytest.raises(RuntimeError, match="No server at"):
            batch(server, ["1", "2", "3", "4"], path=path, concurrency=1, patience=0)
    with FaultyServer(chat("c"), chat("d")) as server:
        server.get_reply = status(404)  # a proxy that lets /v1 through and nothing else
        assert batch(server, ["1", "2", "3", "4"], path=path, concurrency=1) == ["a", "b", "c", "d"]
        assert len(server.bodies) == 2


def test_a_second_run_asks_only_what_has_no_answer(batch, tmp_path):
    path, paragraph = tmp_path / "answers.jsonl", "one\u2028two 三"
    with FaultyServer(chat(paragraph), status(400), chat("c")) as server:
        first = batch(server, ["1", "2", "1"], path=path, concurrency=1)
        assert first[0] == paragraph and isinstance(first[1], openai.BadRequestError) and first[2] == "c"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert [line["error"] is None for line in lines] == [True, False, True]
    with path.open("ab") as file:  # not ours, and a line that a crash cut off within a character
        file.write(b'null\n[1]\n{"number": 1}\n' + '{"model": "Qwen3-8B", "question": "三'.encode()[:-1])
    with FaultyServer(chat("b")) as server:
        assert batch(server, ["1", "2", "1"], path=path) == [paragraph, "b", "c"] and len(server.bodies) == 1
        assert batch(server, ["1", "2", "1"], path=path) == [paragraph, "b", "c"] and len(server.bodies) == 1
        assert batch(server, ["1", "other"], path=path) == [paragraph, "b"] and len(server.bodies) == 2


MANY = CELLS["copy-batch"].replace('["37×46=?", "17+25+8=?", "5!=?"]', '[f"{n}+1=?" for n in range(40)]')


@pytest.mark.slow
def test_one_interrupt_ends_it_with_nothing_lost_and_a_second_run_goes_on(tmp_path):
    path, released = tmp_path / "answers.jsonl", threading.Event()
    assert "range(40)" in MANY

    def answer(handler):
        chat(f"to {handler.body['messages'][-1]['content']}")(handler)

    with FaultyServer(*[answer] * 12, lambda handler: released.wait(60)) as server:
        process = started(tmp_path, MANY, BASE_URL=server.base_url)
        try:
            while len(server.bodies) < 20:  # 12 answered, and written before the next 8 were asked
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.02)
            assert path.read_text(encoding="utf-8").count("\n") == 12
        finally:
            process.send_signal(signal.SIGINT)
            code, _, errors = ended(process)
        released.set()
    assert code == 130 and "Traceback" not in errors
    with FaultyServer(answer) as server:
        code, printed, _ = ended(started(tmp_path, MANY, BASE_URL=server.base_url))
        assert code == 0 and len(server.bodies) == 28
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert sorted(record["number"] for record in records) == list(range(40))
    assert all(record["answer"] == f"to {record['question']}" for record in records)
    assert printed.splitlines() == [f"{n}+1=? 'to {n}+1=?'" for n in range(40)]


@pytest.mark.slow
def test_a_question_without_an_answer_is_a_failure_of_the_script(tmp_path):
    with FaultyServer(chat(None, reasoning="1702"), chat("fine")) as server:
        code, printed, errors = ended(started(tmp_path, BASE_URL=server.base_url))
    assert code == 1 and "1 without an answer" in errors and "reasoning parser took the answer" in printed


# ---------------------------------------------------------------------------------------------- the figure

METRICS = """\
vllm:num_requests_running{{engine="0"}} 3.0
vllm:num_requests_running{{engine="1"}} 4.0
vllm:num_requests_waiting{{engine="0"}} 0.0
vllm:{name}{{engine="0"}} 0.75
"""
TWO = METRICS + 'vllm:{name}{{engine="1"}} 0.25\n'


@pytest.mark.parametrize(("text", "share"), [(METRICS, 0.75), (TWO, 0.5)])
@pytest.mark.parametrize("name", ["kv_cache_usage_perc", "gpu_cache_usage_perc"])
def test_the_share_of_the_cache_under_either_name_and_of_several_engines(text, share, name, monkeypatch):
    place = attached.AttachedServer.__new__(attached.AttachedServer)
    place.base_url = NOWHERE
    monkeypatch.setattr(place, "_get", lambda path: text.format(name=name), raising=False)
    found = place.metrics()
    assert found["kv_cache_usage_perc"] == share and found["num_requests_running"] == 7


@pytest.mark.parametrize("name", ["kv_cache_usage_perc", "another"])
def test_the_figure_draws_the_share_where_there_is_one(name):
    values = Metrics({"num_requests_running": 1.0, "num_requests_waiting": 0.0, name: 0.5}, "here")
    figure = l08.draw_queue([(0.0, values), (1.0, values)], most=32)
    drawn = figure.axes[1].lines[0].get_ydata()
    assert [str(y) for y in drawn] == (["50.0"] * 2 if name == "kv_cache_usage_perc" else ["nan"] * 2)


def test_the_server_is_watched_until_all_is_done():
    server = SimpleNamespace(metrics=lambda: {"num_requests_running": 1.0})

    async def watched():
        return await l08.watch(server, [asyncio.create_task(asyncio.sleep(0.2))], pause=0.01)

    samples = asyncio.run(watched())
    moments = [moment for moment, _ in samples]
    assert len(samples) > 3 and moments == sorted(moments) and samples[0][1] == server.metrics()


def test_the_tokens_of_a_cache_are_read_in_the_log():
    log = "INFO GPU KV cache size: 52,352 tokens\nINFO Maximum concurrency for 2,048 tokens"
    assert l08.kv_tokens(SimpleNamespace(log_tail=lambda lines=20: log)) == 52352


# ---------------------------------------------------------------------------------------------- what the text shows


def commands():
    for (key, lang), text in PROSE.items():
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            for line in block.splitlines():
                if line.startswith("vllm serve"):
                    yield pytest.param(line, id=f"{key}-{lang}: {line[11:60]}")


def test_the_commands_split_thoughts_take_tools_and_name_a_model_that_exists():
    for parameter in commands():
        words = shlex.split(parameter.values[0])
        assert words[2] in catalogue.CATALOGUE
        assert words[-5:] == [
            "--reasoning-parser",
            "qwen3",
            "--enable-auto-tool-choice",
            "--tool-call-parser",
            "hermes",
        ]
    assert all("export VLLM_USE_MODELSCOPE=1" in PROSE["commands-text", lang] for lang in ("zh", "en"))


def test_the_arithmetic_of_the_limit_is_that_of_the_helpers():
    """The cell's own arithmetic against helpers.catalogue.fits, which reckons the other way round."""
    names = {"l08": l08, "say": say}
    exec(CELLS["limit"], names)
    config = catalogue.CATALOGUE["Qwen/Qwen3-8B"].config
    assert names["fitting"] == 34
    for sequences, fits in ((34, True), (35, False)):
        found = catalogue.fits(config, 23.5 * GIB, context=1024, sequences=sequences)
        assert found.fits == fits
    assert 65 < names["bound"](1) < 67 and names["bound"](34) < 34 * names["bound"](1)


def test_sampling_is_sent_with_every_request():
    """Without it the server's defaults apply, which are those of thinking mode."""
    for name in ("07_openai_server", "08_serving_under_load"):
        for cell in read_lesson(ROOT / "notebooks" / "source" / f"{name}.py").code_cells:
            for node in ast.walk(parse(cell.text["en"])):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("completions.create"):
                    names = {keyword.arg or ast.unparse(keyword.value) for keyword in node.keywords}
                    sampled = {"temperature", "**thinking", "thinking", "direct", "SAMPLING[thinking]", "good | change"}
                    sampled |= {"settings"}  # the second argument of lesson 07's ask(), which has no default
                    assert names & sampled or any(name.startswith("fixed") for name in names), (cell.key, names)
