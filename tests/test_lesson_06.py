"""Lesson 06: its interval is Wilson's, its copy-me cell stands alone."""

import ast
import itertools
import math

import pytest
from conftest import ROOT
from test_lesson_05 import COPY_ME_SPLITS, output_of

from helpers.lessons.l05.exercises import tiny_tokenizer
from tools.lessons.source import parse, read_lesson

LESSON = read_lesson(ROOT / "notebooks" / "source" / "06_thinking.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}


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
