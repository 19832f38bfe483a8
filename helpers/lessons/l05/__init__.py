"""Lesson 05: its exercises and its figures."""

from helpers.lessons.l05.exercises import ex1, ex2
from helpers.lessons.l05.figures import block_tables, timeline

__all__ = ["block_tables", "ex1", "ex2", "timeline"]
