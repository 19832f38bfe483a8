"""The explorers: widgets whose logic is JavaScript alone, so that they also work in a saved page, offline."""

from helpers.explorer.memory import MemoryExplorer
from helpers.explorer.routing import RoutingExplorer

__all__ = ["MemoryExplorer", "RoutingExplorer"]
