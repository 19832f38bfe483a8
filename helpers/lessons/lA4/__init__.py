"""Appendix A4: its exercises; ``qk_norm`` is its experiment, which needs torch."""

from helpers.lessons.lA4.exercises import ex1, ex2

__all__ = ["ex1", "ex2"]
