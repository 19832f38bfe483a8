"""Lesson 09: its report says what was measured, its copy-me cell works."""

import math
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from faulty_server import FaultyServer, broken_off, chat, cut, page, status
from test_lesson_06 import INSTRUCT, without_thinking

from helpers import CourseError, language
from helpers.lessons import l09
from helpers.lessons.arithmetic import held_out
from tools.lessons.source import read_lesson

LESSON = read_lesson(ROOT / "notebooks" / "source" / "09_project.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}
ROWS = [{"budget": 0, "right": 0.1, "tokens": 23.0}, {"budget": 64, "right": 0.9, "tokens": 64.0}]
REPORT = {"budget": 64, "cases": 20, "right": 0.85, "tokens": 65.0, "away": 14.6, "lost": 0, "left": False}


@pytest.mark.parametrize(("lang", "first"), [("zh", "5+18+64 等于多少？"), ("en", "What is 5+18+64?")])
def test_the_questions_are_in_the_pages_language_and_no_tiny_model_saw_them(lang, first, monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", lang)
    questions = l09.draw_questions(20)
    assert questions[0] == (first, "87") and len(dict(questions)) == 20
    for question, answer in questions:
        numbers = list(map(int, re.findall(r"\d+", question)))
        assert held_out(*numbers) and answer == str(sum(numbers) if "+" in question else math.prod(numbers))


def holds(measured=ROWS, choose=lambda measured, allowed_loss: 64, **changed) -> list[str]:
    """The last column of the report."""
    rows = l09.page("<b>", measured, REPORT | changed, choose).split("<tr>")
    assert "&lt;b&gt;" in rows[0] and len(rows) == 8
    return [re.findall(r"<td>([^<]*)</td>", row)[2] for row in rows[2:]]


def test_where_nobody_knows_the_pages_language_the_report_is_in_both(monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", None)
    page = l09.page("m", ROWS, REPORT, lambda measured, allowed_loss: 64)
    assert "丢 0 道，停了 15 秒\n0 lost, 15 s away" in page and len(l09.draw_questions(20)) == 20


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({}, None),
        ({"cases": 19}, 0),
        ({"choose": lambda measured, allowed_loss: ...}, 1),
        ({"measured": [ROWS[1], ROWS[0] | {"tokens": 0}]}, 1),
        ({"right": 0.4}, 2),
        ({"tokens": 120.0}, 3),
        ({"lost": 1}, 4),
        ({"left": True}, 5),
    ],
)
def test_each_check_of_the_report_can_fail(changed, place, monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", "en")
    assert holds(**changed) == ["no" if row == place else "yes" for row in range(6)]


def test_a_budget_that_was_not_measured_has_no_figures_to_compare(monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", "en")
    assert holds(budget=50) == ["yes", "no", "yes", "yes", "yes", "yes"]
    assert holds(budget=None, measured=[*ROWS, ROWS[1] | {"budget": None}], tokens=200.0) == ["yes"] * 6


def test_a_model_that_never_thinks_is_refused_in_the_first_cell(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_MODEL", str(without_thinking(tmp_path, INSTRUCT)))
    with pytest.raises(CourseError, match=r"never thinks|没有思考"):
        exec(CELLS["setup"], {})


# ---------------------------------------------------------------------------------------------- copy-me


def run_copy_me(tmp_path, **variables):
    script = tmp_path / "copied.py"
    script.write_text(CELLS["copy-me"], encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    command = [sys.executable, "-I", script]
    return subprocess.run(command, cwd=tmp_path, env=environment | variables, capture_output=True, text=True)


@pytest.mark.slow
def test_copy_me_cell_says_when_there_is_no_server(tmp_path):
    done = run_copy_me(tmp_path, BASE_URL="http://127.0.0.1:9/v1")
    assert done.returncode == 1 and not done.stdout and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith("No server at http://127.0.0.1:9/v1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (chat(None, reasoning="1702"), "reasoning parser took the answer"),
        (cut("37×46=1702"), "3 without an answer: no whole answer (finish_reason length)"),
        (page, "does not answer like an OpenAI server"),
        (status(503), "503"),
        (broken_off(die=True), "the connection broke off"),
    ],
)
def test_copy_me_cell_tells_no_answer_from_a_wrong_one(fault, said, tmp_path):
    with FaultyServer(fault) as server:
        done = run_copy_me(tmp_path, BASE_URL=server.base_url)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert "3/3" not in done.stdout


@pytest.mark.slow
def test_copy_me_cell_measures_what_a_budget_saves(tmp_path, server):
    free = run_copy_me(tmp_path, BASE_URL=server.base_url)
    cut = run_copy_me(tmp_path, BASE_URL=server.base_url, THINKING_BUDGET="4")
    assert free.returncode == cut.returncode == 0, free.stderr + cut.stderr
    tokens = [int(done.stdout.split(" tokens an answer")[0].split()[-1]) for done in (free, cut)]
    assert tokens[1] < tokens[0]
