"""Lesson 07: its exercises and its figures."""

from helpers.language import say
from helpers.lessons.l07.exercises import ex1, ex2, ex3, read_stream, request
from helpers.lessons.l07.figures import arrivals, rivals

__all__ = ["arrivals", "ex1", "ex2", "ex3", "read_stream", "request", "rivals", "yours_or_ours"]


def yours_or_ours(solution):
    """The learner's read_stream where it is right, else the right one; says which."""
    taken = ex2.yours_or_ours(solution)
    print(say("你的：", "Yours:") if taken is solution else say("参考答案：", "The reference answer:"))
    return taken
