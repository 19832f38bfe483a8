"""The sentences that the tiny models were trained on, written by people; lessons 06 and A1 share them."""

import tomllib
from functools import cache
from pathlib import Path


@cache
def texts() -> dict:
    """``texts.toml`` as a dictionary."""
    return tomllib.loads(Path(__file__).with_name("texts.toml").read_text(encoding="utf-8"))
