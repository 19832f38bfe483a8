"""The tables' keys of a workshop, in build/workshop/keys.txt: one "table key" a line, and comments after a #."""

import os
import re
import secrets
import stat
import tempfile
from pathlib import Path

from helpers import ROOT, CourseError
from helpers.language import say

FOLDER = ROOT / "build" / "workshop"
KEYS = FOLDER / "keys.txt"
TABLE = re.compile(r"[\w.-]+", re.ASCII)
KEY = re.compile(r"[\w.~+/=-]+", re.ASCII)  # what may stand in a header


def read_keys(path: Path = KEYS) -> dict[str, str]:
    """Table -> key; empty where there is no file. Raises CourseError if the file is not one of keys."""
    keys: dict[str, str] = {}
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not (words := line.partition("#")[0].split()):
            continue
        try:
            if len(words) != 2:
                raise CourseError("要写“桌子 密钥”两个词", "it should be two words, table and key")
            check_key(*words)
            if words[0] in keys or words[1] in keys.values():
                raise CourseError("桌子或密钥重复了", "the table or the key stands above already")
        except CourseError as error:
            raise CourseError(f"{path} 第 {number} 行：{error.zh}。", f"{path}, line {number}: {error.en}.") from error
        keys[words[0]] = words[1]
    return keys


def check_key(table: str, key: str) -> None:
    """Raises CourseError, without the key in it, if a header or nginx's configuration cannot hold one of them."""
    if not TABLE.fullmatch(table):
        raise CourseError("桌子的名字只能用字母、数字和 ._-", "a table's name has letters, digits and ._- only")
    if not KEY.fullmatch(key):
        raise CourseError("密钥只能用字母、数字和 ._~+/=-", "a key has letters, digits and ._~+/=- only")


def make_keys(tables: int, path: Path = KEYS) -> dict[str, str]:
    """The keys of the file, with new ones for tables that have none; only this user can read the file."""
    if tables < 1:
        raise CourseError(f"桌数要是正整数，不是 {tables}。", f"The number of tables is positive, not {tables}.")
    text, keys = _read(path), read_keys(path)
    if text and stat.S_IMODE(path.stat().st_mode) & 0o077:
        print(
            say(
                f"{path} 之前别的用户也能读，现在只有你能读；如果有人读过，删掉它，换一批密钥。",
                f"{path} could be read by others, and no longer can; if one did, delete it to get new keys.",
            )
        )
    new = {name: secrets.token_urlsafe(12) for n in range(1, tables + 1) if (name := f"table-{n}") not in keys}
    lines = [
        text if not text or text.endswith("\n") else text + "\n",
        *(f"{name} {key}\n" for name, key in new.items()),
    ]
    write_private(path, "".join(lines))
    return keys | new


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, all at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
    except OSError as error:
        raise CourseError(
            f"{path} 写不了（{error.strerror}）。", f"{path} cannot be written ({error.strerror})."
        ) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise CourseError(
            f"{path} 读不了（{error.strerror}）。", f"{path} cannot be read ({error.strerror})."
        ) from error
    except UnicodeDecodeError as error:
        raise CourseError(
            f"{path} 不是 UTF-8 文本：用编辑器另存为 UTF-8，或删掉它，换一批密钥。",
            f"{path} is not UTF-8 text: save it as UTF-8 in your editor, or delete it to get new keys.",
        ) from error
