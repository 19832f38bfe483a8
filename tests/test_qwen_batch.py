"""docs/qwen_batch.py: what was answered is kept, what was not is asked again, and seldom twice."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import qwen_batch
from conftest import ROOT
from faulty_server import FaultyServer, chat, cut, drop, status
from qwen_client import Client, NoAnswer

from helpers.ports import free_port
from tools.workshop.door import Door


@pytest.fixture
def batch(monkeypatch, one_certificate, tmp_path):
    """``batch(server, questions, ...)``: records of ``ask_all``, in answers.jsonl; it does not sleep."""
    slept, sleep = [], asyncio.sleep

    async def short(seconds):
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", short)

    def ask(server, questions, timeout=60, **options):
        async def run():
            async with Client(server.base_url, "m", timeout=timeout, attempts=2) as client:
                return await qwen_batch.ask_all(questions, tmp_path / "answers.jsonl", client, **options)

        return asyncio.run(run())

    ask.path, ask.slept = tmp_path / "answers.jsonl", slept
    return ask


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def echo(handler):
    chat(f"to {handler.body['messages'][-1]['content']}")(handler)


def test_answers_are_in_the_order_of_the_questions_and_no_more_than_allowed_at_once(batch):
    questions = [str(n) for n in range(30)]

    def reply(handler):
        time.sleep(0.1 / (1 + int(handler.body["messages"][-1]["content"])))  # the first are answered last
        echo(handler)

    with FaultyServer(reply) as server:
        records = batch(server, questions, at_once=4, max_tokens=9, thinking=False)
        assert 2 <= server.most <= 4 and len(server.bodies) == 30
        assert server.bodies[0]["max_tokens"] == 9
    assert [record["answer"] for record in records] == [f"to {n}" for n in range(30)]
    assert lines(batch.path) == records and records[3]["finish_reason"] == "stop"


def test_a_second_run_asks_only_what_has_no_answer(batch):
    paragraph = "one\u2028two 三"
    with FaultyServer(chat(paragraph, reasoning="hm"), status(400), chat("c")) as server:
        first = batch(server, ["1", "2", "1"], at_once=1)
        assert [record["error"] is None for record in first] == [True, False, True]
        assert first[0]["answer"] == paragraph and first[0]["thinking"] == "hm"
    with batch.path.open("ab") as file:  # not ours, and a line that a kill cut off within a character
        file.write(b'null\n[1]\n{"number": 1}\n{"number": "a"}\n{"number": 99}\n' + '{"number": 1, "三'.encode()[:-1])
    with FaultyServer(chat("b")) as server:
        for _ in range(2):
            assert [record["answer"] for record in batch(server, ["1", "2", "1"])] == [paragraph, "b", "c"]
            assert len(server.bodies) == 1 and len(lines(batch.path)) == 3
        assert [record["answer"] for record in batch(server, ["1", "other"])] == [paragraph, "b"]
        batch(server, ["1"], max_tokens=7)  # another setting, another answer
        assert len(server.bodies) == 3


@pytest.mark.parametrize("fault", [status(400), cut("half"), chat(None), chat(None, reasoning="1702")])
def test_what_stays_wrong_harms_no_other(fault, batch):
    with FaultyServer(fault, chat("fine")) as server:
        first, second = batch(server, ["?", "!"], at_once=1, max_tokens=5)
        assert first["error"] and "answer" not in first and second["answer"] == "fine" and len(server.bodies) == 2


def test_a_restart_of_the_server_loses_nothing(batch):
    """After a lost connection nothing is asked until /health is well again."""
    asked_while_down = []
    with FaultyServer() as server:
        health = [status(503), status(503), status(503), status(200)]

        def get(handler):
            (health.pop(0) if len(health) > 1 else health[0])(handler)

        def reply(handler):
            if len(health) == 4 and len(server.bodies) in (5, 6):  # as often as the client tries by itself
                drop(handler)
            elif 1 < len(health) < 4:
                asked_while_down.append(handler.body)
                drop(handler)
            else:
                echo(handler)

        server.get_reply, server.replies = get, [reply]
        questions = [str(n) for n in range(12)]
        records = batch(server, questions, at_once=1)
        assert [record["answer"] for record in records] == [f"to {n}" for n in range(12)]
        assert server.got == ["/health"] * 4 and not asked_while_down and len(server.bodies) == 14


@pytest.mark.slow
def test_a_server_that_drains_is_waited_for_though_it_is_healthy(batch):
    """vLLM's /health stays 200 while it drains and answers 500 to what is new."""
    with FaultyServer(*[status(500)] * 12, echo) as server:
        server.get_reply = status(200)
        [record] = batch(server, ["?"])
        assert record["answer"] == "to ?" and sum(batch.slept) > 20
    with FaultyServer(status(500)) as server:
        server.get_reply = status(404)  # a proxy that passes /v1 and nothing else
        [record] = batch(server, ["!"])
        assert record["error"].startswith("busy") and len(server.bodies) == 2 * qwen_batch.TRIES
        assert sum(batch.slept) > 120  # a drain of two minutes passes


def test_a_server_that_stays_away_ends_the_run_and_keeps_what_was_answered(batch):
    with FaultyServer(chat("a"), chat("b"), drop) as server:
        server.get_reply = status(503)
        with pytest.raises(NoAnswer, match="No server at"):
            batch(server, ["1", "2", "3", "4"], at_once=1, patience=0)
    with FaultyServer(chat("c"), chat("d")) as server:
        assert [record["answer"] for record in batch(server, ["1", "2", "3", "4"], at_once=1)] == ["a", "b", "c", "d"]
        assert len(server.bodies) == 2


@pytest.mark.slow
def test_timeouts_are_hardly_repeated(batch):
    released = threading.Event()
    with FaultyServer(lambda handler: released.wait(60)) as server:
        records = batch(server, [str(n) for n in range(50)], timeout=0.3, at_once=50)
        assert all(record["error"].startswith("timeout") for record in records) and 50 < len(server.bodies) <= 60
        released.set()


def test_questions_are_lines_or_json(tmp_path):
    (tmp_path / "q.txt").write_text("37×46=?\n\nWho are you?\n", encoding="utf-8")
    assert qwen_batch.read_questions(tmp_path / "q.txt") == ["37×46=?", "Who are you?"]
    messages = [{"role": "user", "content": "a\nb"}]
    (tmp_path / "q.jsonl").write_text(f'"a\\nb"\n{json.dumps(messages)}\n', encoding="utf-8")
    assert qwen_batch.read_questions(tmp_path / "q.jsonl") == ["a\nb", messages]


# ------------------------------------------------------------------------------------------------------- as a script


def started(folder, base_url, model="m", key="EMPTY", *options):
    variables = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    variables |= {"BASE_URL": base_url, "MODEL": model, "API_KEY": key, "PYTHONPATH": str(ROOT / "docs")}
    command = [sys.executable, ROOT / "docs" / "qwen_batch.py", "questions.txt", "answers.jsonl", *options]
    return subprocess.Popen(command, cwd=folder, env=variables, stderr=subprocess.PIPE, text=True)


def ended(process):
    """(exit status, seconds that its end took, errors)"""
    begin = time.monotonic()
    try:
        _, errors = process.communicate(timeout=120)
        return process.returncode, time.monotonic() - begin, errors
    finally:
        process.kill()
        process.wait()


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def answered(folder):
    path = folder / "answers.jsonl"
    return path.read_text(encoding="utf-8").count("\n") if path.is_file() else 0


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_end_in_mid_run_loses_nothing_and_a_second_run_goes_on(sign, tmp_path):
    (tmp_path / "questions.txt").write_text("\n".join(f"{n}+1=?" for n in range(40)))
    released = threading.Event()
    with FaultyServer(*[echo] * 12, lambda handler: released.wait(60)) as server:
        process = started(tmp_path, server.base_url)
        wait_for(lambda: len(server.bodies) == 28 and answered(tmp_path) == 12, process)
        process.send_signal(sign)
        code, _, errors = ended(process)
        released.set()
    assert code == (-9 if sign == signal.SIGKILL else 130) and "Traceback" not in errors
    with FaultyServer(echo) as server:
        code, _, errors = ended(started(tmp_path, server.base_url))
        assert code == 0 and len(server.bodies) == 28 and "40/40" in errors
    records = lines(tmp_path / "answers.jsonl")
    assert [record["number"] for record in records] == list(range(40))
    assert all(record["answer"] == f"to {record['question']}" for record in records)


@pytest.mark.slow
def test_a_question_without_an_answer_and_a_missing_server_are_failures(tmp_path):
    (tmp_path / "questions.txt").write_text("1\n2")
    with FaultyServer(chat(None, reasoning="1702"), chat("fine")) as server:
        code, _, errors = ended(started(tmp_path, server.base_url))
    assert code == 1 and "1 without an answer" in errors
    code, _, errors = ended(started(tmp_path, "http://127.0.0.1:9/v1", "m", "EMPTY", "--patience", "0"))
    assert code == 1 and "No server at" in errors and "Traceback" not in errors


@pytest.mark.slow
def test_two_kills_of_what_leads_to_the_server_and_a_ctrl_c(tmp_path, server):
    """The real server behind nginx, which ends twice with all its connections, as where a server is killed."""
    (tmp_path / "questions.txt").write_text("\n".join(f"{n}×46=?" for n in range(11, 211)))
    door = Door({"table": "secret"}, server.base_url, port=free_port(), at_once=64)
    options = (server.model, "secret", "--no-thinking", "--max-tokens", "200", "--at-once", "8")
    process = started(tmp_path, door.base_url, *options)
    for part in (20, 40):
        with door.running(tmp_path / "door", log="off"):
            wait_for(lambda: answered(tmp_path) >= part, process)  # noqa: B023 - it is used at once
    with door.running(tmp_path / "door", log="off"):
        wait_for(lambda: answered(tmp_path) >= 60, process)
        process.send_signal(signal.SIGINT)
        code, _, errors = ended(process)
        assert code == 130 and "Traceback" not in errors
        before = answered(tmp_path)
        code, _, errors = ended(started(tmp_path, door.base_url, *options))
    records = lines(tmp_path / "answers.jsonl")
    assert before < 200 and [record["number"] for record in records] == list(range(200))
    assert code == 0 and not [record for record in records if record["error"]], errors
