"""Appendix A4: its exercises, its figures and its table of sizes; ``qk_norm`` is its experiment, which needs torch."""

from helpers.lessons.lA4.exercises import ex1, ex2
from helpers.lessons.lA4.figures import (
    before_and_after,
    logit_histograms,
    own_trainings,
    pace_of_pairs,
    recorded_trainings,
    vectors,
)
from helpers.lessons.lA4.sizes import DENSE, PUBLISHED, kv_caches, table_of_sizes

__all__ = [
    "DENSE", "PUBLISHED", "before_and_after", "ex1", "ex2", "kv_caches", "logit_histograms", "own_trainings",
    "pace_of_pairs", "recorded_trainings", "table_of_sizes", "vectors",
]  # fmt: skip
