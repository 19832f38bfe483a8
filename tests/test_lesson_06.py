"""Lesson 06: its exercises tell right from wrong, its interval is Wilson's, its copy-me cell stands alone."""

import ast
import itertools
import math

import pytest
from conftest import ROOT, said
from lesson_source import parse, read_lesson
from test_lesson_05 import COPY_ME_SPLITS, output_of

from helpers import checks

LESSON = read_lesson(ROOT / "notebooks" / "source" / "06_thinking.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}
MEASURED = {17: 0.15, 34: 0.4, 51: 0.65, 68: 0.6, None: 1.0}


def names_of(*keys):
    names = {}
    for key in keys:
        exec(CELLS[key], names)
    return names


EXERCISES = {
    "ex1": (checks.exercise_06_1, "split_ids", ()),
    "ex2": (checks.exercise_06_2, "choose_budget", (MEASURED,)),
}


@pytest.mark.parametrize("key", EXERCISES)
def test_solution_passes_and_stub_does_not(key, capsys):
    check, name, more = EXERCISES[key]
    assert "Solved!" in said(capsys, check, names_of(f"{key}-solution")[name], *more)
    printed = said(capsys, check, names_of(key)[name], *more)
    assert "还没有解出来" in printed and "Not solved yet" in printed and "raised" not in printed


def split_with(cut=None, first=False, tags=False, none=None):
    def wrong(token_ids, think, end):
        ids = list(token_ids)
        if end in ids:
            at = ids.index(end) if first else len(ids) - 1 - ids[::-1].index(end)
            return [i for i in ids[:at] if tags or i != think], ids[at + 1 :]
        if think in ids:
            return cut(ids, think) if cut else ([i for i in ids if i != think], None)
        return none(ids) if none else (None, ids)

    return wrong


WRONG_SPLITS = [
    (split_with(cut=lambda ids, think: (None, ids[1:])), "the thought was cut, so the answer is None"),
    (split_with(cut=lambda ids, think: (ids, None)), "the tags belong to neither part"),
    (split_with(none=lambda ids: (ids, None)), "the model did not think"),
    (split_with(first=True), "splits at the first </think>"),
    (split_with(tags=True), "the tags belong to neither part"),
    (lambda ids, think, end: [1, 2, 3], "two things are wanted"),
    (lambda ids, think, end: ids[ids.index(end) :], "two things are wanted"),
]


@pytest.mark.parametrize(("wrong", "hint"), WRONG_SPLITS)
def test_a_wrong_split_is_named(wrong, hint, capsys):
    assert hint in said(capsys, checks.exercise_06_1, wrong)


def enough(accuracy, share):
    return [key for key, value in accuracy.items() if key is not None and value >= share * accuracy[None]]


WRONG_CHOICES = [
    (lambda accuracy, share: max(enough(accuracy, share), default=None), "not the smallest"),
    (lambda accuracy, share: next(iter(enough(accuracy, share)), None), "not the smallest"),
    (lambda accuracy, share: min((k for k, v in accuracy.items() if k and v >= share), default=None), "was taken for"),
    (lambda accuracy, share: min(enough(accuracy, share), default=8), "no budget is enough"),
    (lambda accuracy, share: 16, "it should be"),
]


@pytest.mark.parametrize(("wrong", "hint"), WRONG_CHOICES)
def test_a_wrong_choice_is_named(wrong, hint, capsys):
    assert hint in said(capsys, checks.exercise_06_2, wrong, MEASURED)


def test_the_measurement_of_the_learner_is_one_of_the_cases(capsys):
    def knows_the_tables(accuracy, share):
        return min(enough(accuracy, share), default=None) if 17 not in accuracy else 34

    assert "Solved!" in said(capsys, checks.exercise_06_2, knows_the_tables)
    assert "17: 0.15" in said(capsys, checks.exercise_06_2, knows_the_tables, MEASURED)


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
    chat.tokenizer = checks._tiny_tokenizer()
    assert chat.split(output_of(*case)) == expected
