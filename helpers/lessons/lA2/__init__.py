"""Appendix A2: its exercises, its figures, what it counts in traces, and routing as vLLM shows it."""

from helpers.lessons.lA2.exercises import ex1, ex2
from helpers.lessons.lA2.figures import (
    association_bars,
    balance_figure,
    calls,
    load_histograms,
    rise_without_expert,
    use_against_rise,
)
from helpers.lessons.lA2.figures_map import TOKENS_PER_ROW, routing_map, window
from helpers.lessons.lA2.losses import written_losses
from helpers.lessons.lA2.sizes import CONFIGS, table_of_sizes
from helpers.lessons.lA2.statistics import (
    TOKEN_CLASSES,
    agreement,
    class_association,
    coefficient_of_variation,
    concatenate,
    largest,
    never_used,
    normalized_mutual_information,
    shares,
    token_class,
)
from helpers.lessons.lA2.switched_off import (
    experts_to_try,
    print_harm,
    print_use,
    print_worst,
    who_predicted,
    written_classes,
)

__all__ = [
    "CONFIGS", "TOKENS_PER_ROW", "TOKEN_CLASSES", "agreement", "association_bars", "balance_figure", "calls",
    "class_association", "coefficient_of_variation", "concatenate", "ex1", "ex2", "experts_to_try", "largest",
    "load_histograms", "never_used", "normalized_mutual_information", "print_harm", "print_use", "print_worst",
    "rise_without_expert", "routing_map", "shares", "table_of_sizes", "token_class", "use_against_rise",
    "who_predicted", "window", "written_classes", "written_losses",
]  # fmt: skip
