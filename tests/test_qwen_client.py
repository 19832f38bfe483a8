"""docs/qwen_client.py: a whole answer or one sentence, whatever the server does; no more load than it must be."""

import ast
import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import qwen_client
from conftest import ROOT
from faulty_server import ENGINE_DEAD, FaultyServer, body, broken_off, chat, cut, drop, page, status, stream
from qwen_client import Chat, Client, NoAnswer, Reply, Sync

FILES = ("qwen_client.py", "qwen_batch.py", "qwen_quality.py", "web_handler.py")
NOWHERE = "http://127.0.0.1:9/v1"


OPEN = []


def sync(target) -> Sync:
    """A Sync that ends with its test, and not with the process."""
    OPEN.append(made := Sync(target))
    return made


@pytest.fixture(autouse=True)
def closed(one_certificate):
    yield
    while OPEN:
        OPEN.pop().runner.close()


@contextlib.contextmanager
def asking(*replies, **limits):
    """(server, client) with a client that does not wait."""
    with FaultyServer(*replies) as server:
        yield server, sync(Client(server.base_url, "m", **{"longest_pause": 0.01} | limits))


def fault(*replies, streamed=False, question="?", attempts=1, **options) -> NoAnswer:
    with asking(*replies, attempts=attempts) as (_, client), pytest.raises(NoAnswer) as refusal:
        list(client.stream(question, **options)) if streamed else client.ask(question, **options)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) <= 500
    return refusal.value


# ------------------------------------------------------------------------------------------------------ good replies


def test_a_reply_is_thought_answer_and_reason():
    with asking(chat("\n\n1702", reasoning="\n37×46\n")) as (server, client):
        assert client.ask("37×46=?") == Reply("37×46", "1702", "stop")
        [sent] = server.bodies
        assert sent["messages"] == [{"role": "user", "content": "37×46=?"}] and sent["model"] == "m"
        assert sent["chat_template_kwargs"] == {"enable_thinking": True} and sent["temperature"] == 0.6
        client.ask("?", thinking=False, temperature=0, max_tokens=7, extra_body={"min_p": 0.1})
        assert server.bodies[-1]["chat_template_kwargs"] == {"enable_thinking": False}
        assert [server.bodies[-1][name] for name in ("temperature", "max_tokens", "min_p")] == [0, 7, 0.1]
        client.ask("?", thinking=None)  # the server's own defaults
        assert not {"chat_template_kwargs", "temperature"} & server.bodies[-1].keys()


def test_a_stream_comes_piece_by_piece_and_ends_with_the_reply():
    pieces = [{"role": "assistant", "content": ""}, {"reasoning": "\n3"}, {"reasoning": "7"}, {"content": "\n\n17"}]
    with asking(stream(*pieces, {"content": "02"}, usage=True)) as (_, client):
        got = list(client.stream("?"))
    assert got == [
        *[("thinking", t) for t in ("3", "7")],
        *[("answer", t) for t in ("17", "02")],
        ("reply", got[-1][1]),
    ]
    assert got[-1][1] == Reply("37", "1702", "stop")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("message", "reply"),
    [
        ({"content": "1702", "reasoning_content": "old name"}, ("old name", "1702")),
        ({"content": "hm</think>\n\n1702"}, ("hm", "1702")),  # no parser
        ({"content": "<think>\nhm\n</think>\n\n1702"}, ("hm", "1702")),
        ({"content": "a tag like </think> ends it"}, ("", "a tag like </think> ends it")),
        ({"content": "1702", "reasoning": ["no", "text"], "tool_calls": None}, ("", "1702")),
    ],
)
def test_thoughts_are_found_where_servers_put_them(message, reply, streamed):
    server_says = stream(message) if streamed else chat(**message)
    with asking(server_says) as (_, client):
        got = list(client.stream("?"))[-1][1] if streamed else client.ask("?")
    assert got[:2] == reply


ODD = [
    {"choices": None},
    {"choices": 3},
    {"choices": [{"index": 0, "delta": None}]},
    {"choices": [{"index": 0, "delta": {"content": None, "tool_calls": None}}]},
    {"choices": [{"index": 0, "delta": {"content": ["a", "list"], "tool_calls": {"no": "list"}}}]},
    {},
]


@pytest.mark.parametrize("odd", ODD, ids=map(str, ODD))
def test_a_chunk_without_meaning_is_passed_over(odd):
    with asking(stream({"content": "1702"}, first=[odd])) as (_, client):
        assert list(client.stream("?"))[-1][1].answer == "1702"


def test_nothing_counts_behind_the_end():
    late = {"choices": [{"index": 0, "delta": {"content": " and more"}, "finish_reason": None}]}
    for behind in (late, ENGINE_DEAD):
        with asking(stream({"content": "1702"}, then=behind)) as (_, client):
            assert list(client.stream("?"))[-1][1] == Reply("", "1702", "stop")


# ---------------------------------------------------------------------------------------------------- broken replies

# What comes in a whole message or in a delta, how it ends, the reason that the client gives, and words of its sentence.
REPLIES = [
    ({"content": None, "reasoning": "1702"}, "stop", "parser", "--reasoning-parser"),
    ({"content": "", "reasoning": " \n"}, "stop", "empty", "empty"),
    ({"content": None}, "stop", "empty", "empty"),
    ({"content": " \n"}, "stop", "empty", "empty"),
    ({"content": None, "reasoning": "37×"}, "length", "context", "--max-model-len"),
    ({"content": "17"}, "length", "context", "--max-model-len"),
    ({"content": "<think>\n37×"}, "stop", "cut", "thought has no end"),
    ({"content": '<tool_call>\n{"name": "f"}\n</tool_call>'}, "stop", "tool", "--tool-call-parser"),
    ({"content": "17"}, "abort", "broken", "abort"),
    ({"content": "17"}, "error", "broken", "error"),
    ({"content": "17"}, "repetition", "broken", "repetition"),
    ({"content": None, "refusal": "I will not"}, "stop", "refused", "I will not"),
    ({"content": "I"}, "content_filter", "refused", "content_filter"),
    ({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"x'}}]}, "length", "context", "context"),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("message", "finish", "reason", "words"), REPLIES, ids=[f"{r[2]}-{r[1]}" for r in REPLIES])
def test_a_reply_without_a_whole_answer_says_why(message, finish, reason, words, streamed):
    server_says = stream(message, finish=finish) if streamed else chat(**{"content": None} | message, finish=finish)
    refusal = fault(server_says, streamed=streamed)
    assert refusal.reason == reason and words in str(refusal)


@pytest.mark.parametrize(("content", "where"), [(None, "thought"), ("17", "answer")])
def test_what_max_tokens_cut_names_it(content, where):
    refusal = fault(cut(content), max_tokens=5)
    assert refusal.reason == "cut" and where in str(refusal) and "max_tokens" in str(refusal)


def raw(text, code=200, kind="application/json", **headers):
    def send(handler):
        handler.send_response(code)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(text.encode())))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(text.encode())

    return send


NO_SERVER = [page, raw(""), raw('{"choices": ['), raw("null"), raw("[1]"), raw('"text"'), body({"choices": None})]
NO_SERVER += [body({}), body({"choices": []}), body({"choices": {"a": 1}}), body({"error": {"message": "inside"}})]
NO_SERVER += [raw("", 307, Location=NOWHERE), raw("", 302, Location=NOWHERE)]


@pytest.mark.parametrize("reply", NO_SERVER, ids=range(len(NO_SERVER)))
def test_what_is_no_openai_server_is_called_so(reply):
    refusal = fault(reply, attempts=4)
    assert refusal.reason == "foreign" and "set BASE_URL" in str(refusal)


def test_no_redirect_takes_the_question_elsewhere():
    with FaultyServer() as other:
        assert fault(raw("", 307, Location=f"{other.base_url}/chat/completions")).status == 307
        assert other.bodies == []


def events(*texts):
    """A stream of these raw lines, after which the connection is closed."""

    def send(handler):
        handler.start_events()
        for text in texts:
            handler.event(text)

    return send


CHUNK = json.dumps({"choices": [{"index": 0, "delta": {"content": "17"}, "finish_reason": None}]})
BROKEN = {
    "closed": stream({"content": "17"}, finish=None, done=False),
    "ended without a reason": stream({"content": "17"}, finish=None),
    "reset": stream({"content": "17"}, finish=None, die=True),
    "engine dead": stream({"content": "17"}, finish=None, then=ENGINE_DEAD),
    "no chunk at all": stream(finish=None),
    "no JSON": events(CHUNK, "17"),
    "half a chunk": events(CHUNK, CHUNK[:40]),
    "a page": page,
    "null": stream({"content": None}, finish=None),
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_a_stream_that_breaks_off_is_no_answer(reply):
    refusal = fault(reply, chat("never asked again"), streamed=True, attempts=4)
    assert refusal.reason == "broken" and "broke off" in str(refusal)


@pytest.mark.parametrize("die", [False, True])
def test_a_reply_that_breaks_off_is_asked_for_again(die):
    with asking(broken_off(die), broken_off(die), chat("1702")) as (server, client):
        assert client.ask("?").answer == "1702" and len(server.bodies) == 3
    assert fault(broken_off(die), attempts=2).reason == "broken"


@pytest.mark.parametrize("address", [NOWHERE, "http://alice:secret@127.0.0.1:9/v1", "http://no.such.host.invalid/v1"])
def test_without_a_server_it_says_so_without_a_password(address):
    with pytest.raises(NoAnswer) as refusal:
        sync(Client(address, "m", attempts=1)).ask("?")
    assert refusal.value.reason == "away" and "No server at" in str(refusal.value)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (400, "This model's maximum context length is 512 tokens. However, you ask for 513.", "context"),
        (400, "top_p is too large", "request"),
        (401, "Unauthorized", "request"),
        (404, "The model `m` does not exist. Valid aliases: tiny.", "request"),
        (429, "slow down", "busy"),
        (500, "EngineCore", "busy"),
        (503, "too many", "busy"),
        (504, "proxy", "timeout"),
    ],
)
def test_a_refusal_passes_the_servers_words_on(code, message, reason):
    refusal = fault(status(code, message))
    assert (refusal.reason, refusal.status) == (reason, code)
    assert reason == "timeout" or message in str(refusal)


def test_a_key_that_no_header_can_hold_is_a_sentence():
    with pytest.raises(NoAnswer, match="ascii"):
        sync(Client(NOWHERE, "m", "密钥", attempts=1)).ask("?")


# ------------------------------------------------------------------------------------------------ load, and patience


@pytest.mark.parametrize("reply", [status(429), status(500), status(502), status(503), drop], ids=range(5))
def test_what_may_pass_is_tried_again_and_not_for_ever(reply):
    with asking(reply, reply, chat("there")) as (server, client):
        assert client.ask("?").answer == "there" and len(server.bodies) == 3
    with asking(reply) as (server, client):
        with pytest.raises(NoAnswer):
            client.ask("?")
        assert len(server.bodies) == 4


@pytest.mark.parametrize("reply", [status(400), status(401), status(404), status(422), page, chat(None), cut()])
def test_what_stays_wrong_is_asked_once(reply):
    with asking(reply) as (server, client):
        with pytest.raises(NoAnswer):
            client.ask("?")
        assert len(server.bodies) == 1


def test_the_server_says_how_long_to_wait():
    times = []

    def noted(reply):
        return lambda handler: (times.append(time.monotonic()), reply(handler))

    busy = noted(raw("{}", 429, Retry_After="1"))
    with asking(busy, noted(chat("there")), longest_pause=1) as (_, client):
        assert client.ask("?").answer == "there"
    assert times[1] - times[0] >= 1


@pytest.mark.parametrize("said", ["3600", "9" * 500])
def test_a_wait_that_is_too_long_is_the_callers_to_decide(said):
    with asking(raw("{}", 503, Retry_After=said), longest_pause=60) as (server, client):
        with pytest.raises(NoAnswer) as refusal:
            client.ask("?")
        assert refusal.value.reason == "busy" and len(server.bodies) == 1


@pytest.mark.parametrize("said", ["", "soon", "-1", "²", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_wait_that_is_no_number_is_none(said):
    reply = raw("{}", 503, Retry_After=said.encode().decode("latin-1"))
    with asking(reply, chat("there")) as (_, client):
        assert client.ask("?").answer == "there"


@pytest.fixture
def silent():
    """A reply that never comes, until the test ends."""
    released = threading.Event()
    yield lambda handler: released.wait(60)
    released.set()


def test_a_timeout_is_tried_again_once(silent):
    with asking(silent, chat("there"), timeout=0.2) as (server, client):
        assert client.ask("?").answer == "there"
    with asking(silent, timeout=0.2) as (server, client):
        client.target.asked = 1000  # so that one in ten leaves room for more
        with pytest.raises(NoAnswer) as refusal:
            client.ask("?")
        assert refusal.value.reason == "timeout" and len(server.bodies) == 2


@pytest.mark.slow
def test_many_timeouts_hardly_add_to_the_load(silent):
    """What is slow gets no faster by being asked twice as often: of 200 questions at most 1.2 requests each."""

    async def ask_all(server):
        async with Client(server.base_url, "m", timeout=2, longest_pause=0.01) as client:
            results = await asyncio.gather(*(client.ask("?") for _ in range(200)), return_exceptions=True)
            return results, client.repeated

    with FaultyServer(silent) as server:
        results, repeated = asyncio.run(ask_all(server))
        assert {result.reason for result in results} == {"timeout"}
        assert 0 < repeated <= 40 and len(server.bodies) <= 240  # on a busy machine some come too late to be counted


def test_a_connection_that_nobody_accepts_is_tried_again_as_often_as_a_refused_one():
    """It has cost the server nothing, so it is no timeout of those of which one in ten is repeated."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # what the kernel takes in advance, and more
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        client = sync(Client(f"http://127.0.0.1:{full.getsockname()[1]}/v1", "m", timeout=0.2, attempts=3))
        with pytest.raises(NoAnswer, match="ConnectTimeout") as refusal:
            client.ask("?")
        assert refusal.value.reason == "away" and client.repeated == 0


def test_a_stream_that_stalls_ends(silent):
    def stalls(handler):
        handler.start_events()
        handler.event(CHUNK)
        silent(handler)

    with asking(stalls, timeout=0.2) as (server, client):
        with pytest.raises(NoAnswer) as refusal:
            list(client.stream("?"))
        assert refusal.value.reason == "broken" and len(server.bodies) == 1


def test_a_slow_first_byte_within_the_timeout_is_no_fault():
    def slow(handler):
        time.sleep(0.3)
        chat("there")(handler)

    with asking(slow, timeout=5) as (server, client):
        assert client.ask("?").answer == "there" and len(server.bodies) == 1


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch):
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with asking(chat("there")) as (_, client):
        assert client.ask("?").answer == "there"


# ------------------------------------------------------------------------------------------------------------- tools


def double(number):
    return {"twice": 2 * number}


async def fail():
    raise ValueError("the password is 1234")


SCHEMA = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
TOOLS = {"double": (double, "Doubles a number.", SCHEMA), "fail": (fail, "Fails.", {"type": "object"})}


def call(name, arguments, id="c1"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def results(server):
    return [message["content"] for message in server.bodies[-1]["messages"] if message["role"] == "tool"]


@pytest.mark.parametrize("finish", ["tool_calls", "stop"])  # the second where a call is forced
def test_a_tool_is_run_and_its_result_sent_back(finish):
    calls = [call("double", '{"number": 21}'), call("double", '{"number": 4}', "c2")]
    with asking(chat(None, finish, reasoning="hm", tool_calls=calls), chat("42 and 8")) as (server, client):
        pieces = list(client.stream("?", tools=TOOLS, stream=False))
    assert pieces == [
        ("thinking", "hm"),
        ("tool", 'double: {"twice": 42}'),
        ("tool", 'double: {"twice": 8}'),
        ("answer", "42 and 8"),
        ("reply", Reply("", "42 and 8", "stop")),
    ]
    first, second = server.bodies
    about = {"name": "double", "description": "Doubles a number.", "parameters": SCHEMA}
    assert first["tools"][0] == {"type": "function", "function": about} and len(second["tools"]) == 2
    _, said, *answers = second["messages"]
    assert said == {
        "role": "assistant",
        "content": "",
        "tool_calls": calls,
        "reasoning": "hm",
        "reasoning_content": "hm",
    }
    assert [(a["tool_call_id"], a["content"]) for a in answers] == [("c1", '{"twice": 42}'), ("c2", '{"twice": 8}')]


def test_fragments_of_streamed_calls_are_joined_by_their_index():
    def part(index, name=None, arguments=None, id=None):
        return {"index": index, "id": id, "function": {"name": name, "arguments": arguments}}

    deltas = [
        {"content": None, "tool_calls": [part(0, "double", id="a")]},
        {"tool_calls": [part(0, arguments='{"num'), part(0, arguments='ber": 2')]},  # two of one index at once
        {"tool_calls": [part(0, arguments="1}"), part(1, "double", '{"number": 4}', "b")]},
        {"tool_calls": [{"index": 1}, None]},
    ]
    with asking(stream(*deltas, finish="tool_calls"), stream({"content": "42"})) as (server, client):
        pieces = list(client.stream("?", tools=TOOLS))
    tools = [text for kind, text in pieces if kind == "tool"]
    assert tools[:2] == ['double: {"twice": 42}', 'double: {"twice": 8}']


def test_what_goes_wrong_in_a_tool_goes_back_without_its_words(caplog):
    wrong = ["[1]", "3", '{"number"', "[" * 100000, '"text"']
    calls = [call("double", arguments) for arguments in wrong]
    calls += [call("fail", "{}"), call("rm", "{}"), call("double", '{"other": 1}'), call("fail", "")]
    with asking(chat(None, tool_calls=calls), chat("sorry")) as (server, client):
        assert client.ask("?", tools=TOOLS).answer == "sorry"
    assert results(server) == [
        *["error: the arguments are no JSON object"] * len(wrong),
        "error: fail failed",
        "error: there is no tool 'rm', only ['double', 'fail']",
        "error: double failed",
        "error: fail failed",
    ]
    sent = server.bodies[-1]["messages"][1]["tool_calls"]
    assert [c["function"]["arguments"] for c in sent[: len(wrong)]] == ["{}"] * len(wrong)
    assert "1234" not in str(server.bodies) and "1234" in caplog.text


def test_rounds_of_tools_have_a_limit():
    with asking(chat(None, tool_calls=[call("double", '{"number": 1}')])) as (server, client):
        with pytest.raises(NoAnswer, match="3 rounds") as refusal:
            client.ask("?", tools=TOOLS, rounds=3)
        assert refusal.value.reason == "tool" and len(server.bodies) == 3


def test_a_call_without_tools_ends():
    refusal = fault(chat(None, tool_calls=[call("f", "{}")]))
    assert refusal.reason == "tool"


# ----------------------------------------------------------------------------------------------- schema, chat, faces


def test_a_schema_is_sent_and_the_answer_read():
    with asking(chat(' {"number":\n 3} '), chat("three")) as (server, client):
        assert client.json("?", SCHEMA) == {"number": 3}
        sent = server.bodies[0]["response_format"]
        assert sent["type"] == "json_schema" and sent["json_schema"]["schema"] == SCHEMA
        with pytest.raises(NoAnswer, match="ignores the schema"):
            client.json("?", SCHEMA)


def talk(server, **options):
    return Chat(Client(server.base_url, "m", longest_pause=0.01), **options)


def test_a_history_holds_whole_answers_and_no_thoughts():
    with FaultyServer(chat("1702", reasoning="hm"), chat(None), chat("1712")) as server:
        conversation = talk(server, system="Be brief.")
        chatting = sync(conversation)
        assert chatting.ask("37×46=?").answer == "1702"
        with pytest.raises(NoAnswer):
            chatting.ask("and now?")
        assert list(chatting.stream("+10?", stream=False))[-1][1].answer == "1712"
        said = [(message["role"], message["content"]) for message in server.bodies[-1]["messages"]]
    assert said == [("system", "Be brief."), ("user", "37×46=?"), ("assistant", "1702"), ("user", "+10?")]
    assert "hm" not in str(server.bodies) and len(chatting.turns) == 2
    assert "max_tokens" not in server.bodies[0]  # the rest of the context


def test_a_history_has_a_length_beyond_which_old_turns_are_forgotten():
    with FaultyServer(chat("yes")) as server:
        chatting = sync(talk(server, system="Be brief.", history=12))
        for question in ("12345", "1234", "12", "1"):
            chatting.ask(question)
        sent = [[message["content"] for message in body["messages"][1:]] for body in server.bodies]
        assert sent == [["12345"], ["12345", "yes", "1234"], ["1234", "yes", "12"], ["1234", "yes", "12", "yes", "1"]]
        assert server.bodies[-1]["messages"][0]["role"] == "system"


def test_a_full_context_forgets_the_oldest_turns():
    """One word too many is one too many; the server counts, so the client need not."""
    most, long = 7, "maximum context length is 7 words"

    def count(handler):
        words = sum(len(message["content"].split()) for message in handler.body["messages"])
        (chat("yes") if words <= most else status(400, long))(handler)

    with FaultyServer(count) as server:
        chatting = sync(talk(server, system="Be brief."))
        for question in ("a b", "c d", "e f", "g"):
            assert chatting.ask(question).answer == "yes"
        assert [turn[0]["content"] for turn in chatting.turns] == ["e f", "g"]
        assert server.bodies[-1]["messages"][0]["role"] == "system"
        with pytest.raises(NoAnswer) as refusal:
            chatting.ask("one two three four five six")
        assert refusal.value.reason == "context" and chatting.turns == []


def test_a_context_that_fills_up_while_it_answers_forgets_nothing():
    with FaultyServer(chat("1"), stream({"content": "2"}, finish="length")) as server:
        chatting = sync(talk(server))
        chatting.ask("?")
        with pytest.raises(NoAnswer):
            list(chatting.stream("?"))
        assert len(chatting.turns) == 1 and len(server.bodies) == 2


def test_who_leaves_a_stream_closes_it():
    left = threading.Event()

    def endless(handler):
        handler.start_events()
        try:
            while True:
                handler.event(CHUNK)
        except OSError:
            left.set()

    with asking(endless) as (_, client):
        for kind, _ in client.stream("?"):
            assert kind == "answer"
            break
        assert left.wait(60)

    async def leave(server):
        async with Client(server.base_url, "m") as client, contextlib.aclosing(client.stream("?")) as pieces:
            await anext(pieces)

    left.clear()
    with FaultyServer(endless) as server:
        asyncio.run(leave(server))
        assert left.wait(60)


def test_the_script_says_its_answer_or_what_went_wrong(monkeypatch, capsys):
    monkeypatch.setattr(qwen_client, "Sync", sync)
    with FaultyServer(stream({"reasoning": "hm"}, {"content": "1702"}), stream({"content": None})) as server:
        monkeypatch.setattr(qwen_client, "Client", functools.partial(Client, server.base_url, "m", attempts=1))
        assert qwen_client.main("37×46=?") == 0
        assert capsys.readouterr() == ("1702\n", "hm")
        assert "empty" in qwen_client.main("?") and capsys.readouterr().out == ""


# ---------------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("name", FILES)
def test_nothing_happens_at_import(name):
    tree = ast.parse((ROOT / "docs" / name).read_text(encoding="utf-8"))
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign)
    other = [node for node in tree.body[1:] if not isinstance(node, kinds)]
    assert [ast.unparse(node.test).split(" and ")[0] for node in other] == ["__name__ == '__main__'"] * len(other)


def test_it_is_short_and_needs_openai_only():
    text = (ROOT / "docs" / "qwen_client.py").read_text(encoding="utf-8")
    assert sum(bool(line.strip()) for line in text.splitlines()) <= 250
    nodes = list(ast.walk(ast.parse(text)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"openai"}


@pytest.mark.slow
def test_as_a_script_it_has_an_exit_status_and_stops_at_once(tmp_path, silent):
    def started(base_url):
        variables = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        variables |= {"BASE_URL": base_url, "MODEL": "m"}
        command = [sys.executable, "-I", ROOT / "docs" / "qwen_client.py", "37×46=?"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, env=variables, **pipes)

    with started(NOWHERE) as process:
        printed, errors = process.communicate()
    assert process.returncode == 1 and "No server at" in errors and "Traceback" not in errors and not printed
    with FaultyServer(stream({"content": "1702"}), silent) as server:
        with started(server.base_url) as process:
            assert process.communicate() == ("1702\n", "") and process.returncode == 0
        with started(server.base_url) as process:
            while len(server.bodies) < 2:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors


# --------------------------------------------------------------------------------------------------- the real server


@pytest.fixture(scope="module")
def real(server):
    client = Client(server.base_url, server.model, server.api_key)
    asked = Sync(client)
    yield asked
    asked.runner.run(client.openai.close())
    asked.runner.close()


def multiply(expression: str) -> int:
    left, right = expression.split("*")
    return int(left) * int(right)


EXPRESSION = {"type": "object", "properties": {"expression": {"type": "string", "description": "for example 37*46"}}}
CALCULATOR = {"calculator": (multiply, "Computes an arithmetic expression.", EXPRESSION)}


@pytest.mark.slow
def test_the_real_server_answers_streams_and_calls_a_tool(real):
    thinking, answer, finish = real.ask("37×46=?", temperature=0)
    assert "1480" in thinking and "1702" in answer and finish == "stop"
    pieces = list(real.stream("37×46=?", temperature=0))
    assert pieces[-1] == ("reply", (thinking, answer, finish)) and len(pieces) > 10
    assert "".join(text for kind, text in pieces if kind == "thinking").strip() == thinking
    assert real.ask("37×46=?", thinking=False).thinking == ""
    pieces = list(real.stream("1234×567=?", tools=CALCULATOR, temperature=0))
    assert ("tool", "calculator: 699678") in pieces and "699678" in pieces[-1][1].answer


@pytest.mark.slow
def test_the_real_server_keeps_to_a_schema(real):
    schema = {"type": "object", "properties": {"product": {"type": "integer"}}, "required": ["product"]}
    found = real.json("37×46=?", schema, thinking=False, max_tokens=60, temperature=0)
    assert found.keys() == {"product"} and isinstance(found["product"], int)


@pytest.mark.slow
def test_the_real_server_says_what_is_full_cut_or_unknown(real, server):
    with pytest.raises(NoAnswer) as refusal:
        real.ask("1+" * 3000)
    assert (refusal.value.reason, refusal.value.status) == ("context", 400)
    with pytest.raises(NoAnswer, match="within the thought"):
        real.ask("37×46=?", max_tokens=5)
    with pytest.raises(NoAnswer, match=server.model):  # of another name, the names that there are
        sync(Client(server.base_url, "another", server.api_key)).ask("?")


@pytest.mark.slow
def test_a_chat_of_the_real_server_goes_on_where_the_context_is_full(real):
    """Turns of 600 characters, about as many tokens each, in a context of 2,048."""
    chatting = Chat(real.target, thinking=False, temperature=0, max_tokens=20, history=10_000)
    for number in range(11, 14):
        padded = [{"role": "user", "content": "1+" * 300}, {"role": "assistant", "content": "0"}]
        chatting.turns += [padded, padded]
        assert real.runner.run(chatting.ask(f"{number}×46=?")).answer
        assert chatting.turns[-1][0]["content"] == f"{number}×46=?"
    assert 1 < len(chatting.turns) < 9  # of three short ones and six long ones
