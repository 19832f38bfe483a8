"""Lesson 06: its interval is Wilson's, its copy-me cell stands alone."""

import ast
import itertools
import math
import subprocess
import sys

import pytest
from conftest import ROOT
from lesson_source import parse, read_lesson
from test_lesson_05 import COPY_ME_SPLITS, cpu_environment, output_of

from helpers import models
from helpers.lessons.l05 import tiny_tokenizer

LESSON = read_lesson(ROOT / "notebooks" / "source" / "06_thinking.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}
CUT = """
    for tokens in (8, 50):
        chat = Chat(llm)
        print("cut", chat.ask("37×46=?", max_tokens=tokens), len(chat.messages), "messages")
"""


def test_the_interval_is_wilsons():
    """Against the quadratic that defines it: the shares whose z-score from what was seen is 1.96."""
    source = next(node for node in parse(CELLS["experiment"]).body if getattr(node, "name", None) == "wilson")
    names = {}
    exec(ast.unparse(source), names)
    for right, total in ((60, 100), (65, 100), (0, 52), (52, 52), (7, 9)):
        for bound in names["wilson"](right, total):
            spread = (bound * (1 - bound) / total) ** 0.5
            assert abs(abs(right / total - bound) - 1.96 * spread) < 1e-9


def test_the_sign_test_is_the_binomials():
    """Against all ways in which a fair coin can fall, and as the lesson's self-test says."""
    source = next(node for node in parse(CELLS["experiment"]).body if getattr(node, "name", None) == "sign_test")
    names = {"math": math}
    exec(ast.unparse(source), names)
    for first, second in ((0, 0), (1, 0), (3, 1), (2, 2), (0, 9)):
        falls = [sum(coins) for coins in itertools.product((0, 1), repeat=first + second)]
        uneven = [abs(2 * heads - first - second) >= abs(first - second) for heads in falls]
        assert names["sign_test"](first, second) == pytest.approx(sum(uneven) / len(falls))
    assert (round(names["sign_test"](0, 8), 3), round(names["sign_test"](20, 28), 2)) == (0.008, 0.31)


@pytest.mark.parametrize(("case", "expected"), COPY_ME_SPLITS)
def test_copy_me_split(case, expected):
    source = next(node for node in parse(CELLS["copy-me"]).body if isinstance(node, ast.ClassDef))
    names = {}
    exec(ast.unparse(source), names)
    chat = names["Chat"].__new__(names["Chat"])
    chat.tokenizer = tiny_tokenizer()
    assert chat.split(output_of(*case)) == expected


@pytest.mark.slow
def test_copy_me_cell_runs_alone(tmp_path):
    script = tmp_path / "thinking.py"
    script.write_text(CELLS["copy-me"] + CUT, encoding="utf-8")
    environment = cpu_environment(COURSE_MODEL=str(models.find_checkpoint("qwen3-tiny")))
    done = subprocess.run([sys.executable, "-I", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "answer: '23×31=713'" in done.stdout and "713+10=723" in done.stdout
    assert "4 messages, thoughts in them: False" in done.stdout
    assert done.stdout.split("with a budget: ")[1].startswith("('46=40+6\\n37×40=1', '37×46=")  # cut there
    within, behind = (line for line in done.stdout.splitlines() if line.startswith("cut "))
    assert within.endswith(", None) 0 messages") and "<think>" not in within
    assert behind.endswith("=1702', '37×') 0 messages")  # a whole thought, half an answer
