"""Lesson 08: exercises tell right from wrong, the batch cell stands alone and survives faults, its commands exist."""

import ast
import asyncio
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import openai
import pytest
from conftest import ROOT, said
from faulty_server import FaultyServer, chat, cut, drop, page, status
from lesson_source import parse, read_lesson

from helpers import checks, models

LESSON = read_lesson(ROOT / "notebooks" / "source" / "08_serving_under_load.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}
PROSE = {(cell.key, lang): cell.text[lang] for cell in LESSON.cells if cell.kind == "markdown" for lang in ("zh", "en")}
NOWHERE = "http://127.0.0.1:9/v1"


# ---------------------------------------------------------------------------------------------- exercises

EXERCISES = {
    "ex1": (checks.exercise_08_1, "latency_doubles"),
    "ex2": (checks.exercise_08_2, "worth_a_retry"),
    "ex3": (checks.exercise_08_3, "requests_that_fit"),
}


@pytest.mark.parametrize("key", EXERCISES)
def test_solution_passes_and_stub_does_not(key, capsys):
    check, name = EXERCISES[key]
    for cell, passes in ((f"{key}-solution", True), (key, False)):
        names = {}
        exec(CELLS[cell], names)
        printed = said(capsys, check, names[name])
        assert ("Solved!" in printed) == passes
        assert passes or ("还没有解出来" in printed and "Not solved yet" in printed and "raised" not in printed)


def doubles(curves, than_before=False, strictly=False, sort=True, what="n", at_end=False):
    """``latency_doubles`` with one mistake."""
    order = sorted(curves) if sort else list(curves)
    found = []
    for place, n in enumerate(order):
        base = curves[order[place - 1]] if than_before and place else curves[1]
        if curves[n] > 2 * base or (curves[n] == 2 * base and not strictly):
            found.append({"n": n, "place": place, "latency": curves[n]}[what])
    return found[-1 if at_end else 0] if found else None


WRONG_KNEES = [
    (lambda curves: doubles(curves, than_before=True), "not with the level before"),
    (lambda curves: doubles(curves, strictly=True), "exactly twice counts"),
    (lambda curves: doubles(curves, sort=False), "sort it first"),
    (lambda curves: doubles(curves, what="place"), "not its place or the latency"),
    (lambda curves: doubles(curves, what="latency"), "not its place or the latency"),
    (lambda curves: min(n for n in curves if curves[n] >= 2 * curves[1]), "None where it never doubles"),
    (
        lambda curves: next(
            (n for n in sorted(curves) if all(curves[m] >= 2 * curves[1] for m in curves if m >= n)), None
        ),
        "even if a later one is below",
    ),
]


@pytest.mark.parametrize(("wrong", "hint"), WRONG_KNEES, ids=[str(n) + hint for n, (_, hint) in enumerate(WRONG_KNEES)])
def test_a_wrong_knee_is_named(wrong, hint, capsys):
    assert hint in said(capsys, checks.exercise_08_1, wrong)


WRONG_RETRIES = [
    (lambda status: status >= 500 or status in (408, 429), "None does not compare"),
    (lambda status: status is not None and status >= 500, "may be over in a moment"),
    (lambda status: status is None or status > 500 or status in (408, 429), "500 counts"),
    (lambda status: status is None or status >= 500, "too many requests"),
    (lambda status: status is None or status >= 400, "stays wrong"),
    (lambda status: True, "stays wrong"),
]


@pytest.mark.parametrize(("wrong", "hint"), WRONG_RETRIES, ids=range(len(WRONG_RETRIES)))
def test_a_wrong_retry_is_named(wrong, hint, capsys):
    assert hint in said(capsys, checks.exercise_08_2, wrong)


def fit(config, weights, memory, tp, context, heads="share", share=True, both=2, floor=int, least=0):
    count = config["num_key_value_heads"]
    count = {"share": max(1, count // tp), "all": count, "cut": count / tp}[heads]
    per_token = both * config["num_hidden_layers"] * count * config["head_dim"] * 2
    return max(least, floor((memory - weights / (tp if share else 1)) / (context * per_token)))


WRONG_FITS = [
    ({"heads": "all"}, "shared out too"),
    ({"heads": "cut"}, "a head is not cut"),
    ({"share": False}, "the weights are shared out"),
    ({"both": 1}, "half is missing"),
    ({"floor": round}, "half a request"),
    ({"floor": float}, "whole number|half a request"),
    ({"least": -(10**9)}, "not a negative number"),
]


@pytest.mark.parametrize(("mistake", "hint"), WRONG_FITS, ids=[hint for _, hint in WRONG_FITS])
def test_wrong_room_is_named(mistake, hint, capsys):
    printed = said(capsys, checks.exercise_08_3, lambda *arguments: fit(*arguments, **mistake))
    assert re.search(hint, printed), printed


# ---------------------------------------------------------------------------------------------- copy-me


def run_alone(tmp_path, **variables):
    (tmp_path / "copied.py").write_text(CELLS["copy-batch"], encoding="utf-8")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, "-I", "copied.py"]
    return subprocess.run(command, cwd=tmp_path, env=environment | variables, capture_output=True, text=True)


@pytest.mark.slow
def test_copy_me_cell_says_when_nothing_is_behind_the_address(tmp_path):
    done = run_alone(tmp_path, BASE_URL=NOWHERE)
    assert done.returncode == 0 and done.stdout.count("APIConnectionError") == 3


@pytest.fixture
def batch(monkeypatch):
    """``batch(server, questions, ...)``: answers of the copy-me cell's ``ask_all``."""

    def ask(server, questions, **options):
        monkeypatch.setenv("BASE_URL", server.base_url)
        tree = ast.parse(CELLS["copy-batch"])
        tree.body = [node for node in tree.body if not isinstance(node, ast.If)]
        names = {}
        exec(compile(tree, "copy-batch", "exec"), names)
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


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (status(400), openai.BadRequestError),
        (status(404), openai.NotFoundError),
        (status(409), openai.ConflictError),
        (page, RuntimeError),
        (cut(), RuntimeError),
        (cut("half"), RuntimeError),
    ],
)
def test_what_stays_wrong_is_tried_once_and_harms_no_other(fault, error, batch):
    with FaultyServer(fault, chat("fine")) as server:
        first, second = batch(server, ["?", "!"], concurrency=1)
        assert isinstance(first, error) and second == "fine" and len(server.bodies) == 2


def test_attempts_have_an_end_and_a_timeout(batch):
    with FaultyServer(status(503)) as server:
        [result] = batch(server, ["?"], attempts=3)
        assert isinstance(result, openai.InternalServerError) and len(server.bodies) == 3
    released = threading.Event()
    with FaultyServer(lambda handler: released.wait(60)) as server:
        [result] = batch(server, ["?"], attempts=2, timeout=1)
        assert isinstance(result, openai.APITimeoutError) and len(server.bodies) == 2
        released.set()


# ---------------------------------------------------------------------------------------------- what the text shows


def commands():
    for (key, lang), text in PROSE.items():
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            for line in block.splitlines():
                if line.startswith("vllm serve"):
                    yield pytest.param(line, id=f"{key}-{lang}: {line[11:60]}")


@pytest.mark.slow
def test_the_commands_that_were_not_run_are_understood_by_the_installed_vllm():
    """Their flags are parsed by vLLM's own parser; nothing is started."""
    shown = [parameter.values[0] for parameter in commands()]
    assert len(shown) == 10 and any("--nnodes" in line for line in shown)
    code = """
import sys
import threading
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
for line in sys.stdin:
    arguments = parser.parse_args(line.split()[2:])
    print(arguments.model_tag, arguments.tensor_parallel_size, arguments.pipeline_parallel_size, sep=" ")
"""
    done = subprocess.run([sys.executable, "-c", code], input="\n".join(shown), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parsed = [line.split() for line in done.stdout.splitlines() if line.startswith("Qwen3-")]
    assert parsed[0] == ["Qwen3-32B", "4", "1"] and parsed[1][2] == "2" and len(parsed) == len(shown)
    assert all(shlex.split(line)[2] == words[0] for line, words in zip(shown, parsed, strict=True))


def test_the_arithmetic_of_the_limit_is_that_of_the_helpers():
    """The cell's own arithmetic against helpers.models.fits, which reckons the other way round."""
    names = {"models": models}
    exec(CELLS["limit"], names)
    config = models.CATALOGUE["Qwen/Qwen3-8B"].config
    assert names["fitting"] == 34
    for sequences, fits in ((34, True), (35, False)):
        found = models.fits(config, 23.5 * models.GIB, context=1024, sequences=sequences)
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
                    assert names & sampled or any(name.startswith("fixed") for name in names), (cell.key, names)
