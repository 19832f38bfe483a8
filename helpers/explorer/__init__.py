"""The explorers and the chat panel: widgets of one JavaScript file each, which make no request of their own."""

from helpers.explorer.chat import ChatPanel
from helpers.explorer.routing import RoutingExplorer

__all__ = ["ChatPanel", "RoutingExplorer"]
