"""A checkpoint: a folder in Hugging Face's layout, of which each file is read once and kept.

checkpoint = Checkpoint(folder)
checkpoint.config["model_type"], checkpoint.capabilities.thinking, checkpoint.stored_bytes
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from helpers import CourseError, catalogue

LISTING = ".course-files.json"  # what the hub listed, written by helpers/download.py
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
HEADER_LIMIT = 100_000_000  # bytes, the format's limit


@dataclass(frozen=True)
class Capabilities:
    """What a checkpoint can do.

    thinking: "switch" (``enable_thinking``, as in Qwen3), "always" (the template opens the think block, as in 2507
    Thinking) or "never" (2507 Instruct, Qwen2.5). quantised: the method ("fp8", "awq", ...) or None. context: tokens.
    """

    thinking: str
    moe: bool
    quantised: str | None
    context: int


class Shard(NamedTuple):
    """A safetensors file: tensor name -> dtype, shape and data_offsets, and whether it ends where its last one does."""

    tensors: dict[str, dict]
    whole: bool


class Checkpoint:
    """The model in ``folder``. A file that changes later takes a new Checkpoint.

    What cannot be read raises CourseError when it is asked for; :attr:`broken` names such files without an error.
    """

    def __init__(self, folder: "str | Path | Checkpoint"):
        self.folder: Path = folder.folder if isinstance(folder, Checkpoint) else Path(folder)

    @classmethod
    def of(cls, model: "str | Path | Checkpoint") -> "Checkpoint":
        """``model`` itself if it is one, with what it has read, else the checkpoint in that folder."""
        return model if isinstance(model, cls) else cls(model)

    @property
    def name(self) -> str:
        """The folder's name, or in a hub's cache (``.../Qwen--Qwen3-8B/snapshots/master``) that of the hub's id."""
        owner = self.folder.parent
        return owner.parent.name.split("--")[-1] if owner.name == "snapshots" else self.folder.name

    @cached_property
    def config(self) -> dict:
        """``config.json``."""
        return read_json(self.folder / "config.json")

    @cached_property
    def generation_config(self) -> dict:
        """``generation_config.json``, empty where there is none."""
        file = self.folder / "generation_config.json"
        return read_json(file) if file.exists() else {}

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer, empty where neither configuration names one."""
        ids = (self.config | self.generation_config).get("eos_token_id")
        return () if ids is None else tuple(ids) if isinstance(ids, list) else (ids,)

    @cached_property
    def chat_template(self) -> str | None:
        """Text of the chat template: a file of its own, or in older models a field of tokenizer_config.json."""
        try:
            if (template := self.folder / "chat_template.jinja").is_file():
                return template.read_text(encoding="utf-8")
            settings = (self.folder / "tokenizer_config.json").read_text(encoding="utf-8")
            return json.loads(settings).get("chat_template")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise CourseError(
                f"读不了 {self.folder} 的对话模板（{error}）：下载可能没有完成，请重新下载。",
                f"Cannot read the chat template of {self.folder} ({error}): the download may be incomplete, "
                "fetch it again.",
            ) from error

    @cached_property
    def capabilities(self) -> Capabilities:
        """What it can do, from its config and from what its chat template really writes."""
        thinking = "never"
        if self.chat_template:
            on, off = (render(self.chat_template, enable_thinking=value) for value in (True, False))
            thinking = "switch" if on != off else "always" if on.rstrip().endswith("<think>") else "never"
        quantised = (self.config.get("quantization_config") or {}).get("quant_method")
        moe = catalogue.num_experts(self.config) > 0
        return Capabilities(thinking, moe, quantised, self.config["max_position_embeddings"])

    @cached_property
    def stored_bytes(self) -> int:
        """Bytes of the weight files."""
        return sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))

    @cached_property
    def shards(self) -> dict[str, Shard | None]:
        """The weight files by name, those of the index and none but these where there is one; None is unreadable."""
        if self.weight_map is None:
            names = {path.name for path in self.folder.glob("*.safetensors")}
        else:
            names = set(self.weight_map.values())
        names = names or {"model.safetensors"}
        return {name: _read_shard(self.folder / name) for name in sorted(names)}

    @cached_property
    def weight_map(self) -> dict[str, str] | None:
        """Tensor -> weight file, from the index of a model in several files; None without one, empty if unreadable."""
        index = self.folder / "model.safetensors.index.json"
        if not index.is_file():
            return None
        try:
            return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        except (OSError, ValueError, LookupError, TypeError):
            return {}

    @cached_property
    def listing(self) -> dict[str, list]:
        """What the hub listed for a folder that it filled: path -> [bytes, sha256 or None]; else empty."""
        try:
            return json.loads((self.folder / LISTING).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    @cached_property
    def broken(self) -> list[str]:
        """Files that are missing, cut short or unreadable; none if it is complete.

        Reads sizes, safetensors headers and the shard index, not the weights: a wrong byte inside them takes
        :func:`helpers.download.verify`. Source: https://huggingface.co/docs/safetensors (8 bytes with the length of a
        JSON header, the header, the tensors at ``data_offsets``).
        """
        broken = {path for path, (size, _) in self.listing.items() if not _has_size(self.folder / path, size)}
        broken |= {str(part.relative_to(self.folder).with_suffix("")) for part in self.folder.rglob("*.incomplete")}
        if not any((self.folder / name).is_file() for name in TOKENIZERS):
            broken.add(TOKENIZERS[0])
        try:
            self.config  # noqa: B018 - read to see whether it can be
        except CourseError:
            broken.add("config.json")
        if self.weight_map == {}:
            broken.add("model.safetensors.index.json")
        expected: dict[str, set] = {}
        for tensor, name in (self.weight_map or {}).items():
            expected.setdefault(name, set()).add(tensor)
        for name, shard in self.shards.items():
            if shard is None or not shard.whole or expected.get(name, set()) - set(shard.tensors):
                broken.add(name)
        return sorted(broken)


def read_json(file: Path) -> dict:
    """A JSON object. Raises CourseError if the file is missing or holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise damaged(f"找不到 {file}", f"{file} does not exist") from None
    except OSError as error:
        raise damaged(f"读不了 {file}（{error}）", f"{file} cannot be read ({error})") from None
    except ValueError as error:
        raise damaged(f"{file} 不是有效的 JSON（{error}）", f"{file} is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise damaged(f"{file} 里不是 JSON 对象", f"{file} holds no JSON object")
    return content


def damaged(zh: str, en: str) -> CourseError:
    """The error for a checkpoint that is not whole: what is wrong, and the remedy."""
    return CourseError(
        f"{zh}：请检查文件夹，或重新下载这个模型（第 02 课）。",
        f"{en}: check the folder, or download the model again (lesson 02).",
    )


def read_header(file: str | Path) -> tuple[dict, int]:
    """Tensors of a safetensors file, name -> dtype, shape and data_offsets; and where their bytes begin.

    Raises OSError or ValueError if it is none.
    """
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > HEADER_LIMIT:
            raise ValueError(f"{file} is no safetensors file")
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _read_shard(file: Path) -> Shard | None:
    try:
        tensors, start = read_header(file)
        end = start + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        return Shard(tensors, file.stat().st_size == end)
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return None


def _has_size(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def render(template: str, **variables) -> str:
    """The prompt that a chat template makes of one user message, in jinja2's sandbox as transformers does it."""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    messages = [{"role": "user", "content": "?"}]
    try:
        return environment.from_string(template).render(messages=messages, add_generation_prompt=True, **variables)
    except TemplateError as error:
        raise CourseError(
            f"对话模板无法使用（{error}）：请重新下载模型。",
            f"The chat template does not work ({error}): fetch the model again.",
        ) from error


def shortened(names: list[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
