"""Lesson 03: its exercises; ``qk_norm`` is its experiment, which needs torch."""

from helpers.lessons.l03.exercises import ex1, ex2, ex3

__all__ = ["ex1", "ex2", "ex3"]
