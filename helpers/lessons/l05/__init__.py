"""Lesson 05: its exercises, its figures and what it tries out."""

from helpers.lessons.l05.batch import ex3
from helpers.lessons.l05.exercises import ex1, ex2
from helpers.lessons.l05.figures import block_tables, candidates, confidence, speeds, timeline
from helpers.lessons.l05.trials import outcome, questions

__all__ = [
    "block_tables", "candidates", "confidence", "ex1", "ex2", "ex3", "outcome", "questions", "speeds", "timeline",
]  # fmt: skip
