"""Where ModelScope's clients keep models on this machine."""

import os
import re
from pathlib import Path

from helpers import machine
from helpers.checkpoint import Checkpoint


def is_hub_id(value: str) -> bool:
    """Whether ``value`` has the form ``owner/name`` of a hub id."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", value, re.ASCII))


def hub_caches() -> list[Path]:
    """ModelScope's caches on this machine, the one for new downloads first.

    The cache setting, then AutoDL's data disk (its system disk is too small for models), then the client's default.
    """
    setting = os.environ.get("MODELSCOPE_CACHE")
    caches = [Path(setting).expanduser()] if setting else []
    if os.path.isdir(machine.AUTODL_DATA_DISK):  # pathlib raises where /root is closed to this user
        caches.append(machine.AUTODL_DATA_DISK)
    return [*caches, Path.home() / ".cache/modelscope"]


def hub_folders(model_id: str, revision: str = "master") -> list[Path]:
    """Where ModelScope clients, new (first) and old, keep ``owner/name``; the old ones kept no other revision."""
    layouts = [Path("models", model_id.replace("/", "--"), "snapshots", revision)]
    if revision == "master":
        old_name = model_id.replace(".", "___")  # clients up to 1.37
        tops = ("", "models", "hub", "hub/models")
        layouts += [Path(top, name) for top in tops for name in dict.fromkeys((model_id, old_name))]
    return [cache / layout for cache in hub_caches() for layout in layouts]


def hub_copies(model_id: str, revision: str = "master") -> list[Checkpoint]:
    """Folders that hold files of ``owner/name``, complete copies first."""

    def filled(folder: Path) -> bool:
        try:
            return bool(os.listdir(folder))
        except OSError:
            return False

    copies = [Checkpoint(folder) for folder in hub_folders(model_id, revision) if filled(folder)]
    return sorted(copies, key=lambda copy: bool(copy.broken))
