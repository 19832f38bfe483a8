"""The figures under the names that notebooks of 0.1.0 call: ``plots.routing_map(trace)``.

Today helpers/figures.py has their style, and each drawing is in the room of its lesson or beside its explorer.
"""

import importlib

MOVED = {
    "EXPERT_COLOURS": "figures.EXPERT_COLOURS",
    "TOKENS_PER_ROW": "lessons.lA2.TOKENS_PER_ROW",
    "association": "lessons.lA2.association_bars",
    "block_tables": "lessons.l05.block_tables",
    "expert_load": "lessons.lA2.load_histograms",
    "figure": "figures.figure",
    "gpu_memory": "explorer.memory.gpu_memory",
    "printable": "figures.printable",
    "rise_without_expert": "lessons.lA2.rise_without_expert",
    "routing_map": "lessons.lA2.routing_map",
    "timeline": "lessons.l05.timeline",
}


def __getattr__(name: str):
    if name not in MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, today = MOVED[name].rpartition(".")
    return getattr(importlib.import_module(f"helpers.{module}"), today)
