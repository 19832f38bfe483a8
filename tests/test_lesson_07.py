"""Lesson 07: copy-me cells stand alone and survive faults, curl lines work, a round of tools, the figures."""

import ast
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import httpx
import openai
import pytest
from conftest import ROOT
from faulty_server import ENGINE_DEAD, FaultyServer, body, broken_off, chat, cut, drop, page, status, stream

from helpers import figures, models
from helpers.lessons import l07
from helpers.lessons.l07.exercises import chunks as chunks_of
from helpers.ports import free_port
from helpers.server import Server
from tools.lessons.source import parse, read_lesson
from tools.workshop.door import Door

LESSON = read_lesson(ROOT / "notebooks" / "source" / "07_openai_server.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}
PROSE = {(cell.key, lang): cell.text[lang] for cell in LESSON.cells if cell.kind == "markdown" for lang in ("zh", "en")}
COPY_ME = [cell.key for cell in LESSON.cells if "copy-me" in cell.tags]
NOWHERE = "http://127.0.0.1:9/v1"


# ---------------------------------------------------------------------------------------------- with a real server


def settings(server):
    return {"BASE_URL": server.base_url, "API_KEY": server.api_key, "MODEL": server.model}


def run_alone(code, tmp_path, **variables):
    """The code as a script in a fresh process that knows nothing of the course but these variables."""
    (tmp_path / "copied.py").write_text(code, encoding="utf-8")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, "-I", "copied.py"]
    return subprocess.run(command, cwd=tmp_path, env=environment | variables, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("key", COPY_ME)
def test_copy_me_cell_says_when_nothing_is_behind_the_address(key, tmp_path):
    done = run_alone(CELLS[key], tmp_path, BASE_URL=NOWHERE)
    assert done.returncode == 1 and f"No server at {NOWHERE}" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("key", COPY_ME)
def test_a_password_in_the_address_is_not_shown(key, tmp_path):
    done = run_alone(CELLS[key], tmp_path, BASE_URL=NOWHERE.replace("//", "//user:hunter2@"))
    assert done.returncode == 1 and "No server at 127.0.0.1:9/v1" in done.stderr and "hunter2" not in done.stderr


def shell_lines():
    """Every curl command that the lesson shows: in prose as it stands, in code cells as IPython would run it."""
    for (key, lang), text in PROSE.items():
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            yield pytest.param(block, None, id=f"{key}-{lang}")
    for key, code in CELLS.items():
        for line in re.findall(r"^!(curl.*)$", code, re.MULTILINE):
            yield pytest.param(line, key, id=key)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "key"), list(shell_lines()))
def test_the_curl_lines_work_as_they_stand(command, key, guarded_server):
    if key:
        names = {
            "json": json,
            "server": guarded_server,
            "limit": None,
            "messages": [{"role": "user", "content": "1+1=?"}],
        }
        for cell, name in (("completions-curl", "sampling"), (key, "request"), (key, "body")):
            for node in parse(CELLS[cell]).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                    exec(ast.unparse(node), names)
        command = command.replace("{body}", names.get("body", ""))
    environment = {"PATH": os.environ["PATH"]} | settings(guarded_server)
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=True)
    if '"stream": true' in command:
        events = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line]
        assert events[-1] == "[DONE]" and not any("error" in json.loads(event) for event in events[:-1])
        assert any(choice["delta"].get("reasoning") for e in events[:-1] for choice in json.loads(e)["choices"])
    else:
        reply = json.loads(done.stdout)
        assert reply.get("data") or reply["choices"][0]["finish_reason"] in ("stop", "length")
        if "enable_thinking" in command:
            assert reply["choices"][0]["message"]["reasoning"] is None


def test_the_lesson_shows_curl_for_every_endpoint():
    shown = "\n".join(parameter.values[0] for parameter in shell_lines())
    assert all(f"$BASE_URL/{path} " in shown for path in ("models", "completions", "chat/completions"))


@pytest.mark.slow
def test_the_key_is_no_door(guarded_server, tmp_path):
    """The lesson says that one endpoint generates without a key, and what the course's nginx does about it."""
    body = {"model": guarded_server.model, "messages": [{"role": "user", "content": "37×46=?"}], "max_tokens": 64}
    root = guarded_server.base_url.removesuffix("/v1")
    assert httpx.post(f"{root}/v1/chat/completions", json=body, timeout=60).status_code == 401
    assert httpx.post(f"{root}/invocations", json=body, timeout=60).json()["usage"]["completion_tokens"] > 0
    door = Door({"table": "secret"}, root, port=free_port())
    with door.running(tmp_path, log="off"):
        for key, expected in (("secret", 404), ("wrong", 401)):
            url, headers = f"{door.base_url.removesuffix('/v1')}/invocations", {"Authorization": f"Bearer {key}"}
            answer = httpx.post(url, json=body, headers=headers, timeout=60)
            assert answer.status_code == expected


@pytest.mark.slow
def test_the_taught_trap_of_an_unknown_role(guarded_server):
    """The lesson says that the message is dropped, which only the number of prompt tokens tells."""
    client = openai.OpenAI(base_url=guarded_server.base_url, api_key=guarded_server.api_key)
    counts = {}
    for role in ("user", "boss"):
        messages = [{"role": role, "content": "37×46=?"}]
        reply = client.chat.completions.create(model=guarded_server.model, messages=messages, max_tokens=1)
        counts[role] = reply.usage.prompt_tokens
    assert counts["boss"] == 3 < counts["user"]


# ---------------------------------------------------------------------------------------------- the core


def test_the_round_of_tools_sends_the_thought_back_under_both_names():
    """Whichever name a server or its chat template reads; the cell is the lesson's own, the server notes what comes."""
    call = {"id": "x", "type": "function", "function": {"name": "calculator", "arguments": '{"expression": "6*7"}'}}
    asks = {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call]}
    with FaultyServer(chat("?"), body({"choices": [{"index": 0, "message": asks}]}), chat("42")) as server:
        names = {"client": openai.OpenAI(base_url=server.base_url, api_key="EMPTY"), "limit": None, "json": json}
        names |= {"server": SimpleNamespace(model="m", is_bundled=False), "say": lambda zh, en: en}
        names["thinking"] = {"temperature": 0.6}
        for node in parse(CELLS["chat"]).body:
            if isinstance(node, ast.FunctionDef):
                exec(ast.unparse(node), names)
        exec(CELLS["tools"], names)
        first, second, third = server.bodies
    assert "tools" not in first and second["tools"] == third["tools"]
    question, said, result = third["messages"]
    assert said["reasoning"] == said["reasoning_content"] == "hm"
    assert said["content"] == "" and said["tool_calls"] == [call]  # never None, and as the model wrote it
    assert result == {"role": "tool", "tool_call_id": "x", "content": "42"} and names["answer"] == "42"


@pytest.mark.parametrize("expression", ["__import__('os')*2", "6", "", "9**9", "1.5*2"])
def test_the_cores_calculator_takes_whole_numbers_only(expression):
    names = {}
    exec(ast.unparse(parse(CELLS["tools"]).body[0]), names)
    assert names["calculator"](" -6 * 7 ") == "-42"
    with pytest.raises(ValueError):
        names["calculator"](expression)


def test_the_stream_is_read_by_yours_once_it_is_right(capsys):
    def mine(chunks):
        return l07.read_stream(chunks)

    assert l07.yours_or_ours(mine) is mine
    for wrong in (lambda chunks: ..., lambda chunks: ("", ""), lambda chunks: chunks[0].choices[9]):
        assert l07.yours_or_ours(wrong) is l07.ex2.right
    assert capsys.readouterr().out.count("The reference answer:") == 3


def test_the_figure_of_a_stream_shows_thought_and_answer_apart():
    chunks = chunks_of({"role": "assistant"}, {"reasoning": "a"}, {"reasoning": "b"}, {"content": "c"}, usage=True)
    ax = l07.arrivals(chunks, [0.1, 0.2, 0.3, 0.4, 0.5], "m").axes[0]
    drawn = {line.get_label(): line.get_xydata().round(6).tolist() for line in ax.lines}
    assert drawn["reasoning"] == [[200, 1], [300, 2]] and drawn["content"] == [[400, 3]]
    assert any("200 ms" in label for label in figures.labels(ax.figure))
    assert l07.arrivals(chunks_of({"role": "assistant"}), [0.1], "m").axes  # a stream that says nothing


def test_the_figure_of_rivals_marks_the_chosen_token():
    rivals = [SimpleNamespace(token="a", logprob=-0.5), SimpleNamespace(token="b", logprob=-1.0)]
    ax = l07.rivals([SimpleNamespace(token="b", top_logprobs=rivals)], "m").axes[0]
    drawn = [(line.get_marker(), round(float(line.get_ydata()[0]), 3)) for line in ax.lines]
    assert drawn == [("_", 0.607), ("o", 0.368)]


# ---------------------------------------------------------------------------------------------- with faults


@pytest.fixture
def copied(monkeypatch, one_certificate):
    """``copied(key, server)``: the names that a copy-me cell defines when it is imported."""

    def define(key, server):
        monkeypatch.setenv("BASE_URL", server.base_url)
        names = {"__name__": "copied"}
        exec(compile(CELLS[key], key, "exec"), names)
        return SimpleNamespace(**names)

    return define


QUESTION = [{"role": "user", "content": "?"}]


def test_a_reply_that_is_no_json(copied):
    with FaultyServer(page) as server:
        server.base_url = server.base_url.replace("//", "//user:hunter2@")
        for key, call in (
            ("copy-complete", lambda names: names.complete("?")),
            ("copy-chat", lambda names: names.Chat().ask("?")),
        ):
            said = "^127.0.0.1:[0-9]+/v1 does not answer like an OpenAI server: '<html>Welcome"
            with pytest.raises(RuntimeError, match=said):
                call(copied(key, server))
        with pytest.raises(RuntimeError, match="broke off"):
            copied("copy-stream", server).stream_chat(QUESTION)
        with pytest.raises(RuntimeError, match="broke off"):
            copied("copy-tools", server).answer_with_tools("?")


CONVERSATIONS = [
    QUESTION,
    [{"role": "system", "content": "Be short."}, *QUESTION],
    [*QUESTION, {"role": "assistant", "content": "1702"}, {"role": "user", "content": "+10?"}],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("thinking", [True, False])
def test_the_prompt_is_that_of_the_models_own_template(messages, thinking, copied):
    """Written by hand, so that it asks no endpoint beside /v1."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models.find_checkpoint("qwen3-tiny"))
    wanted = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    with FaultyServer() as server:
        assert copied("copy-complete", server).render(messages, thinking) == wanted and not server.paths


def test_a_failed_turn_leaves_the_history_as_it_was(copied):
    with FaultyServer(chat("hello"), cut(), cut("half"), status(400), chat("bye")) as server:
        talk = copied("copy-chat", server).Chat(system="be short")
        assert talk.ask("hi", thinking=False) == (None, "hello")
        for _ in range(2):  # no answer, and half of one
            with pytest.raises(RuntimeError, match=r"no whole answer \(finish_reason length\)"):
                talk.ask("more")
        with pytest.raises(openai.BadRequestError):
            talk.ask("more")
        assert talk.ask("and?") == (None, "bye")
        assert [m["content"] for m in server.bodies[-1]["messages"]] == ["be short", "hi", "hello", "and?"]
        assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
        assert server.bodies[0]["temperature"] == 0.7 and server.bodies[1]["temperature"] == 0.6


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_a_streamed_thought_under_either_name(name, copied):
    deltas = ({"role": "assistant", "content": ""}, {name: "hm"}, {name: None, "content": "a"}, {"content": "b"})
    with FaultyServer(stream(*deltas, usage=True)) as server:
        seen = []
        result = copied("copy-stream", server).stream_chat(QUESTION, show=lambda *piece: seen.append(piece))
    assert result == ("hm", "ab") and seen == [("thought", "hm"), ("answer", "a"), ("answer", "b")]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (stream({"content": "half"}, finish=None, then=ENGINE_DEAD), "broke off"),  # [DONE] follows, as with vLLM
        (stream({"content": "half"}, finish=None, done=False), "broke off"),
        (stream({"content": "half"}, finish=None, die=True), "broke off"),
        (stream({"reasoning": "half"}, finish=None, die=True), "broke off"),
        (stream({"content": "half"}, finish="abort"), "broke off"),
        (stream({"content": "half"}, finish="length"), r"length\): the context \(--max-model-len\) is full"),
        (status(500), openai.InternalServerError),
        (drop, openai.APIConnectionError),
    ],
)
def test_a_broken_stream_is_never_taken_for_an_answer(fault, error, copied):
    expected = (
        {"expected_exception": RuntimeError, "match": error}
        if isinstance(error, str)
        else {"expected_exception": error}
    )
    with FaultyServer(fault) as server:
        with pytest.raises(**expected):
            copied("copy-stream", server).stream_chat(QUESTION, show=lambda *piece: None)
        with pytest.raises(**expected):
            copied("copy-tools", server).answer_with_tools("?")


def part(index, arguments=None, name=None, id=None):
    return {"tool_calls": [{"index": index, "id": id, "function": {"name": name, "arguments": arguments}}]}


def calls(*fragments):
    return stream({"reasoning": "hm"}, *fragments, finish="tool_calls")


def test_fragments_of_two_calls_are_joined_by_index(copied):
    fragments = [
        part(0, None, "calculator", "x"),
        part(1, None, "calculator", "y"),
        part(0, '{"expression": '),
        part(1, '{"expression": "2'),
        part(0, '"1+1"}'),
        part(1, '*3"}'),
    ]
    with FaultyServer(calls(*fragments), stream({"content": "2 and 6"})) as server:
        assert copied("copy-tools", server).answer_with_tools("?") == "2 and 6"
        first, second = server.bodies
    assert len(first["messages"]) == 1
    said, *results = second["messages"][1:]
    assert said["content"] == "" and said["reasoning_content"] == "hm"  # never None, and the thought goes back
    assert [call["id"] for call in said["tool_calls"]] == ["x", "y"]
    assert [(m["tool_call_id"], m["content"]) for m in results] == [("x", "2"), ("y", "6")]


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("calculator", '{"expression": "1+', "bad arguments"),
        ("calculator", '"1+1"', "not a JSON object"),
        ("calculator", '{"formula": "1+1"}', "TypeError"),
        ("calculator", '{"expression": "__import__(1)"}', "AttributeError"),
        ("rm_rf", "{}", "no tool 'rm_rf'"),
        ("calculator", "null", "not a JSON object"),
    ],
)
def test_a_bad_call_goes_back_to_the_model_as_an_error(name, arguments, result, copied):
    with FaultyServer(calls(part(0, arguments, name, "x")), stream({"content": "sorry"})) as server:
        assert copied("copy-tools", server).answer_with_tools("?") == "sorry"
        said, answer = server.bodies[1]["messages"][1:]
    assert answer["role"] == "tool" and answer["content"].startswith("error: ") and result in answer["content"]
    assert isinstance(json.loads(said["tool_calls"][0]["function"]["arguments"]), dict)  # a template can read it


def test_what_a_tool_raises_is_for_you_and_not_for_the_model(copied, capsys):
    def leaky(**arguments):
        raise OSError("cannot open /srv/secrets/db?password=hunter2")

    call = part(0, "{}", "leaky", "x")
    with FaultyServer(calls(call), stream({"content": "sorry"})) as server:
        names = copied("copy-tools", server)
        names.TOOLS["leaky"] = (leaky, names.TOOLS["calculator"][1])
        assert names.answer_with_tools("?") == "sorry"
        told = server.bodies[1]["messages"][-1]["content"]
    assert told == "error: leaky failed (OSError)" and "hunter2" in capsys.readouterr().err


def test_a_call_that_was_cut_is_not_executed(copied):
    cut_call = stream(part(0, '{"expression": "1+1"}', "calculator", "x"), finish="length")
    for fault in (cut_call, stream(part(0, "{}", "calculator", "x"), finish=None, die=True)):
        with FaultyServer(fault) as server:
            with pytest.raises(RuntimeError, match="length|broke off"):
                copied("copy-tools", server).answer_with_tools("?")
            assert len(server.bodies) == 1


# ------------------------------------------------------------------------------ replies that hold no answer

TOOK = "the server's reasoning parser took the answer"
FLAG = "--enable-auto-tool-choice --tool-call-parser hermes"
NO_ANSWER = [  # content, reasoning, finish_reason, what is said
    (None, "1702", "stop", TOOK),
    ("", "1702", "stop", TOOK),
    (" \n", "1702", "stop", TOOK),
    (None, None, "stop", "it is empty"),
    ("", None, "stop", "it is empty"),
    ('<tool_call>\n{"name": "calculator", "arguments": {}}\n</tool_call>', None, "stop", FLAG),
    ('Let me see. <tool_call>{"name"', "hm", "stop", FLAG),
    ("<think>\nhm</think>\n\n<tool_call>\n<function=f>\n</tool_call>", None, "stop", FLAG),
    ("<think>\nhm", None, "stop", "the thought has no end"),
    ("hm</think>\n\n", None, "stop", TOOK),
    ("half", None, "abort", "broke off"),
    ("half", None, "error", "broke off"),
    ("half", None, None, "broke off"),
    ("half", None, "content_filter", "broke off"),
    (None, None, "tool_calls", "broke off"),
]


def ways(copied, server):
    """How each cell asks a question, streamed or not."""
    yield lambda: copied("copy-chat", server).Chat().ask("?")
    yield lambda: copied("copy-stream", server).stream_chat(QUESTION, show=lambda *piece: None)
    yield lambda: copied("copy-tools", server).answer_with_tools("?")


def both(content, reasoning, finish):
    """One reply as a whole document or as a stream, whichever is asked for."""
    pieces = stream({"role": "assistant", "content": ""}, {"reasoning": reasoning}, {"content": content}, finish=finish)

    def reply(handler):
        if handler.body.get("stream"):
            pieces(handler)
        else:
            message = {"role": "assistant", "content": content, "reasoning": reasoning}
            body({"choices": [{"index": 0, "message": message, "finish_reason": finish}]})(handler)

    return reply


@pytest.mark.parametrize(("content", "reasoning", "finish", "said"), NO_ANSWER)
def test_a_reply_without_an_answer_is_an_error_that_says_why(content, reasoning, finish, said, copied):
    with FaultyServer(both(content, reasoning, finish)) as server:
        for ask in ways(copied, server):
            with pytest.raises(RuntimeError, match="no whole answer") as error:
                ask()
            assert said in str(error.value) and type(error.value).__name__ == "NoAnswer"


@pytest.mark.parametrize("finish", [None, "abort", "stop"])
def test_a_completion_without_an_end_is_not_taken_for_a_whole_one(finish, copied):
    choice = {"index": 0, "text": "half", "finish_reason": finish}
    with FaultyServer(body({"choices": [choice]})) as server:
        assert copied("copy-complete", server).complete("?") == ("half", finish == "stop")
    for reply in ({"choices": None}, {"choices": []}, {"choices": [choice | {"text": None}]}, {"error": "no"}):
        with FaultyServer(body(reply)) as server, pytest.raises(RuntimeError, match="no text|does not answer like"):
            copied("copy-complete", server).complete("?")


@pytest.mark.parametrize(
    "document",
    [{"choices": None}, {"choices": []}, {"choices": [None]}, {}, {"error": {"message": "no"}}, [], "text", None],
)
def test_a_document_without_a_choice_is_no_answer(document, copied):
    said = "does not answer like an OpenAI server"
    with FaultyServer(body(document)) as server, pytest.raises(RuntimeError, match=said):
        copied("copy-chat", server).Chat().ask("?")


@pytest.mark.parametrize("content", ["hm</think>\n\n1702", "<think>\nhm\n</think>\n\n1702", "<think>hm</think>1702"])
def test_without_a_parser_the_thought_is_split_off_and_not_kept(content, copied):
    with FaultyServer(both(content, None, "stop")) as server:
        talk = copied("copy-chat", server).Chat()
        assert talk.ask("?") == ("hm", "1702") and talk.messages[1:] == [{"role": "assistant", "content": "1702"}]
        assert copied("copy-stream", server).stream_chat(QUESTION, show=lambda *piece: None) == ("hm", "1702")
        assert copied("copy-tools", server).answer_with_tools("?") == "1702"
    with FaultyServer(both("write </think> there", "hm", "stop")) as server:  # a parser has split it already
        assert copied("copy-chat", server).Chat().ask("?") == ("hm", "write </think> there")


def test_chunks_that_hold_nothing_are_passed_over(copied):
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    empty = [{"choices": None}, {"choices": None, "usage": usage}, {}, {"choices": []}]
    empty += [{"choices": [{"index": 0, "delta": None, "finish_reason": None}]}, {"choices": [{"index": 0}]}]
    deltas = ({"content": None, "tool_calls": None}, {"reasoning": "hm", "content": None}, {"content": "1702"})
    with FaultyServer(stream(*deltas, first=empty, usage=True)) as server:
        assert copied("copy-stream", server).stream_chat(QUESTION, show=lambda *piece: None) == ("hm", "1702")
        assert copied("copy-tools", server).answer_with_tools("?") == "1702"


def test_a_full_context_is_named_and_can_be_trimmed(copied):
    with FaultyServer(chat("a"), chat("b"), chat("c"), cut("half"), chat("d")) as server:
        talk = copied("copy-chat", server).Chat(system="be short")
        for question in "123":
            talk.ask(question)
        with pytest.raises(RuntimeError, match=r"the context \(--max-model-len\) is full: trim"):
            talk.ask("4")
        talk.trim(1)
        assert [m["content"] for m in talk.messages] == ["be short", "3", "c"]
        assert talk.ask("4") == (None, "d")
        talk.trim(9)
        assert len(talk.messages) == 5
        talk.trim(0)
        assert [m["content"] for m in talk.messages] == ["be short"]
    with FaultyServer(cut("half")) as server, pytest.raises(RuntimeError, match="raise max_tokens"):
        copied("copy-chat", server).Chat().ask("?", max_tokens=4)


CLIENTS = [key for key in COPY_ME if key != "copy-complete"]
BROKEN = [
    *((both(*case[:3]), case[3]) for case in NO_ANSWER[:1]),
    (status(404, "The model `x` does not exist."), "does not exist"),
    (status(400, "maximum context length is 512 tokens"), "context length"),
    (status(503), "503"),
]


@pytest.mark.slow
@pytest.mark.parametrize("key", CLIENTS)
@pytest.mark.parametrize(("fault", "said"), BROKEN)
def test_as_a_script_a_reply_without_an_answer_is_a_failure(key, fault, said, tmp_path):
    with FaultyServer(fault) as server:
        done = run_alone(CELLS[key], tmp_path, BASE_URL=server.base_url)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "No server" not in done.stderr.splitlines()[-1]
    assert "No answer from Qwen3-8B" in done.stderr and said in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("key", ["copy-stream", "copy-tools"])
def test_as_a_script_a_server_that_dies_in_mid_answer_is_a_failure(key, tmp_path):
    with FaultyServer(stream({"content": "half"}, finish=None, die=True)) as server:
        done = run_alone(CELLS[key], tmp_path, BASE_URL=server.base_url)
    assert done.returncode == 1 and "the stream broke off" in done.stderr and "No server" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("key", COPY_ME)
def test_as_a_script_a_connection_that_breaks_off_is_not_a_server_that_is_not_there(key, tmp_path):
    with FaultyServer(drop) as server:
        done = run_alone(CELLS[key], tmp_path, BASE_URL=server.base_url)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search("No answer from .* broke off", done.stderr) and "No server" not in done.stderr, done.stderr


@pytest.mark.parametrize("fault", [drop, broken_off(die=False), broken_off(die=True)])
def test_a_reply_that_breaks_off_is_told_from_a_server_that_is_not_there(fault, copied):
    with FaultyServer(fault) as server:
        for key, call in (
            ("copy-complete", lambda names: names.complete("?")),
            ("copy-chat", lambda names: names.Chat().ask("?")),
        ):
            names = copied(key, server)
            with pytest.raises(openai.APIConnectionError) as broken:
                call(names)
            assert "the connection broke off" in names.no_connection(broken.value)
    for address in (NOWHERE, NOWHERE.removeprefix("http://")):
        names = copied("copy-chat", SimpleNamespace(base_url=address))
        with pytest.raises(openai.APIConnectionError) as nobody:
            names.Chat().ask("?")
        assert names.no_connection(nobody.value).startswith(f"No server at {address} (")


@pytest.mark.large  # two servers of its own
def test_a_template_that_never_thinks_loses_every_answer_and_the_flag_does_not(tmp_path, copied):
    """With a real server: what the lesson's table says, and which remedy it gives."""
    template = tmp_path / "never.jinja"
    switch = "enable_thinking is defined and enable_thinking is false"
    text = (models.find_checkpoint("qwen3-tiny") / "chat_template.jinja").read_text(encoding="utf-8")
    assert switch in text
    template.write_text(text.replace(switch, "true"), encoding="utf-8")
    with Server("qwen3-tiny", chat_template=str(template)) as server:
        names = copied("copy-chat", server)
        names.Chat.ask.__globals__["MODEL"] = server.model
        with pytest.raises(RuntimeError, match=TOOK):
            names.Chat().ask("37×46=?")
    with Server("qwen3-tiny", default_chat_template_kwargs={"enable_thinking": False}) as server:
        client = openai.OpenAI(base_url=server.base_url, api_key=server.api_key)
        reply = client.chat.completions.create(model=server.model, messages=QUESTION, max_tokens=64)
        assert reply.choices[0].message.content and not reply.choices[0].message.reasoning


def test_the_table_of_errors_gives_the_flag_and_not_a_template():
    for lang in ("zh", "en"):
        [row] = [line for line in PROSE["recap", lang].splitlines() if "`reasoning`" in line and "null" in line]
        assert "--default-chat-template-kwargs '{\"enable_thinking\": false}'" in row and "Instruct-2507" in row


def test_a_model_that_calls_tools_for_ever_is_stopped(copied):
    with FaultyServer(calls(part(0, '{"expression": "1+1"}', "calculator", "x"))) as server:
        with pytest.raises(RuntimeError, match="no answer after 5 rounds"):
            copied("copy-tools", server).answer_with_tools("?")
        assert len(server.bodies) == 5
