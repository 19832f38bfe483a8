"""A checkpoint: a folder in Hugging Face's layout, of which each file is read once and kept.

checkpoint = Checkpoint(folder)
checkpoint.config["model_type"], checkpoint.capabilities.thinking, checkpoint.stored_bytes
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from helpers import CourseError, catalogue
from helpers.config import number, part, refuse_other_families, text_config, wrong
from helpers.files import TEXT_LIMIT, parse_json, read_text

LISTING = ".course-files.json"  # what the hub listed, written by helpers/download.py
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
READ_AS = {  # files that are read whole: one that is there has to be readable
    "config.json": "config",
    "generation_config.json": "generation_config",
    "tokenizer_config.json": "tokenizer_config",
    "chat_template.jinja": "chat_template",
}
RENDER_SECONDS = 30  # of the clock, for a machine on which helpers/_render.py cannot limit its own computing time


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


class Checkpoint:
    """The model in ``folder``. A file that changes later takes a new Checkpoint.

    What cannot be read raises CourseError when it is asked for; :attr:`broken` names such files without an error.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @classmethod
    def of(cls, model: "str | Path | Checkpoint") -> "Checkpoint":
        """``model`` itself if it is one, with what it has read, else the checkpoint in that folder."""
        return model if isinstance(model, Checkpoint) else cls(model)

    @property
    def name(self) -> str:
        """The folder's name, or in a hub's cache (``.../Qwen--Qwen3-8B/snapshots/master``) that of the hub's id.

        Older clients wrote a dot of the id as three underscores.
        """
        owner = self.folder.parent
        name = owner.parent.name.split("--")[-1] if owner.name == "snapshots" else self.folder.name
        return name.replace("___", ".")

    @cached_property
    def config(self) -> dict:
        """``config.json``."""
        return read_json(self.folder / "config.json")

    @cached_property
    def generation_config(self) -> dict:
        """``generation_config.json``, empty where there is none."""
        file = self.folder / "generation_config.json"
        return read_json(file) if os.path.lexists(file) else {}

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer, empty where neither configuration names one."""
        both = text_config(self.config) | self.config | self.generation_config
        ids = both.get("eos_token_id")
        ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
        if any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in ids):
            raise wrong(both, "eos_token_id", "词元编号或它们的列表", "the number of a token or a list of them")
        return tuple(ids)

    @cached_property
    def architecture(self) -> str | None:
        """The class that the checkpoint names for itself, such as ``Qwen3ForCausalLM``; None where it names none."""
        names = self.config.get("architectures") or [None]
        if not isinstance(names, list) or not isinstance(names[0], str | None):
            raise wrong(self.config, "architectures", "名称的列表", "a list of names")
        return names[0]

    def refuse_unsupported(self) -> None:
        """Raises CourseError, which names it as what it is, unless this is a language model that the course runs.

        :func:`helpers.config.refuse_other_families` judges the family; an embedding model has a family that the course
        runs, and no way to write text.
        """
        refuse_other_families(self.config, self.name)
        stored = {name for tensors in self.shards.values() for name in tensors or ()}
        what = None
        if self.architecture and not self.architecture.endswith("ForCausalLM"):
            what = self.architecture, self.architecture
        elif os.path.lexists(self.folder / "modules.json") or "embed_tokens.weight" in stored:
            what = "向量（embedding）或排序模型", "an embedding or reranking model"
        if what:
            raise CourseError(
                f"{self.name} 是{what[0]}，不会写文字：请换成对话模型，例如 Qwen/Qwen3-8B。",
                f"{self.name} is {what[1]} and writes no text: take a chat model, such as Qwen/Qwen3-8B.",
            )

    @cached_property
    def chat_template(self) -> str | None:
        """Text of the chat template: a file of its own, or in older models a field of tokenizer_config.json."""
        file = self.folder / "chat_template.jinja"
        if os.path.lexists(file):
            try:
                return read_text(file)
            except (OSError, ValueError) as error:
                raise damaged(f"读不了 {file}（{error}）", f"{file} cannot be read ({error})") from error
        template = self.tokenizer_config.get("chat_template")
        if isinstance(template, list):  # several by name
            named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
            template = named.get("default")
        if template is not None and not isinstance(template, str):
            raise damaged(
                f"{self.folder}/tokenizer_config.json 里的 chat_template 不是文字",
                f"chat_template in {self.folder}/tokenizer_config.json is no text",
            )
        return template

    @cached_property
    def tokenizer_config(self) -> dict:
        """``tokenizer_config.json``, empty where there is none."""
        file = self.folder / "tokenizer_config.json"
        return read_json(file) if os.path.lexists(file) else {}

    @cached_property
    def _special_tokens(self) -> dict[str, str]:
        """Tokens that templates may name, such as ``eos_token``: text, or an object whose ``content`` is the text."""
        found = {}
        for key, value in self.tokenizer_config.items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                found[key] = text
        return found

    @cached_property
    def thinking(self) -> str:
        """The thinking of :class:`Capabilities`, seen from what the template writes with and without it."""
        if not self.chat_template:
            return "never"
        prompts = render(self.chat_template, *(self._special_tokens | {"enable_thinking": on} for on in (True, False)))
        working = [prompt for prompt in prompts if isinstance(prompt, str)]  # some refuse one of the two
        if not working:
            raise CourseError(
                f"{self.name} 的对话模板无法使用（{prompts[0]}）：请用模型页面上的对话模板替换它。",
                f"The chat template of {self.name} does not work ({prompts[0]}): put the one of the model's page in "
                "its place.",
            )
        if len(set(working)) == 2:
            return "switch"
        return "always" if working[0].rstrip().endswith("<think>") else "never"

    @cached_property
    def capabilities(self) -> Capabilities:
        """What it can do, from its config and from what its chat template really writes."""
        method = part(self.config, "quantization_config").get("quant_method")
        context = number(text_config(self.config), "max_position_embeddings")
        return Capabilities(self.thinking, catalogue.num_experts(self.config) > 0, method, context)

    @cached_property
    def stored_bytes(self) -> int:
        """Bytes of the weight files."""
        files = [self.folder / name for name in self.shards]
        return sum(file.stat().st_size for file in files if os.path.isfile(file))

    @cached_property
    def shards(self) -> dict[str, dict[str, dict] | None]:
        """The header of each weight file by its name, those of the index and none but these where there is one.

        A header: tensor name -> dtype, shape and data_offsets. None for a file that is missing, cut short or wrong.
        """
        if self.weight_map is None:
            found = self.folder.glob("*.safetensors")
            names = {path.name for path in found if not path.name.startswith(".")}  # not what a Mac puts beside them
        else:
            names = set(self.weight_map.values())
        names = names or {"model.safetensors"}
        return {name: _read_shard(self.folder / name) for name in sorted(names)}

    @cached_property
    def weight_map(self) -> dict[str, str] | None:
        """Tensor -> weight file, from the index of a model in several files; None without one, empty if unreadable."""
        index = self.folder / "model.safetensors.index.json"
        if not os.path.lexists(index):
            return None
        try:
            found = read_json(index).get("weight_map")
        except CourseError:
            return {}
        is_map = isinstance(found, dict) and all(isinstance(name, str) and is_inside(name) for name in found.values())
        return found if is_map else {}

    @cached_property
    def listing(self) -> dict[str, list]:
        """What the hub listed for a folder that it filled: path -> [bytes, sha256 or None]; else empty."""
        try:
            found = read_json(self.folder / LISTING)
        except CourseError:
            return {}
        return found if all(_is_listed(path, entry) for path, entry in found.items()) else {}

    @cached_property
    def broken(self) -> list[str]:
        """Files that are missing, cut short or unreadable; none if it is complete.

        Reads sizes, safetensors headers and the shard index, not the weights: a wrong byte inside them takes
        :func:`helpers.download.verify`. Source: https://huggingface.co/docs/safetensors (8 bytes with the length of a
        JSON header, the header, the tensors at ``data_offsets``).
        """
        broken = {path for path, (size, _) in self.listing.items() if not _has_size(self.folder / path, size)}
        broken |= self._begun()
        if not any(os.path.isfile(self.folder / name) for name in TOKENIZERS):
            broken.add(TOKENIZERS[0])
        for name, read in READ_AS.items():
            try:
                getattr(self, read)
            except CourseError:
                broken.add(name)
        if self.weight_map == {}:
            broken.add("model.safetensors.index.json")
        expected: dict[str, set] = {}
        for tensor, name in (self.weight_map or {}).items():
            expected.setdefault(name, set()).add(tensor)
        for name, tensors in self.shards.items():
            if tensors is None or expected.get(name, set()) - set(tensors):
                broken.add(name)
        return sorted(broken)

    def _begun(self) -> set[str]:
        """Files of which a client left only a beginning. Those in hidden folders are its own: it keeps them there."""
        begun = set()
        for found in self.folder.rglob("*.incomplete"):
            file = found.relative_to(self.folder).with_suffix("")
            hidden = any(name.startswith(".") for name in file.parts)
            if not hidden and not os.path.isfile(self.folder / file):
                begun.add(str(file))
        return begun


def read_json(file: Path) -> dict:
    """A JSON object. Raises CourseError if the file is missing or holds something else."""
    try:
        content = parse_json(read_text(file))
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
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{file} is no file")
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > min(TEXT_LIMIT, os.path.getsize(file) - 8):
            raise ValueError(f"{file} is no safetensors file")
        header = parse_json(opened.read(length))
    if not isinstance(header, dict):
        raise ValueError(f"{file} is no safetensors file")
    header.pop("__metadata__", None)
    if not all(_is_tensor(entry) for entry in header.values()):
        raise ValueError(f"{file} has a header that makes no sense")
    return header, 8 + length


def _is_tensor(entry) -> bool:
    """Whether a header's entry has the form {dtype, shape, data_offsets}."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets") or []
    return _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _read_shard(file: Path) -> dict[str, dict] | None:
    try:
        tensors, start = read_header(file)
        end = start + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        return tensors if file.stat().st_size == end else None
    except (OSError, ValueError):
        return None


def _has_size(file: Path, size: int) -> bool:
    return os.path.isfile(file) and os.path.getsize(file) == size


def _is_listed(path: str, entry) -> bool:
    """Whether this is an entry of :attr:`Checkpoint.listing`."""
    if not isinstance(entry, list) or len(entry) != 2 or not is_inside(path):
        return False
    size, sum_ = entry
    return type(size) is int and size >= 0 and isinstance(sum_, str | None)


def is_inside(path: str) -> bool:
    """Whether a path that a file or a hub names stays inside the folder that it is meant for."""
    parts = path.replace("\\", "/").split("/")
    return bool(path) and not set(parts) & {"", ".", ".."} and "\0" not in path and ":" not in parts[0]


def render(template: str, *variables: dict) -> list[str | Exception]:
    """The prompts that a chat template makes of one user message, one for each set of variables, as transformers does.

    A template is a program of whoever published it: helpers/_render.py runs it in a process of its own, with a limit
    of time and memory. In the place of a prompt that the template refuses or fails to write stands a ValueError.
    """
    messages = [{"role": "user", "content": "?"}]
    common = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
    work = json.dumps({"template": template, "variables": [common | chosen for chosen in variables]})
    command = [sys.executable, "-I", str(Path(__file__).with_name("_render.py"))]
    try:
        done = subprocess.run(command, input=work.encode(), capture_output=True, timeout=RENDER_SECONDS)
        answers = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):  # ended by a limit, so it has written nothing
        answers = [{"error": "it takes too much time or memory"}] * len(variables)
    return [ValueError(answer["error"]) if "error" in answer else answer["text"] for answer in answers]


def shortened(names: list[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
