"""Lesson 04: its exercises, its figures, what it counts in traces, and routing as vLLM shows it."""

from helpers.lessons.l04.exercises import ex1, ex2, ex3, ex4
from helpers.lessons.l04.figures import (
    TOKENS_PER_ROW,
    association_bars,
    load_histograms,
    rise_without_expert,
    routing_map,
)
from helpers.lessons.l04.losses import written_losses
from helpers.lessons.l04.statistics import (
    TOKEN_CLASSES,
    agreement,
    class_association,
    coefficient_of_variation,
    concatenate,
    never_used,
    normalized_mutual_information,
    token_class,
)

__all__ = [
    "TOKENS_PER_ROW", "TOKEN_CLASSES", "agreement", "association_bars", "class_association",
    "coefficient_of_variation", "concatenate", "ex1", "ex2", "ex3", "ex4", "load_histograms",
    "never_used", "normalized_mutual_information", "rise_without_expert", "routing_map", "token_class",
    "written_losses",
]  # fmt: skip
