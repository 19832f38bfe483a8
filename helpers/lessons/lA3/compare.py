"""What appendix A3 shows: a learner's steps beside vLLM's, and how much of a reserved cache is used."""

from collections.abc import Callable

from helpers import attempt
from helpers.check import TOO_LONG
from helpers.design import LIGHT
from helpers.figures import figure
from helpers.language import say
from helpers.lessons.lA3.exercises_steps import step_in_words
from helpers.lessons.lA3.run import first_difference, recorded, run
from helpers.schedule_trace import ScheduleTrace


def beside(schedule: Callable, trace: ScheduleTrace) -> None:
    """Says which step of a scheduler is the first that is not vLLM's, and shows it: its own above, vLLM's below.

    Whatever the function does ends in a sentence, within five seconds.
    """
    from IPython.display import display

    from helpers.explorer import ScheduleExplorer

    try:
        with attempt.limited(attempt.Page()):
            mine = run(schedule, trace.settings, trace.requests)
    except attempt.TooLong:
        print(say(*(text.format(attempt.SECONDS) for text in TOO_LONG)))
        return
    except Exception as error:
        print(say(*attempt.failure(error, schedule)))
        return
    if mine is None:
        print(say("还没有写：函数返回的是 ...", "Not written yet: the function returns ..."))
        return
    theirs = recorded(trace)
    place = first_difference(mine.steps, theirs)
    if place is None and not mine.fault:
        print(say(f"{len(theirs)} 步，步步和 vLLM 相同。", f"{len(theirs)} steps, each of them vLLM's."))
        return
    zh, en = step_in_words(mine.steps, theirs, place)
    if mine.fault and place in (None, len(mine.steps)):
        zh, en = mine.fault
    print(say(zh, en[0].upper() + en[1:]))
    for shown in (mine.trace, trace):
        if shown and len(shown):
            last = len(shown) - 1
            display(ScheduleExplorer(shown, step=last if place is None else min(place, last)))


def yours_or_ours(name: str, exercise, solution: Callable, *more) -> Callable:
    """The learner's function if its exercise is solved, else the reference; prints which, behind the name."""
    taken = exercise.yours_or_ours(solution, *more)
    print(f"{name}:", say("你写的", "yours") if taken is solution else say("参考答案", "the reference answer"))
    return taken


def reserved(trace: ScheduleTrace, longest: int):
    """Positions of the cache in each step: used, in the blocks that are given out, and set aside at full length.

    longest: tokens that a contiguous cache sets aside for each request.
    """
    size, total = trace.settings.block_size, (trace.settings.num_blocks - 1) * trace.settings.block_size
    used, blocks, whole = [], [], []
    for step in trace.replay():
        used.append(sum(step.computed[request] + step.tokens.get(request, 0) for request in step.tables))
        blocks.append(sum(map(len, step.tables.values())) * size)
        whole.append(len(step.tables) * longest)
    drawn, ax = figure(height=3.0)
    steps = range(len(trace))
    ax.step(steps, whole, where="mid", color=LIGHT["second"], label=say(f"每个请求留 {longest}", f"{longest} for each"))
    ax.step(steps, blocks, where="mid", color=LIGHT["first"], label=say("领到的块", "blocks given out"))
    ax.fill_between(steps, used, step="mid", color=LIGHT["third"], alpha=0.5, label=say("装着词元", "tokens held"))
    ax.axhline(total, color=LIGHT["muted"], linestyle="--", linewidth=1.2)
    ax.text(0, total * 1.03, say(f"缓存一共 {total}", f"the cache has {total}"), va="bottom")
    ax.set(
        xlabel=say("步", "step"),
        ylabel=say("缓存里的位置", "positions of the cache"),
        ylim=(0, max(*whole, total) * 1.15),
    )
    ax.figure.legend(*ax.get_legend_handles_labels(), ncols=3, loc="outside lower left", frameon=False)
    return drawn
