"""Where ModelScope's clients keep models on this machine."""

import itertools
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
    caches = [Path(os.path.expanduser(setting))] if setting else []
    if os.path.isdir(machine.AUTODL_DATA_DISK):  # pathlib raises where /root is closed to this user
        caches.append(machine.AUTODL_DATA_DISK)
    return [*caches, Path(os.path.expanduser("~/.cache/modelscope"))]


def hub_folders(model_id: str, revision: str = "master") -> list[Path]:
    """Where ModelScope clients, new (first) and old, keep ``owner/name``; the old ones kept no other revision."""
    return [cache / layout for cache in hub_caches() for layout in _layouts(model_id, revision)]


def _layouts(model_id: str, revision: str) -> list[Path]:
    layouts = [Path("models", model_id.replace("/", "--"), "snapshots", revision)]
    if revision == "master":
        old_name = model_id.replace(".", "___")  # clients up to 1.37
        tops = ("", "models", "hub", "hub/models")
        layouts += [Path(top, name) for top in tops for name in dict.fromkeys((model_id, old_name))]
    return layouts


def hub_copies(model_id: str, revision: str = "master") -> list[Checkpoint]:
    """Folders that hold files of ``owner/name``, complete copies first.

    Case does not count: an id is written ``qwen/...`` too, and fetching 16 GB again would be a poor answer to that.
    """
    folders: dict[Path, None] = {}  # in order, each once
    for cache, layout in itertools.product(hub_caches(), _layouts(model_id, revision)):
        folders |= dict.fromkeys(_in_any_case(cache, layout))
    copies = [Checkpoint(folder) for folder in folders if _entries(folder)]
    return sorted(copies, key=lambda copy: bool(copy.broken))


def _in_any_case(cache: Path, layout: Path) -> list[Path]:
    """Folders of the cache that are called so but for the case, the one of the very name first."""
    found = [cache]
    for name in layout.parts:
        spelled = [folder / entry for folder in found for entry in sorted(_entries(folder), key=lambda e: e != name)]
        found = [folder for folder in spelled if folder.name.lower() == name.lower()]
    return found


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []
