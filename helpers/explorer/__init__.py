"""The explorers: widgets whose logic is JavaScript, so that they also work in a saved page, offline."""

from helpers.explorer.memory import MemoryExplorer
from helpers.explorer.routing import RoutingExplorer
from helpers.explorer.sampling import SamplingExplorer

__all__ = ["MemoryExplorer", "RoutingExplorer", "SamplingExplorer"]
