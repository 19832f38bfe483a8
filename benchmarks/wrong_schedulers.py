"""Wrong schedulers of appendix A3: its solutions, each with one edit, written from the lesson's text.

Whoever wrote them knew the hints, so the share that gets a fitting one is an upper bound.
"""

import re
import time

from helpers import ROOT
from helpers.lessons import lA3
from tools.lessons.source import read_lesson

LESSON = ROOT / "notebooks" / "source" / "A3_mini_vllm.py"
START, RETURN, SPEND = "    step = {}\n", "    return step\n", "        budget -= tokens\n"
TAKE, CHUNK = "pool.grow(request, request.computed + tokens)", "tokens = min(request.known - request.computed, budget)"
STOP = "        if pool.blocks_for(request.known) > len(pool.free):\n            break\n"
NEW, GROW = "tokens = min(request.known, budget)", "pool.grow(request, tokens)"
FIRST, MOVE, LET_IN = "request = waiting[0]", "running.append(waiting.pop(0))", "while waiting and budget"
DONE, RELEASE, RESET = (
    "        if tokens == 0:\n            break\n",
    "            pool.release(last)\n",
    "last.computed = 0\n",
)
ITSELF, BACK = "            if last is request:\n                break\n", "            waiting.insert(0, last)\n"
WRONG = [  # exercise, edits: (old, new), what a fitting hint says
    ("ex3", [(TAKE, GROW)], "wants the total"),
    ("ex3", [(TAKE, "pool.grow(request, request.known + 1)")], "too early|not known"),
    ("ex3", [(SPEND, "")], "the budget is"),
    ("ex3", [(NEW, "tokens = request.known")], "the budget is"),
    ("ex3", [(CHUNK, "tokens = 1")], "not 1"),
    ("ex3", [(STOP, ""), (GROW, f"if not {GROW}:\n            break")], "whole prompt"),
    (
        "ex3",
        [(START, START + "    empty = not running\n"), (LET_IN, "while waiting and empty and budget")],
        "all are done",
    ),
    ("ex3", [("len(running) < settings", "len(running) <= settings")], "max_num_seqs is"),
    ("ex3", [(FIRST, "request = waiting[-1]"), ("waiting.pop(0)", "waiting.pop()")], "came last"),
    ("ex3", [(START, START + "    waiting.sort(key=lambda request: request.known)\n")], "shortest"),
    ("ex3", [(MOVE, "running.append(waiting[0])")], "times in waiting and running|asks for|never ends"),
    ("ex3", [(MOVE, "waiting.pop(0)")], "is not in running"),
    ("ex3", [("step[request] = tokens", "step[request.number] = tokens")], "request -> tokens"),
    ("ex3", [(RETURN, "")], "return missing"),
    ("ex3", [(RETURN, "        return step\n")], "return missing|no dictionary"),
    (
        "ex3",
        [(DONE, "        if request.to_write == 1:\n            pool.release(request)\n")],
        "given back or exchanged",
    ),
    ("ex3", [(LET_IN, "while waiting and not step and budget")], "only one comes in|all are done"),
    ("ex3", [(LET_IN, "while len(running) < 99:\n        pass\n    while waiting and budget")], "never ends"),
    ("ex3", [(NEW, NEW + "\n        if tokens < request.known:\n            break")], "in chunks"),
    ("ex3", [(LET_IN, "while waiting and budget > 5")], "computes|used up"),
    ("ex4", [("last = running.pop()", "last = running.pop(0)")], "last of running"),
    ("ex4", [(BACK, "            waiting.append(last)\n")], "front of waiting"),
    ("ex4", [("            " + RESET, "")], "computed goes to 0"),
    ("ex4", [(RELEASE, "")], "gives all blocks back|never ends"),
    ("ex4", [(RELEASE, RELEASE * 2)], "gives them back again"),
    ("ex4", [(BACK, "")], "0 times in waiting and running"),
    ("ex4", [("while not pool.grow", "if not pool.grow"), (ITSELF, "")], "where it returns False|is not in running"),
    ("ex4", [(ITSELF, "")], "gives them back again|pop from empty list|asks for|never ends|is not in running"),
]


def hints() -> list[str]:
    """Prints each hint that does not fit."""
    solutions = {cell.key[:3]: cell.text["en"] for cell in read_lesson(LESSON).cells if "solution" in cell.tags}
    fitting, longest = 0, 0.0
    for exercise, edits, wanted in WRONG:
        code = solutions[exercise].strip() + "\n"
        for old, new in edits:
            assert old in code, old
            code = code.replace(old, new)
        names: dict = {}
        exec(code, names)
        function = names["schedule_step" if exercise == "ex3" else "with_preemption"]
        start = time.perf_counter()
        hint = getattr(lA3, exercise).diagnose(function)
        longest = max(longest, time.perf_counter() - start)
        fits = hint is not None and re.search(wanted, hint[1]) is not None
        fitting += fits
        if not fits:
            print(exercise, edits, "\n   wanted:", wanted, "\n   hint:", hint and hint[1])
    number = len(WRONG)
    return [
        f"| wrong schedulers with a fitting hint | {fitting} of {number} | 70 % |",
        f"| the longest check | {longest:.1f} s | 5 s and little more |",
    ]
