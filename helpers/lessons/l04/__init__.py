"""Lesson 04: its exercises and its figures; ``record`` records a conversation with a model."""

from helpers.language import say
from helpers.lessons.l04.exercises import ex1, ex2
from helpers.lessons.l04.figures import branches, three_steps

__all__ = ["branches", "ex1", "ex2", "three_steps", "yours_or_ours"]


def yours_or_ours(choose_experts, run_experts):
    """The learner's router and loop where their exercises are solved, else the right ones; says which."""
    taken = []
    for exercise, function, zh, en in ((ex1, choose_experts, "路由器", "router"), (ex2, run_experts, "循环", "loop")):
        taken.append(exercise.yours_or_ours(function))
        yours = taken[-1] is function
        print(say(f"{zh}：{'你的' if yours else '参考答案'}", f"{en}: {'yours' if yours else 'the reference answer'}"))
    return taken
