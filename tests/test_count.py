"""The counters of a lesson's core see what they should, and a core cannot grow beyond its limit or its known figure."""

import pytest
from conftest import TOY

from tools.lessons import build, count
from tools.lessons.source import read_lesson

MORE = """
# %% [markdown] lang="zh" key="more"
# 先猜一猜：十个字够不够？
#
# ```text
# 这里不算
# ```
#
# **选读。** 这里不算。

# %% [markdown] lang="en" key="more"
# Guess first.
#
# ```text
# not counted
# ```
#
# **Extra.** Not counted.

# %% key="aside" tags=["extra"]
x = 1

# %% [markdown] lang="zh" key="aside-read"
# 读输出：不算。
#
# 先选一个。
#
# ### 练习 1 ★★☆（8 分钟）

# %% [markdown] lang="en" key="aside-read"
# How to read it.
#
# Choose.
#
# ### Exercise 1

# %% key="ex1" tags=["exercise"]
def f():
    return ...

# %% key="ex1-solution" tags=["solution"]
def f():
    return 1

# %% key="ex1-check"
f()

# %% [markdown] lang="zh" key="end"
# ## 再深一点（选读）
#
# ### 不算
#
# 不算。
#
# ## 小结

# %% [markdown] lang="en" key="end"
# ## Deeper (extra)
#
# ### Not counted
#
# Not counted.
#
# ## Recap

# %% key="engine" tags=["varies"]
# zh: 不算
# en: not counted
with Server() as server:

    print(server)
"""


@pytest.fixture
def lesson(course):
    """``lesson(number, more)`` is a toy with more cells, read."""

    def read(number: str, more: str = MORE):
        course.write(TOY + more, f"{number}_toy")
        return read_lesson(course.root / "notebooks" / "source" / f"{number}_toy.py")

    return read


def test_what_counts(lesson):
    counted = count.count(lesson("09"))
    # 玩具 为什么 之后行的和都是见第一课 | 先猜一猜十个字够不够 先选一个 练习分钟 小结
    assert counted.characters == 2 + 3 + 11 + 10 + 4 + 4 + 2
    # answer, and of the last cell two lines: no comment, no blank
    assert (counted.lines, counted.cells) == (4, 5)
    assert (counted.predictions, counted.exercises) == (2, 1)
    assert counted.minutes == 15  # 36 / 150 + 4 / 4 + 10 + 2 = 13.2
    assert count.count(lesson("09", MORE.replace("Server()", "open('x')"))).minutes == 15  # 12.2
    assert count.count(lesson("09", MORE.replace("★★☆", "★☆☆").replace("Server()", "open('x')"))).minutes == 10  # 7.2


AGAIN = """
# %% key="aside" tags=["extra"]
x = 1

# %% [markdown] lang="zh" key="next"
# ## 下一节
#
# **选读。** 不算。
#
# **先选一个。** 不算。

# %% [markdown] lang="en" key="next"
# ## Next
#
# **Extra.** Not counted.
#
# **Choose first.** Not counted.

# %% key="aside-again" tags=["extra"]
x = 2
"""


def test_a_guess_before_an_extra_cell_is_extra_also_right_after_another_one(lesson):
    start = MORE[: MORE.index('# %% key="aside"')]
    plain, more = count.count(lesson("09", start)), count.count(lesson("09", start + AGAIN))
    assert (more.characters, more.predictions) == (plain.characters + 3, plain.predictions)
    on = AGAIN.replace("# ## 下一节\n#\n", "").replace("# ## Next\n#\n", "").replace("先选一个。", "先选一个（选读）。")
    more = count.count(lesson("09", start + on))
    assert (more.characters, more.predictions) == (plain.characters, plain.predictions)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("\n# %% key='long'\n" + "\n".join(f"a{line} = {line}" for line in range(89)), "91 lines"),
        ("".join(f'\n# %% key="c{cell}"\n1\n' for cell in range(13)), "15 cells"),
        (
            f'\n# %% [markdown] lang="zh" key="z"\n# {"字" * 2600}\n\n# %% [markdown] lang="en" key="z"\n# A\n',
            "2616 characters",
        ),
    ],
)
def test_a_core_beyond_its_limit_is_refused(more, said, lesson):
    [problem] = count.check(lesson("09", more.replace("'", '"')))
    assert f"09_toy.py: the core has {said}; shorten it" in problem
    assert count.check(lesson("A9", more.replace("'", '"'))) == []  # an appendix


def test_a_core_has_two_or_three_exercises(lesson):
    [problem] = count.check(lesson("07"))
    assert "the core has 1 exercises; it should have 2 to 3" in problem


def test_the_builder_refuses_a_core_that_is_too_long_and_prints_the_table(course, capsys):
    course.write(TOY + '\n# %% key="long"\n' + "x = 1\n" * 500, "07_toy")
    assert build.main(["--root", str(course.root)]) == 0
    capsys.readouterr()
    assert build.main(["--root", str(course.root), "--check"]) == 1
    assert "07_toy.py: the core has 502 lines; shorten it" in capsys.readouterr().err
    assert build.main(["--root", str(course.root), "--count", "07"]) == 0
    assert "| 07_toy | **502** | 3 | 16 | **130** | 0 | **0** |" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "minutes", "said"), [("09", 20, True), ("09", 15, False), ("00", 20, False)])
def test_the_head_says_the_minutes_that_are_counted(course, number, minutes, said):
    toy = (TOY + MORE).replace("# # 99 · A toy\n", f"# # 99 · A toy\n#\n# | Time | {minutes} minutes |\n")
    course.write(toy, f"{number}_toy")
    found = count.check(read_lesson(course.root / "notebooks" / "source" / f"{number}_toy.py"))
    assert [f"{number}_toy.py: its head says 20 minutes, and 15 are counted."] * said == found
