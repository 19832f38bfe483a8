"""Lesson 07: copy-me cells stand alone and survive faults, curl lines work."""

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
from faulty_server import ENGINE_DEAD, FaultyServer, chat, cut, drop, page, status, stream

from helpers.ports import free_port
from tools.lessons.source import read_lesson
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
    assert done.returncode == 0 and f"No server at {NOWHERE}" in done.stdout and "Traceback" not in done.stderr


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
        exec(next(line for line in CELLS["completions-curl"].splitlines() if line.startswith("sampling")), names)
        exec("\n".join(line for line in CELLS[key].splitlines() if line.startswith("body")), names)
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


# ---------------------------------------------------------------------------------------------- with faults


@pytest.fixture
def copied(monkeypatch):
    """``copied(key, server)``: the names that a copy-me cell defines, its demonstration at the end left out."""

    def define(key, server):
        monkeypatch.setenv("BASE_URL", server.base_url)
        tree = ast.parse(CELLS[key])
        tree.body = [node for node in tree.body if not isinstance(node, ast.Try)]
        names = {}
        exec(compile(tree, key, "exec"), names)
        names["client"] = names["client"].with_options(max_retries=0)
        return SimpleNamespace(**names)

    return define


QUESTION = [{"role": "user", "content": "?"}]


def test_a_reply_that_is_no_json(copied):
    with FaultyServer(page) as server:
        for key, call in (
            ("copy-complete", lambda names: names.complete("?")),
            ("copy-chat", lambda names: names.Chat().ask("?")),
        ):
            with pytest.raises(RuntimeError, match="does not answer like an OpenAI server: '<html>Welcome"):
                call(copied(key, server))
        with pytest.raises(RuntimeError, match="/tokenize does not answer like vLLM: 200 '<html>Welcome"):
            copied("copy-complete", server).render(QUESTION)
        with pytest.raises(RuntimeError, match="ended early"):
            copied("copy-stream", server).stream_chat(QUESTION)
        with pytest.raises(RuntimeError, match="ended early"):
            copied("copy-tools", server).answer_with_tools("?")


@pytest.mark.parametrize("ending", ["/v1", "/v1/"])
def test_the_template_is_rendered_beside_v1(ending, copied, monkeypatch):
    def told(document):
        return lambda handler: handler.reply(200, json.dumps(document | {"path": handler.path}))

    with FaultyServer(told({"tokens": [1, 2]}), told({"prompt": "rendered"}), status(404)) as server:
        names = copied("copy-complete", server)
        names.render.__globals__["BASE_URL"] = server.base_url.removesuffix("/v1") + ending
        assert names.render(QUESTION, enable_thinking=False) == "rendered"
        assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
        assert server.bodies[1]["tokens"] == [1, 2] and server.paths == ["/tokenize", "/detokenize"]
        with pytest.raises(RuntimeError, match="/tokenize does not answer like vLLM: 404"):
            names.render(QUESTION)


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
        (stream({"content": "half"}, finish=None, then=ENGINE_DEAD), openai.APIError),  # [DONE] follows, as with vLLM
        (stream({"content": "half"}, finish=None, done=False), RuntimeError),
        (stream({"content": "half"}, finish="length"), RuntimeError),
        (status(500), openai.InternalServerError),
        (drop, openai.APIConnectionError),
    ],
)
def test_a_broken_stream_is_never_taken_for_an_answer(fault, error, copied):
    with FaultyServer(fault) as server:
        with pytest.raises(error):
            copied("copy-stream", server).stream_chat(QUESTION, show=lambda *piece: None)
        with pytest.raises(error):
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
    ],
)
def test_a_bad_call_goes_back_to_the_model_as_an_error(name, arguments, result, copied):
    with FaultyServer(calls(part(0, arguments, name, "x")), stream({"content": "sorry"})) as server:
        assert copied("copy-tools", server).answer_with_tools("?") == "sorry"
        said, answer = server.bodies[1]["messages"][1:]
    assert answer["role"] == "tool" and answer["content"].startswith("error: ") and result in answer["content"]
    assert isinstance(json.loads(said["tool_calls"][0]["function"]["arguments"]), dict)  # a template can read it


def test_a_model_that_calls_tools_for_ever_is_stopped(copied):
    with FaultyServer(calls(part(0, '{"expression": "1+1"}', "calculator", "x"))) as server:
        with pytest.raises(RuntimeError, match="no answer after 5 rounds"):
            copied("copy-tools", server).answer_with_tools("?")
        assert len(server.bodies) == 5
