"""The one engine of all exercises: it runs a learner's solution, and where that is wrong it names the mistake.

An exercise is data, see ``helpers/lessons``: ``right`` answers, ``cases`` ask, ``mistakes`` are wrong solutions with a
hint each. A solution that answers in every case as one of them does gets its hint; an exception is an answer, too.
"""

import contextlib
import copy
import functools
import io
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from helpers.difference import SHORT, Raised, alike, difference, of_values
from helpers.language import say

SECONDS = 5  # that a solution may take for a case
PRINTED = 300  # characters that are shown of what it prints
NOTHING = "函数什么也没有返回：最后要写 return。", "the function returns nothing: it needs a return."
CHANGED = "函数改动了传给它的数据：先复制一份，再改那一份。", "the function changes what it is given: change a copy."


class Mistake(NamedTuple):
    """A wrong solution and its hint, which may name ``{case}``, ``{given}``, ``{wanted}`` of the first wrong answer."""

    wrong: Callable
    zh: str
    en: str


class TooLong(BaseException):
    """No Exception, so that a solution's own ``except Exception`` lets it pass."""


@contextlib.contextmanager
def limit(seconds: float):
    """Raises TooLong in the block after this time. Only the main thread has such a timer; others have no limit."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number, frame):
        raise TooLong

    handler, start = signal.signal(signal.SIGALRM, stop), time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 0.1)  # again and again: a bare except may catch one
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - start), 1e-3), interval)


class Page(io.StringIO):
    """Keeps the first characters of what is printed."""

    def write(self, text: str) -> int:
        super().write(text[: max(0, PRINTED - self.tell())])
        return len(text)


def raised(error: BaseException, case: str, solution: Callable) -> tuple[str, str]:
    """The hint for an exception: what, in which case, and number and text of the line of the solution's cell."""
    what = traceback.format_exception_only(error)[-1].strip().splitlines()[0][:200]
    file = getattr(getattr(solution, "__code__", None), "co_filename", None)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    zh, en = (f"第 {own[-1].lineno} 行：{own[-1].line}", f"line {own[-1].lineno}: {own[-1].line}") if own else ("", "")
    return f"{case}：你的代码报错了，{what}。{zh}", f"{case}: your code raised {what}. {en}"


def watched(solution: Callable, returned: set[str]) -> Callable:
    """The solution; notes in ``returned`` whether it ever returns ``...``, alone or as a part, nothing, or a value."""

    @functools.wraps(solution)
    def watch(*arguments, **names):
        result = solution(*arguments, **names)
        parts = result if isinstance(result, list | tuple) else [result]
        returned.add("..." if any(part is ... for part in parts) else "None" if result is None else "value")
        return result

    return watch


def equal(same: Callable, given, wanted) -> bool:
    """``same(given, wanted)``, for exceptions their type; what cannot be compared is not equal."""
    if isinstance(given, Raised) or isinstance(wanted, Raised):
        return alike(given, wanted)
    try:
        return bool(same(given, wanted))
    except Exception:
        return False


@dataclass(frozen=True)
class Exercise:
    """A task that a function solves.

    right: a solution. cases: the arguments of each case, as a list of tuples, or a dictionary if they need names, or a
    function that makes them. start: the hint for a stub, in Chinese and English. mistakes: as ``Mistake``, the first
    that fits counts. same: whether two answers are alike. ask: what is to be compared of a solution in a case.
    """

    right: Callable
    cases: Sequence[tuple] | dict[str, tuple] | Callable
    start: tuple[str, str]
    mistakes: Sequence[tuple[Callable, str, str]] = ()
    same: Callable[[Any, Any], bool] = alike
    ask: Callable = lambda solution, *case: solution(*case)

    def check(self, solution: Callable, *more) -> None:
        """Prints whether it is solved, else a hint; raises nothing but KeyboardInterrupt. more: for ``cases``."""
        page = Page()
        hint = self.diagnose(solution, *more, page=page)
        if printed := page.getvalue().rstrip("\n"):
            print(printed + (" …" if page.tell() >= PRINTED else ""))
        zh, en = hint or ("", "")
        print(say(f"还没有解出来：{zh}", f"Not solved yet: {en}") if hint else say("解出来了！", "Solved!"))

    def diagnose(self, solution: Callable, *more, page: io.StringIO | None = None) -> tuple[str, str] | None:
        """None if solved, else the hint in Chinese and English. page: takes what the solution prints."""
        cases, returned, answers, changed = self.named_cases(*more), set(), [], False
        page = page or Page()
        wanted = [self.answer(self.right, copy.deepcopy(case)) for _, case in cases]
        for _, case in cases:
            mine = copy.deepcopy(case)
            try:
                with limit(SECONDS), contextlib.redirect_stdout(page), contextlib.redirect_stderr(page):
                    answers.append(self.answer(watched(solution, returned), mine))
            except TooLong:
                return (
                    f"{SECONDS} 秒还没有算完：是不是有停不下来的循环？",
                    f"it is not done after {SECONDS} seconds: is there a loop that never ends?",
                )
            changed = changed or not equal(alike, mine, case)
        if "..." in returned:
            return self.start
        if returned == {"None"}:
            return NOTHING[0] + self.start[0], f"{NOTHING[1]} {self.start[1]}"
        wrong = [n for n, pair in enumerate(zip(answers, wanted, strict=True)) if not equal(self.same, *pair)]
        if not wrong:
            return CHANGED if changed else None
        (name, case), given, right = cases[wrong[0]], answers[wrong[0]], wanted[wrong[0]]
        for mistake in self.mistakes:
            if self.answers_like(mistake[0], cases, answers):
                return tuple(text.format(case=case, given=given, wanted=right) for text in mistake[1:])
        if isinstance(given, Raised):
            return raised(given.error, name, solution)
        found = difference(given, right) or of_values(given, right)
        general = found.zh, found.en
        return general if found.form else (f"{name}：{found.zh}{self.start[0]}", f"{name}: {found.en} {self.start[1]}")

    def named_cases(self, *more) -> list[tuple[str, tuple]]:
        """Name and arguments of each case."""
        cases = self.cases(*more) if callable(self.cases) else self.cases
        if isinstance(cases, dict):
            return list(cases.items())
        return [(", ".join(map(SHORT.repr, case)), case) for case in cases]

    def answer(self, function: Callable, case: tuple):
        """What ``ask`` gets from a function, or the exception in a Raised."""
        try:
            return self.ask(function, *case)
        except (KeyboardInterrupt, TooLong):
            raise
        except BaseException as error:
            return Raised(error)

    def answers_like(self, function: Callable, cases: list[tuple[str, tuple]], answers: list) -> bool:
        """Whether the function gives these answers in all cases."""
        pairs = zip(cases, answers, strict=True)
        return all(equal(self.same, answer, self.answer(function, copy.deepcopy(case))) for (_, case), answer in pairs)
