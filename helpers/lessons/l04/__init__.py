"""Lesson 04: its exercises and its figures; ``record`` records a conversation with a model."""

from helpers.language import say
from helpers.lessons.l04.exercises import ex1, ex2
from helpers.lessons.l04.figures import branches, three_steps

__all__ = ["branches", "ex1", "ex2", "three_steps", "yours_or_ours"]


def yours_or_ours(choose_experts, run_experts):
    """The learner's router and loop where their exercises are solved, else the right ones; says which."""
    taken = []
    for exercise, function, zh, en in ((ex1, choose_experts, "路由器", "router"), (ex2, run_experts, "循环", "loop")):
        solved = exercise.diagnose(function) is None
        print(
            say(f"{zh}：{'你的' if solved else '参考答案'}", f"{en}: {'yours' if solved else 'the reference answer'}")
        )
        taken.append(function if solved else exercise.right)
    return taken
