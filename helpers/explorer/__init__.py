"""The explorers and the chat panel: widgets whose logic is JavaScript; an explorer also works in a saved page."""

from helpers.explorer.chat import ChatPanel
from helpers.explorer.memory import MemoryExplorer
from helpers.explorer.routing import RoutingExplorer
from helpers.explorer.sampling import SamplingExplorer
from helpers.explorer.schedule import ScheduleExplorer

__all__ = ["ChatPanel", "MemoryExplorer", "RoutingExplorer", "SamplingExplorer", "ScheduleExplorer"]
