"""Lesson 03: its exercises, its figures, and the learner's attention in a ready model."""

from helpers.language import say
from helpers.lessons.l03.exercises import ex1, ex2
from helpers.lessons.l03.figures import block, head_map, rotation
from helpers.lessons.l03.layers import join_heads, split_heads, with_attention

__all__ = [
    "block",
    "ex1",
    "ex2",
    "head_map",
    "join_heads",
    "rotation",
    "split_heads",
    "with_attention",
    "yours_or_ours",
]


def yours_or_ours(attention):
    """The learner's attention if exercise 2 is solved, else the right one; says which."""
    taken = ex2.yours_or_ours(attention)
    print(say("你的注意力", "your attention") if taken is attention else say("参考答案", "the reference answer"))
    return taken
