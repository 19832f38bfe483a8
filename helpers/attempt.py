"""A learner's attempt at an exercise: it may run for ever, print without end, return nothing or raise."""

import contextlib
import functools
import inspect
import io
import signal
import threading
import time
import traceback
from collections.abc import Callable

SECONDS = 5  # that it may take, half of them of a processor: a busy machine gives it less in that time, and more then
MOST = 6  # times as long it may take where it gets so little, or waits
PRINTED = 300  # characters that are kept of what it prints


class TooLong(BaseException):
    """No Exception, so that an ``except Exception`` in the attempt lets it pass."""


class Page(io.StringIO):
    """Keeps the first characters of what is printed."""

    def write(self, text: str) -> int:
        super().write(text[: max(0, PRINTED - self.tell())])
        return len(text)

    def text(self) -> str:
        return self.getvalue().rstrip("\n") + (" …" if self.tell() >= PRINTED else "")


@contextlib.contextmanager
def limited(page: Page):
    """Takes down what the block prints, and raises TooLong in it when its time is up.

    Only the main thread can be interrupted; in another one the time is not limited.
    """
    with contextlib.redirect_stdout(page), contextlib.redirect_stderr(page):
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
            yield
            return

        def stop(number, frame):
            if time.process_time() - used > SECONDS / 2 or time.monotonic() - start > MOST * SECONDS:
                raise TooLong

        start, used = time.monotonic(), time.process_time()
        handler = signal.signal(signal.SIGALRM, stop)
        left, interval = signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)  # once a second: a bare except may catch one
        try:
            try:
                yield
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        finally:  # also if the alarm rang just before this timer was off
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)
            if left:  # of somebody else's timer
                signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - start), 1e-3), interval)


def watched(solution: Callable, returned: set[str]) -> Callable:
    """The solution; ``returned`` is told whether it gives ``...``, alone or as a part, ``None`` or a ``value``."""

    @functools.wraps(solution)
    def watch(*arguments, **names):
        try:
            result = solution(*arguments, **names)
        except BaseException:
            returned.add("raised")
            raise
        parts = result if isinstance(result, list | tuple) else [result]
        returned.add("..." if any(part is ... for part in parts) else "None" if result is None else "value")
        return result

    return watch


def failure(error: BaseException, solution: Callable) -> tuple[str, str]:
    """What was raised, and in which line of the solution's cell, in Chinese and in English."""
    lines = traceback.format_exception_only(error)
    what = next((line for line in lines if not line.startswith(" ")), lines[0]).splitlines()[0][:200]
    file = getattr(getattr(inspect.unwrap(solution), "__code__", None), "co_filename", None)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if not own:
        return f"你的代码报错了，{what}", f"your code raised {what}"
    number, line = own[-1].lineno, own[-1].line or "…"
    return f"你的代码报错了，{what}（第 {number} 行：{line}）", f"your code raised {what} (line {number}: {line})"
