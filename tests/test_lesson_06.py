"""Lesson 06: its interval is Wilson's, its problems were held out, its copy-me cell stands alone."""

import ast
import itertools
import shutil

import pytest
from conftest import ROOT
from test_lesson_05 import COPY_ME_SPLITS, output_of

from helpers import CourseError, language, models
from helpers.lessons import l06
from helpers.lessons.arithmetic import held_out
from helpers.lessons.l05.exercises import tiny_tokenizer
from tools.lessons.source import parse, read_lesson

LESSON = read_lesson(ROOT / "notebooks" / "source" / "06_thinking.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}


def test_the_interval_is_wilsons():
    """Against the quadratic that defines it: the shares whose z-score from what was seen is 1.96."""
    for right, total in ((60, 100), (65, 100), (0, 52), (52, 52), (7, 9)):
        for bound in l06.interval(right, total):
            spread = (bound * (1 - bound) / total) ** 0.5
            assert abs(abs(right / total - bound) - 1.96 * spread) < 1e-9


def test_the_sign_test_is_the_binomials():
    """Against all ways in which a fair coin can fall, and as the lesson says."""
    for first, second in ((0, 0), (1, 0), (3, 1), (2, 2), (0, 9)):
        falls = [sum(coins) for coins in itertools.product((0, 1), repeat=first + second)]
        uneven = [abs(2 * heads - first - second) >= abs(first - second) for heads in falls]
        assert l06.sign_test(first, second) == pytest.approx(sum(uneven) / len(falls))
    assert (round(l06.sign_test(0, 8), 3), round(l06.sign_test(20, 28), 2)) == (0.008, 0.31)


def test_the_problems_were_held_out_and_fewer_are_the_first_of_more():
    problems = l06.draw_problems(40)
    assert all(held_out(*problem.operands) for problem in problems) and l06.draw_problems(4) == problems[:4]
    assert [problem.operation for problem in problems[:6]] == ["chain", "chain", "×"] * 2


def test_the_figure_draws_what_was_measured():
    right = {"off": [False, False, True, False], 8: [False, True, True, False], None: [True] * 4}
    budget, tokens = l06.budget_curve(right, {"off": 20, 8: 41, None: 82}).axes
    assert list(tokens.lines[0].get_xydata().ravel()) == [41, 0.5, 82, 1]
    assert list(tokens.lines[1].get_xydata().ravel()) == [20, 0.25]
    assert list(budget.lines[0].get_ydata()) == [0.5, 1] and list(budget.lines[-1].get_ydata()) == [0.25, 0.25]
    ends = [[y for _, y in bar] for bar in budget.collections[0].get_segments()]
    assert ends == [pytest.approx(l06.interval(2, 4)), pytest.approx(l06.interval(4, 4))]


# As the templates of Qwen3-2507 Instruct and of Qwen2.5 begin a turn: nothing of thinking in them.
INSTRUCT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
QWEN2_5 = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}" + INSTRUCT
THINKING = INSTRUCT + "<think>\n"  # 2507 Thinking


def without_thinking(folder, template):
    """The tiny model with another chat template; its folder."""
    copy = folder / "Qwen3-4B-Instruct-2507"
    shutil.copytree(models.find_checkpoint("qwen3-tiny"), copy)
    (copy / "chat_template.jinja").write_text(template, encoding="utf-8")
    return copy


@pytest.mark.parametrize("template", [INSTRUCT, QWEN2_5])
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_the_setup_says_at_once_that_a_model_never_thinks(template, lang, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_MODEL", str(without_thinking(tmp_path, template)))
    monkeypatch.setattr(language, "LANGUAGE", lang)
    with pytest.raises(CourseError) as error:
        exec(CELLS["setup"], {})
    assert {"zh": "没有思考", "en": "never thinks"}[lang] in str(error.value)
    assert "Qwen3-4B-Instruct-2507" in str(error.value) and "COURSE_MODEL=" in str(error.value)


@pytest.mark.parametrize(("template", "thinks"), [(None, "switch"), (THINKING, "always")])
def test_the_setup_lets_a_model_that_thinks_pass(template, thinks, tmp_path, monkeypatch, capsys):
    folder = without_thinking(tmp_path, template) if template else models.find_checkpoint("qwen3-tiny")
    monkeypatch.setenv("COURSE_MODEL", str(folder))
    exec(CELLS["setup"], {})
    assert capsys.readouterr().out.rstrip().endswith(f"| thinking: {thinks}")


@pytest.mark.parametrize(("case", "expected"), COPY_ME_SPLITS)
def test_copy_me_split(case, expected):
    source = next(node for node in parse(CELLS["copy-me"]).body if isinstance(node, ast.ClassDef))
    names = {}
    exec(ast.unparse(source), names)
    chat = names["Chat"].__new__(names["Chat"])
    chat.tokenizer = tiny_tokenizer()
    assert chat.split(output_of(*case)) == expected
