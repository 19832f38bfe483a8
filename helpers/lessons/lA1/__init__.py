"""Lesson A1: its exercises, its figures, and how the tiny models were made: samples, tokenizer, recipe."""

from helpers.lessons.arithmetic import draw_problem, held_out, think_chain
from helpers.lessons.lA1.exercises import ex1, ex2, ex3
from helpers.lessons.lA1.figures import token_strips
from helpers.lessons.lA1.mix import draw
from helpers.lessons.lA1.problems import arithmetic
from helpers.lessons.lA1.samples import Sample, user
from helpers.lessons.lA1.sentences import capital, course_question, honest
from helpers.lessons.lA1.shown import (
    encode_as,
    held_out_map,
    inventory,
    kind_of,
    live_curves,
    load_curves,
    loss_and_rate,
)
from helpers.lessons.lA1.tokenizer import build_tokenizer

__all__ = [
    "Sample", "arithmetic", "build_tokenizer", "capital", "course_question", "draw", "draw_problem", "encode_as", "ex1",
    "ex2", "ex3", "held_out", "held_out_map", "honest", "inventory", "kind_of", "live_curves", "load_curves",
    "loss_and_rate", "think_chain", "token_strips", "user",
]  # fmt: skip
