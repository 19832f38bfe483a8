"""Files that are read and written so that neither a damaged one nor a second writer does harm."""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

TEXT_LIMIT = 100_000_000  # bytes: the largest text file that is read, as the format of safetensors limits its headers


def parse_json(text: str | bytes) -> Any:
    """``json.loads``, which raises ValueError for JSON that is nested too deeply as well."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_text(file: str | Path) -> str:
    """The UTF-8 text of a regular file: a pipe or a device would be read for ever.

    Raises OSError, and ValueError if it is larger than :data:`TEXT_LIMIT` or no UTF-8.
    """
    size = os.stat(file).st_size
    if not os.path.isfile(file):
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    if size > TEXT_LIMIT:
        raise ValueError(f"it has {size} bytes")
    return Path(file).read_text(encoding="utf-8")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write in place of ``path``: it takes that name once all is written, and is removed if anything fails.

    Each writer has a file of its own, so of two at once the later one wins whole.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    try:
        with draft.open("xb") as file:
            yield file
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
