"""Lesson 02: its exercises and the interruption that it rehearses."""

from helpers.lessons.l02.exercises import ex1, ex2, ex3
from helpers.lessons.l02.rehearsal import PausingHub, wait_for_half

__all__ = ["PausingHub", "ex1", "ex2", "ex3", "wait_for_half"]
