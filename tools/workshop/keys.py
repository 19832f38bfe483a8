"""The tables' keys of a workshop, in build/workshop/keys.txt: one "table key" a line."""

import secrets
from pathlib import Path

from helpers import ROOT

KEYS = ROOT / "build" / "workshop" / "keys.txt"


def read_keys(path: Path = KEYS) -> dict[str, str]:
    """Table -> key."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return dict(line.split() for line in lines if line.strip())


def make_keys(tables: int, path: Path = KEYS) -> dict[str, str]:
    """The keys of the file, with new ones for tables that have none; only this user can read the file."""
    keys = read_keys(path)
    for number in range(1, tables + 1):
        keys.setdefault(f"table-{number}", secrets.token_urlsafe(12))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text("".join(f"{table} {key}\n" for table, key in keys.items()), encoding="utf-8")
    return keys
