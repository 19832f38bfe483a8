"""Lesson 08: the batch cell stands alone and survives faults, its commands exist."""

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
from conftest import ROOT
from faulty_server import FaultyServer, chat, cut, drop, page, status

from helpers import GIB, catalogue
from helpers.language import say
from tools.lessons.source import parse, read_lesson

LESSON = read_lesson(ROOT / "notebooks" / "source" / "08_serving_under_load.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}
PROSE = {(cell.key, lang): cell.text[lang] for cell in LESSON.cells if cell.kind == "markdown" for lang in ("zh", "en")}
NOWHERE = "http://127.0.0.1:9/v1"


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
    """The cell's own arithmetic against helpers.catalogue.fits, which reckons the other way round."""
    names = {"GIB": GIB, "catalogue": catalogue, "say": say}
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
                    assert names & sampled or any(name.startswith("fixed") for name in names), (cell.key, names)
