"""The one engine of all exercises: it runs a learner's solution, and where that is wrong it names the mistake.

An exercise is data, see ``helpers/lessons``: ``right`` answers, ``cases`` ask, ``mistakes`` are wrong solutions with a
hint each. A solution that answers in every case as one of them does gets its hint; an exception is an answer, too.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from helpers import attempt
from helpers.difference import SHORT, Raised, alike, difference, of_values
from helpers.language import say

NOTHING = (
    "函数只返回 None：缺了 return，还是太早就返回了？",
    "the function returns nothing but None: is a return missing, or does one come too early?",
)
CHANGED = "函数改动了传给它的数据：先复制一份，再改那一份。", "the function changes what it is given: change a copy."
TOO_LONG = "{} 秒还没有算完：有没有停不下来的循环？", "not done after {} seconds: is there a loop that never ends?"


class Mistake(NamedTuple):
    """A wrong solution and its hint, which may name ``{case}``, ``{given}``, ``{wanted}`` of the first wrong answer."""

    wrong: Callable
    zh: str
    en: str


@dataclass(frozen=True)
class Exercise:
    """A task that a function solves.

    right: a solution. cases: the arguments of each case, in a list, or in a dictionary where they need a short name, or
    a function that makes them. start: the hint for a stub, in Chinese and in English. mistakes: rows of ``Mistake``.
    same: whether two answers are alike. ask: runs a solution on a case, and gives what is compared.
    """

    right: Callable
    cases: Sequence[tuple] | dict[str, tuple] | Callable
    start: tuple[str, str]
    mistakes: Sequence[tuple[Callable, str, str]] = ()
    same: Callable[[Any, Any], bool] = alike
    ask: Callable = lambda solution, *case: solution(*case)

    def check(self, solution: Callable, *more) -> None:
        """Prints whether it is solved, else a hint; raises nothing but KeyboardInterrupt. more: for ``cases``."""
        page = attempt.Page()
        hint = self.diagnose(solution, *more, page=page)
        if printed := page.text():
            print(printed)
        if hint is None:
            print(say("解出来了！", "Solved!"))
        else:
            print(say(f"还没有解出来：{hint[0]}", f"Not solved yet: {hint[1]}"))

    def yours_or_ours(self, solution: Callable, *more) -> Callable:
        """The solution itself once it solves the exercise, until then ``right``. more: for ``cases``."""
        return solution if self.diagnose(solution, *more) is None else self.right

    def diagnose(self, solution: Callable, *more, page: attempt.Page | None = None) -> tuple[str, str] | None:
        """None if solved, else the hint in Chinese and in English. page: takes down what the solution prints."""
        cases = self.named_cases(*more)
        wanted = [self.answer(self.right, copy.deepcopy(case)) for case in cases.values()]
        answers, changed = [], False
        returned: set[str] = set()
        for case in cases.values():
            mine = copy.deepcopy(case)
            try:
                with attempt.limited(page or attempt.Page()):
                    answers.append(self.answer(attempt.watched(solution, returned), mine))
            except attempt.TooLong:
                zh, en = TOO_LONG
                return zh.format(attempt.SECONDS), en.format(attempt.SECONDS)
            changed = changed or not equal(alike, mine, case)
        if "..." in returned:
            return self.start
        if returned == {"None"}:
            return NOTHING[0] + self.start[0], f"{NOTHING[1]} {self.start[1]}"
        rows = zip(cases.items(), answers, wanted, strict=True)
        wrong = [row for row in rows if not equal(self.same, *row[1:])]
        if not wrong:
            return CHANGED if changed else None
        (name, case), given, right = wrong[0]
        for mistake in map(Mistake._make, self.mistakes):
            if self.answers_like(mistake.wrong, cases, answers):
                seen = {"case": case, "given": given, "wanted": right}
                return mistake.zh.format(**seen), mistake.en.format(**seen)
        return self.general(name, given, right, solution)

    def general(self, name: str, given, wanted, solution: Callable) -> tuple[str, str]:
        """The hint for the first wrong answer, to case ``name``, where no mistake is known."""
        if isinstance(given, Raised):
            zh, en = attempt.failure(given.error, solution)
        else:
            try:
                zh, en, form = difference(given, wanted) or of_values(given, wanted)
            except Exception:  # what cannot be compared
                zh, en, form = of_values(given, wanted)
            if form:
                return zh, en
            zh, en = zh + self.start[0], f"{en} {self.start[1]}"
        return (f"{name}：{zh}", f"{name}: {en}") if name else (zh, en)

    def named_cases(self, *more) -> dict[str, tuple]:
        """The arguments of each case under its name, in short the arguments themselves unless it has one."""
        cases = self.cases(*more) if callable(self.cases) else self.cases
        return cases if isinstance(cases, dict) else {", ".join(map(SHORT.repr, case)): case for case in cases}

    def answer(self, function: Callable, case: tuple):
        """What ``ask`` gets from a function, or the exception in a Raised."""
        try:
            return self.ask(function, *case)
        except (KeyboardInterrupt, attempt.TooLong):
            raise
        except BaseException as error:
            return Raised(error)

    def answers_like(self, function: Callable, cases: dict[str, tuple], answers: list) -> bool:
        """Whether the function gives these answers."""
        pairs = zip(cases.values(), answers, strict=True)
        return all(equal(self.same, given, self.answer(function, copy.deepcopy(case))) for case, given in pairs)


def equal(same: Callable, given, wanted) -> bool:
    """``same(given, wanted)``; for exceptions their type; what cannot be compared is not equal."""
    if isinstance(given, Raised) or isinstance(wanted, Raised):
        return alike(given, wanted)
    try:
        return bool(same(given, wanted))
    except Exception:
        return False
