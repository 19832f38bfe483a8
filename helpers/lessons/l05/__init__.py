"""Lesson 05: its exercises and its figures."""

from helpers.lessons.l05.exercises import ex1, ex2, ex3
from helpers.lessons.l05.figures import block_tables, candidates, timeline

__all__ = ["block_tables", "candidates", "ex1", "ex2", "ex3", "timeline"]
