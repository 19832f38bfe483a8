"""Lesson A1: its exercises, its figure, and how the tiny models were made: samples, tokenizer, recipe."""

from helpers.lessons.arithmetic import draw_problem, held_out, think_chain
from helpers.lessons.lA1.exercises import ex1, ex2, ex3
from helpers.lessons.lA1.figures import token_strips
from helpers.lessons.lA1.mix import SPECIAL, draw
from helpers.lessons.lA1.problems import arithmetic
from helpers.lessons.lA1.samples import Sample, user
from helpers.lessons.lA1.sentences import honest
from helpers.lessons.lA1.tokenizer import build_tokenizer

__all__ = [
    "SPECIAL", "Sample", "arithmetic", "build_tokenizer", "draw", "draw_problem", "ex1", "ex2", "ex3",
    "held_out", "honest", "think_chain", "token_strips", "user",
]  # fmt: skip
