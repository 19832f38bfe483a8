"""The tiny mixture of experts for a page to run: the script of its worker, and its files."""

import zlib
from pathlib import Path

from helpers import models
from helpers.explorer.page import plain_script

MODEL = models.BUNDLED / "qwen3-moe-tiny"
FILES = ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json")
ENGINE = ("errors", "tensors", "model", "tokenizer", "chat", "sample")


def worker() -> str:
    """The script of the worker in which the model runs; helpers/explorer/play/runner.js says what it takes."""
    return "\n".join(['"use strict";', plain_script(*ENGINE), plain_script("runner", folder="play")])


def described(contents: dict[str, bytes]) -> dict[str, dict[str, int]]:
    """Size and checksum of each file, by which the worker knows that it has it whole."""
    return {name: {"bytes": len(content), "crc32": zlib.crc32(content)} for name, content in contents.items()}


def read(model: Path = MODEL) -> dict[str, bytes]:
    """The model's files by name."""
    return {name: (model / name).read_bytes() for name in FILES}
