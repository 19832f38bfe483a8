"""Appendix A3: its exercises, what compares a learner's scheduler with vLLM's, and what both stand on."""

from helpers.lessons.lA3.compare import beside, reserved, yours_or_ours
from helpers.lessons.lA3.exercises_blocks import ex1, ex2
from helpers.lessons.lA3.exercises_steps import ex3, ex4
from helpers.lessons.lA3.run import run
from helpers.lessons.lA3.scheduler import Pool, Request, finish

__all__ = ["Pool", "Request", "beside", "ex1", "ex2", "ex3", "ex4", "finish", "reserved", "run", "yours_or_ours"]
