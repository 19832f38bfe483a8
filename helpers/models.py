"""Which model the course runs on. Nothing here downloads.

`python -m helpers.models use VALUE` chooses the model of the lessons: it writes ``course.toml``.
"""

import argparse
import json
import os
import re
import reprlib
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT, CourseError, moved
from helpers.cache import hub_copies, is_hub_id
from helpers.checkpoint import Capabilities, Checkpoint, shortened
from helpers.files import read_text, replacing
from helpers.language import say

BUNDLED = ROOT / "assets" / "models"
SETTINGS = ROOT / "course.toml"
MODEL_VARIABLE, MOE_VARIABLE = "COURSE_MODEL", "COURSE_MOE_MODEL"
DEFAULTS = {MODEL_VARIABLE: "qwen3-tiny", MOE_VARIABLE: "qwen3-moe-tiny"}


@dataclass(frozen=True)
class Choice:
    """A checkpoint and where the choice came from: a variable, ``course.toml`` or ``the default``."""

    checkpoint: Checkpoint
    chosen_by: str

    @property
    def folder(self) -> Path:
        return self.checkpoint.folder


def course_model() -> Path:
    """Folder of the model that lessons 02 and 05-08 run on.

    ``COURSE_MODEL`` decides, else ``course.toml`` at the root, else the bundled tiny model. The value is a folder, the
    name of a bundled model or a hub id that is already on disk. Raises CourseError if there is no checkpoint.
    """
    return chosen(MODEL_VARIABLE).folder


def course_moe_model() -> Path:
    """Folder of the mixture-of-experts model of lesson 04; ``COURSE_MOE_MODEL`` as in :func:`course_model`.

    Raises CourseError if it is no Qwen3-MoE.
    """
    checkpoint = chosen(MOE_VARIABLE).checkpoint
    if (kind := checkpoint.config.get("model_type")) != "qwen3_moe":
        raise CourseError(
            f"第 04 课要一个 Qwen3-MoE，{checkpoint.name} 是 {kind}：把 {MOE_VARIABLE} 改成 qwen3-moe-tiny 或 "
            "Qwen/Qwen3-30B-A3B。",
            f"Lesson 04 needs a Qwen3-MoE, and {checkpoint.name} is {kind}: set {MOE_VARIABLE} to qwen3-moe-tiny or "
            "Qwen/Qwen3-30B-A3B.",
        )
    return checkpoint.folder


def chosen(variable: str) -> Choice:
    """The checkpoint that ``variable`` (``COURSE_MODEL`` or ``COURSE_MOE_MODEL``) resolves to, and why."""
    if value := os.environ.get(variable, "").strip():
        return Choice(find(value), variable)
    if value := _settings().get(variable.lower(), ""):
        if not isinstance(value, str):
            raise _bad_settings(f"{variable.lower()} = {value!r}"[:80])
        return Choice(find(value), SETTINGS.name)
    return Choice(find(DEFAULTS[variable]), "the default")


def resolve(model: "str | Path | Checkpoint | None" = None) -> Checkpoint:
    """The checkpoint that an argument means: what :func:`find` takes, or by default the course's model.

    Raises CourseError if there is none, or none that the course runs.
    """
    if model is None:
        return chosen(MODEL_VARIABLE).checkpoint
    if isinstance(model, Checkpoint):
        model.refuse_unsupported()
        return model
    return find(str(model))


def find_checkpoint(value: str) -> Path:
    """Folder of the checkpoint that :func:`find` finds."""
    return find(value).folder


def find(value: str) -> Checkpoint:
    """The checkpoint that a folder, a bundled name or a hub id means.

    Raises CourseError if it is not on disk, or only a part of it (:attr:`helpers.checkpoint.Checkpoint.broken`), or no
    model that the course runs (:meth:`helpers.checkpoint.Checkpoint.refuse_unsupported`).
    """
    if _names_bundled(value):
        return Checkpoint(BUNDLED / value)
    folder = Path(os.path.expanduser(value))
    if not os.path.isdir(folder):
        folder = ROOT / folder  # a notebook's kernel starts in its own folder, not at the root
    if os.path.isdir(folder):
        return _whole(Checkpoint(os.path.realpath(folder)))
    if is_hub_id(value):
        copies = hub_copies(value)
        if copies and not copies[0].broken:
            copies[0].refuse_unsupported()
            return copies[0]
        state = ("没有下载完整", "has not been downloaded completely") if copies else ("不在磁盘上", "is not on disk")
        raise CourseError(
            f"{value} {state[0]}：先运行 `python -m helpers.download {value}`，再试一次；课程自己不会下载。",
            f"{value} {state[1]}: run `python -m helpers.download {value}` and try again; nothing is downloaded "
            "behind your back.",
        )
    names = ", ".join(sorted(path.name for path in BUNDLED.glob("*/")))
    value = value if value.isprintable() and len(value) < 200 else reprlib.repr(value)
    raise CourseError(
        f"找不到模型 {value}：可以写文件夹、已下载的 id（如 Qwen/Qwen3-8B）或自带模型（{names}）。",
        f"No model {value}: name a folder, a downloaded id such as Qwen/Qwen3-8B, or a bundled model ({names}).",
    )


def _whole(checkpoint: Checkpoint) -> Checkpoint:
    folder = checkpoint.folder
    if not os.path.isfile(folder / "config.json"):
        raise CourseError(
            f"文件夹 {folder} 里没有 config.json，不是模型：请指向含有 config.json 的那一层。",
            f"Folder {folder} holds no config.json, so it is no model: name the folder that does.",
        )
    broken = checkpoint.broken
    if "config.json" not in broken:
        checkpoint.refuse_unsupported()  # first: what is missing of it is of no interest then
    if broken:
        raise CourseError(
            f"{folder} 里的模型不完整（{shortened(broken)}）：运行 "
            f"`python -m helpers.download 模型ID --folder {folder}` 补齐。",
            f"The model in {folder} is incomplete ({shortened(broken)}): run "
            f"`python -m helpers.download ID --folder {folder}` to complete it.",
        )
    return checkpoint


def _names_bundled(value: str) -> bool:
    return (BUNDLED / value).parent == BUNDLED and os.path.isfile(BUNDLED / value / "config.json")


def is_bundled(folder: str | Path | None = None) -> bool:
    """Whether ``folder`` (default: the course's model) is one of the tiny models that come with the course."""
    return Path(folder or course_model()).resolve().parent == BUNDLED


def describe(folder: str | Path | None = None, variable: str = MODEL_VARIABLE) -> str:
    """For a lesson's head, in the page's language: name, architecture, folder (short) and why this one."""
    choice = chosen(variable)
    checkpoint = choice.checkpoint if folder in (None, choice.folder) else Checkpoint(folder)
    folder, name = checkpoint.folder, checkpoint.name
    shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    why = choice.chosen_by if folder == choice.folder else "the call"
    zh_why = {"the default": "默认", "the call": "这次调用"}.get(why, why)
    architecture = checkpoint.architecture or checkpoint.config.get("model_type")
    return say(
        f"模型：{name}（{architecture}） | 文件夹：{shown} | 选择来自：{zh_why}",
        f"model: {name} ({architecture}) | folder: {shown} | chosen by: {why}",
    )


def _settings() -> dict:
    try:
        return tomllib.loads(read_text(SETTINGS))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise _bad_settings(error) from error


def _bad_settings(reason) -> CourseError:
    return CourseError(
        f"{SETTINGS.name} 写坏了（{reason}）：改正或删掉它，再重新选择模型（第 02 课的最后一格）。",
        f"{SETTINGS.name} cannot be read ({reason}): correct or delete it, then choose the model again, in lesson 02's "
        "last cell.",
    )


def use(value: str, variable: str = MODEL_VARIABLE) -> Path:
    """Choose the model of the lessons: writes ``course.toml`` and returns the folder that ``value`` means.

    A folder is written as an absolute path; whatever else the file holds stays. Raises CourseError, and writes nothing,
    if there is no such checkpoint, or if the file could not hold it.
    """
    folder = find_checkpoint(value)
    short = _names_bundled(value) or is_hub_id(value) and folder in [copy.folder for copy in hub_copies(value)]
    key, chosen_value = variable.lower(), value if short else str(folder)
    settings = _settings()
    text = _with_setting(read_text(SETTINGS) if SETTINGS.exists() else "", key, chosen_value)
    try:
        content = text.encode()
        right = tomllib.loads(text) == settings | {key: chosen_value}
    except (ValueError, RecursionError):  # a folder's name that is no UTF-8, or a value of several lines
        right = False
    if not right:
        raise CourseError(
            f"{SETTINGS.name} 写不下 {chosen_value!r}：给文件夹换一个普通的名字，或自己在 {SETTINGS.name} 里写 {key}。",
            f"{SETTINGS.name} cannot take {chosen_value!r}: give the folder a plain name, or write {key} into "
            f"{SETTINGS.name} yourself.",
        )
    with replacing(SETTINGS) as file:
        file.write(content)
    return folder


def _with_setting(text: str, key: str, value: str) -> str:
    """A TOML text with ``key`` set to ``value`` before its first table, and everything else as it was."""
    line = f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
    lines = text.rstrip("\n").split("\n") if text else []
    tables = [row for row, old in enumerate(lines) if old.lstrip().startswith("[")]
    own = [row for row, old in enumerate(lines[: tables[0] if tables else None]) if re.match(rf"\s*{key}\s*=", old)]
    if own:
        lines[own[0]] = line
    else:
        lines.insert(tables[0] if tables else len(lines), line)
    return "\n".join(lines) + "\n"


def read_config(folder: str | Path) -> dict:
    """The spelling of 0.1.0 for ``Checkpoint(folder).config``."""
    return Checkpoint(folder).config


def capabilities(folder: str | Path) -> Capabilities:
    """The spelling of 0.1.0 for ``Checkpoint(folder).capabilities``."""
    return Checkpoint(folder).capabilities


def broken_files(folder: str | Path) -> list[str]:
    """The spelling of 0.1.0 for ``Checkpoint(folder).broken``."""
    return Checkpoint(folder).broken


__getattr__ = moved.to("helpers.catalogue", "helpers.checkpoint", "helpers.cache", "helpers")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m helpers.models", description="The model that the lessons run on.")
    commands = parser.add_subparsers(dest="command")
    chooser = commands.add_parser("use", help="choose it: a folder, a downloaded id or a bundled model")
    chooser.add_argument("value")
    chooser.add_argument("--moe", action="store_true", help="the mixture-of-experts model of lesson 04")
    options = parser.parse_args(arguments)
    variable = MOE_VARIABLE if options.command and options.moe else MODEL_VARIABLE
    try:
        if options.command:
            use(options.value, variable)
        print(describe(variable=variable))
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
