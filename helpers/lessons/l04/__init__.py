"""Lesson 04: its exercises, its figures, what it counts in traces, and a model without one of its experts.

The captures of routing are found in helpers/routing.py too: they need numpy, and a room is imported cheaply.
"""

from helpers.lessons.l04.exercises import ex1, ex2, ex3, ex4
from helpers.lessons.l04.figures import (
    TOKENS_PER_ROW,
    association_bars,
    load_histograms,
    rise_without_expert,
    routing_map,
)
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
from helpers.lessons.l04.without_expert import expert_off, written_losses

__all__ = [
    "TOKENS_PER_ROW", "TOKEN_CLASSES", "agreement", "association_bars", "class_association",
    "coefficient_of_variation", "concatenate", "ex1", "ex2", "ex3", "ex4", "expert_off", "load_histograms",
    "never_used", "normalized_mutual_information", "rise_without_expert", "routing_map", "token_class",
    "written_losses",
]  # fmt: skip
