"""Which model the course runs on, what its files say about it, and the arithmetic of sizes. Nothing here downloads.

`python -m helpers.models use VALUE` chooses the model of the lessons: it writes ``course.toml``.
"""

import argparse
import json
import os
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from helpers import CourseError
from helpers.language import say

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "assets" / "models"
SETTINGS = ROOT / "course.toml"
MODEL_VARIABLE, MOE_VARIABLE = "COURSE_MODEL", "COURSE_MOE_MODEL"
DEFAULTS = {MODEL_VARIABLE: "qwen3-tiny", MOE_VARIABLE: "qwen3-moe-tiny"}
AUTODL_DATA_DISK = Path(os.environ.get("AUTODL_DATA_DISK") or "/root/autodl-tmp")
LISTING = ".course-files.json"
GIB = 2**30
GPU_SHARE = 0.92  # vLLM's default gpu_memory_utilization
KV_BLOCK = 16  # tokens: the piece in which vLLM hands out KV cache
FP8_BLOCK = 128  # rows and columns of a published FP8 checkpoint that share a scale
OTHER_MEMORY = 1.5 * GIB  # a guess at activations, CUDA graphs and the CUDA context, which take 1 to 2 GiB


@dataclass(frozen=True)
class Choice:
    """A checkpoint's folder and where the choice came from: a variable, ``course.toml`` or ``the default``."""

    folder: Path
    chosen_by: str


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
    folder = chosen(MOE_VARIABLE).folder
    if (kind := read_config(folder).get("model_type")) != "qwen3_moe":
        raise CourseError(
            f"第 04 课要一个 Qwen3-MoE，{folder.name} 是 {kind}：把 {MOE_VARIABLE} 改成 qwen3-moe-tiny 或 "
            "Qwen/Qwen3-30B-A3B。",
            f"Lesson 04 needs a Qwen3-MoE, and {folder.name} is {kind}: set {MOE_VARIABLE} to qwen3-moe-tiny or "
            "Qwen/Qwen3-30B-A3B.",
        )
    return folder


def chosen(variable: str) -> Choice:
    """The checkpoint that ``variable`` (``COURSE_MODEL`` or ``COURSE_MOE_MODEL``) resolves to, and why."""
    if value := os.environ.get(variable, "").strip():
        return Choice(find_checkpoint(value), variable)
    if value := _settings().get(variable.lower(), ""):
        return Choice(find_checkpoint(value), SETTINGS.name)
    return Choice(find_checkpoint(DEFAULTS[variable]), "the default")


def find_checkpoint(value: str) -> Path:
    """Folder of the checkpoint that a folder, a bundled name or a hub id means.

    Raises CourseError if it is not on disk, or only a part of it (:func:`broken_files`).
    """
    if _names_bundled(value):
        return BUNDLED / value
    folder = Path(value).expanduser()
    if not os.path.isdir(folder):
        folder = ROOT / folder  # a notebook's kernel starts in its own folder, not at the root
    if os.path.isdir(folder):
        if not (folder / "config.json").is_file():
            raise CourseError(
                f"文件夹 {folder} 里没有 config.json，不是模型：请指向含有 config.json 的那一层。",
                f"Folder {folder} holds no config.json, so it is no model: name the folder that does.",
            )
        if broken := broken_files(folder):
            raise CourseError(
                f"{folder} 里的模型不完整（{shortened(broken)}）：运行 "
                f"`python -m helpers.download 模型ID --folder {folder}` 补齐。",
                f"The model in {folder} is incomplete ({shortened(broken)}): run "
                f"`python -m helpers.download ID --folder {folder}` to complete it.",
            )
        return folder.resolve()
    if is_hub_id(value):
        copies = hub_copies(value)
        if copies and not broken_files(copies[0]):
            return copies[0]
        state = ("没有下载完整", "has not been downloaded completely") if copies else ("不在磁盘上", "is not on disk")
        raise CourseError(
            f"{value} {state[0]}：先运行 `python -m helpers.download {value}`，再试一次；课程自己不会下载。",
            f"{value} {state[1]}: run `python -m helpers.download {value}` and try again; nothing is downloaded "
            "behind your back.",
        )
    names = ", ".join(sorted(path.name for path in BUNDLED.glob("*/")))
    raise CourseError(
        f"找不到模型 {value}：可以写文件夹、已下载的 id（如 Qwen/Qwen3-8B）或自带模型（{names}）。",
        f"No model {value}: name a folder, a downloaded id such as Qwen/Qwen3-8B, or a bundled model ({names}).",
    )


def _names_bundled(value: str) -> bool:
    return (BUNDLED / value).parent == BUNDLED and (BUNDLED / value / "config.json").is_file()


def is_hub_id(value: str) -> bool:
    """Whether ``value`` has the form ``owner/name`` of a hub id."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", value, re.ASCII))


def hub_caches() -> list[Path]:
    """ModelScope's caches on this machine, the one for new downloads first.

    The cache setting, then AutoDL's data disk (its system disk is too small for models), then the client's default.
    """
    setting = os.environ.get("MODELSCOPE_CACHE")
    data_disk = os.path.isdir(AUTODL_DATA_DISK)  # pathlib raises where /root is closed to this user
    caches = [setting and Path(setting).expanduser(), data_disk and AUTODL_DATA_DISK, Path.home() / ".cache/modelscope"]
    return [cache for cache in caches if cache]


def hub_folders(model_id: str, revision: str = "master") -> list[Path]:
    """Where ModelScope clients, new (first) and old, keep ``owner/name``; the old ones kept no other revision."""
    layouts = [Path("models", model_id.replace("/", "--"), "snapshots", revision)]
    if revision == "master":
        old_name = model_id.replace(".", "___")  # clients up to 1.37
        tops = ("", "models", "hub", "hub/models")
        layouts += [Path(top, name) for top in tops for name in dict.fromkeys((model_id, old_name))]
    return [cache / layout for cache in hub_caches() for layout in layouts]


def hub_copies(model_id: str, revision: str = "master") -> list[Path]:
    """Folders that hold files of ``owner/name``, complete copies first."""

    def filled(folder: Path) -> bool:
        try:
            return bool(os.listdir(folder))
        except OSError:
            return False

    return sorted(filter(filled, hub_folders(model_id, revision)), key=lambda folder: bool(broken_files(folder)))


def hub_listing(folder: str | Path) -> dict[str, list]:
    """What the hub listed for a folder that helpers.download filled: path -> [bytes, sha256 or None]; else empty."""
    try:
        return json.loads(Path(folder, LISTING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def broken_files(folder: str | Path) -> list[str]:
    """Files of a checkpoint that are missing, cut short or unreadable; none if it is complete.

    Reads sizes, safetensors headers and the shard index, not the weights: a wrong byte inside them takes
    :func:`helpers.download.verify`. Source: https://huggingface.co/docs/safetensors (8 bytes with the length of a JSON
    header, the header, the tensors at ``data_offsets``).
    """
    folder = Path(folder)
    sizes = {path: size for path, (size, _) in hub_listing(folder).items()}
    broken = {path for path, size in sizes.items() if not _has_size(folder / path, size)}
    broken |= {str(part.relative_to(folder).with_suffix("")) for part in folder.rglob("*.incomplete")}
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        broken.add("tokenizer.json")
    shards = {path.name: set() for path in folder.glob("*.safetensors")}
    try:
        read_config(folder)
    except CourseError:
        broken.add("config.json")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = {}
            for tensor, shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
                shards.setdefault(shard, set()).add(tensor)
        except (ValueError, KeyError, AttributeError):
            broken.add(index.name)
    for shard, tensors in (shards or {"model.safetensors": set()}).items():
        try:
            header, size = read_header(folder / shard)
            ends = [entry["data_offsets"][1] for entry in header.values()]
            if not _has_size(folder / shard, size + max(ends, default=0)) or tensors - set(header):
                broken.add(shard)
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            broken.add(shard)
    return sorted(broken)


def read_header(file: str | Path) -> tuple[dict, int]:
    """Tensors of a safetensors file, name -> dtype, shape and data_offsets; and where their bytes begin."""
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > 100_000_000:  # the format's limit
            raise ValueError(f"{file} is no safetensors file")
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _has_size(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def shortened(names: list[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")


def is_bundled(folder: str | Path | None = None) -> bool:
    """Whether ``folder`` (default: the course's model) is one of the tiny models that come with the course."""
    return Path(folder or course_model()).resolve().parent == BUNDLED


def describe(folder: str | Path | None = None, variable: str = MODEL_VARIABLE) -> str:
    """For a lesson's head, in the page's language: name, architecture, folder (short) and why this one."""
    choice = chosen(variable)
    folder = Path(folder or choice.folder)
    shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    why = choice.chosen_by if folder == choice.folder else "the call"
    zh_why = {"the default": "默认", "the call": "这次调用"}.get(why, why)
    architecture = read_config(folder)["architectures"][0]
    return say(
        f"模型：{folder.name}（{architecture}） | 文件夹：{shown} | 选择来自：{zh_why}",
        f"model: {folder.name} ({architecture}) | folder: {shown} | chosen by: {why}",
    )


def read_config(folder: str | Path) -> dict:
    """``config.json`` of a checkpoint as a dictionary. Raises CourseError if it cannot be read."""
    path = Path(folder) / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(
            f"读不了 {path}（{error}）：下载可能没有完成，请重新下载。",
            f"Cannot read {path} ({error}): the download may be incomplete, fetch it again.",
        ) from error


def _settings() -> dict:
    try:
        return tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise CourseError(
            f"{SETTINGS.name} 写坏了（{error}）：删掉它，或重新运行第 02 课的最后一格。",
            f"{SETTINGS.name} cannot be read ({error}): delete it, or run lesson 02's last cell again.",
        ) from error


def use(value: str, variable: str = MODEL_VARIABLE) -> Path:
    """Choose the model of the lessons: writes ``course.toml`` and returns the folder that ``value`` means.

    A folder is written as an absolute path. Raises CourseError, and writes nothing, if there is no such checkpoint.
    """
    folder = find_checkpoint(value)
    short = _names_bundled(value) or is_hub_id(value) and folder in hub_folders(value)
    settings = _settings() | {variable.lower(): value if short else str(folder)}
    text = "".join(f"{name} = {json.dumps(chosen, ensure_ascii=False)}\n" for name, chosen in settings.items())
    SETTINGS.write_text(text, encoding="utf-8")
    return folder


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


def capabilities(folder: str | Path) -> Capabilities:
    """What a checkpoint can do, from its config and from what its chat template really writes.

    Raises CourseError if one of them cannot be read.
    """
    config, template = read_config(folder), chat_template(folder)
    thinking = "never"
    if template:
        prompts = [render(template, enable_thinking=value) for value in (True, False)]
        if prompts[0] != prompts[1]:
            thinking = "switch"
        elif prompts[0].rstrip().endswith("<think>"):
            thinking = "always"
    quantised = (config.get("quantization_config") or {}).get("quant_method")
    return Capabilities(thinking, _experts(config) > 0, quantised, config["max_position_embeddings"])


def chat_template(folder: str | Path) -> str | None:
    """Text of a checkpoint's chat template: a file of its own, or in older models a field of tokenizer_config.json."""
    try:
        if (template := Path(folder, "chat_template.jinja")).is_file():
            return template.read_text(encoding="utf-8")
        return json.loads(Path(folder, "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CourseError(
            f"读不了 {folder} 的对话模板（{error}）：下载可能没有完成，请重新下载。",
            f"Cannot read the chat template of {folder} ({error}): the download may be incomplete, fetch it again.",
        ) from error


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


def head_dim(config: dict) -> int:
    """Width of one attention head; Qwen2 configs leave it to hidden_size / heads."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def kv_bytes_per_token(config: dict, bytes_per_value: int = 2) -> int:
    """Bytes of KV cache that one token takes in all layers together: keys and values, bf16 unless told."""
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim(config) * bytes_per_value


def parameters(config: dict, active: bool = False) -> int:
    """Parameters of a Qwen2, Qwen2-MoE, Qwen3 or Qwen3-MoE model, computed from its ``config.json``.

    active: only those that one token uses, both embedding matrices included. Source of the shapes: transformers'
    modeling_qwen2.py, modeling_qwen2_moe.py, modeling_qwen3.py and modeling_qwen3_moe.py.
    """
    hidden, width = config["hidden_size"], head_dim(config)
    query, key = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    layer = 2 * hidden * query + 2 * hidden * key + 2 * hidden  # projections, two norms
    qwen2 = config["model_type"].startswith("qwen2")
    layer += query + 2 * key if qwen2 else 2 * width  # biases of q, k, v in Qwen2; QK-norm in Qwen3
    if experts := _experts(config):
        used = config["num_experts_per_tok"] if active else experts
        mlp = used * 3 * hidden * config["moe_intermediate_size"] + hidden * experts
        if shared := config.get("shared_expert_intermediate_size"):
            mlp += 3 * hidden * shared + hidden
    else:
        mlp = 3 * hidden * config["intermediate_size"]
    return config["num_hidden_layers"] * (layer + mlp) + embedding_parameters(config) + hidden


def embedding_parameters(config: dict) -> int:
    """Parameters of the embedding and, unless the two are tied, the output matrix."""
    return config["vocab_size"] * config["hidden_size"] * (1 if config["tie_word_embeddings"] else 2)


def weight_bytes(config: dict, dtype: str = "bf16") -> float:
    """Bytes of the weights in memory. Exact for "bf16"; "fp8" and "awq" are estimates.

    The estimates count 1 byte (fp8) or 0.52 bytes (awq: 4 bits with scale and zero point for each 128) for all but the
    embedding and output matrices, which stay bf16.
    """
    embeddings = embedding_parameters(config)
    return 2 * embeddings + (parameters(config) - embeddings) * {"bf16": 2, "fp8": 1, "awq": 0.52}[dtype]


def _experts(config: dict) -> int:
    return config.get("num_experts") or 0


def splits(config: dict, gpus: int, dtype: str = "bf16") -> bool:
    """Whether vLLM can cut a model into ``gpus`` equal parts (tensor parallel).

    It cuts between attention heads, and FP8 weights only between blocks of 128, which share a scale. Source: vLLM's
    ModelConfig.verify_with_parallel_config and validate_fp8_block_shape.
    """
    inner = config.get("moe_intermediate_size") or config["intermediate_size"]
    whole_heads = config["num_attention_heads"] % gpus == 0
    return whole_heads and (dtype != "fp8" or inner % (gpus * FP8_BLOCK) == 0)


@dataclass(frozen=True)
class Fit:
    """Bytes on each GPU for a model, a context and a number of sequences; max_context: tokens a sequence can have,
    0 where not even the weights fit or the model cannot be cut into so many parts."""

    usable: float
    weights: float
    kv_cache: float
    other: float
    max_context: int
    fits: bool


def fits(
    config: dict,
    gpu: float,
    context: int = 8192,
    sequences: int = 1,
    dtype: str = "bf16",
    kv_bytes: int = 2,
    gpus: int = 1,
    utilization: float = GPU_SHARE,
    other: float = OTHER_MEMORY,
) -> Fit:
    """Whether a model fits ``gpus`` cards of ``gpu`` bytes each (tensor parallel) with ``sequences`` full contexts.

    vLLM uses ``utilization`` (its default) of a card, and ``other`` of it for neither weights nor KV cache. A KV head
    is copied where there are more cards than heads. max_context is in vLLM's blocks of 16 tokens, at most the
    checkpoint's ``max_position_embeddings``.
    """
    heads = config["num_key_value_heads"]
    per_token = kv_bytes_per_token(config, kv_bytes) * max(1, heads // gpus) / heads
    usable, weights = gpu * utilization, weight_bytes(config, dtype) / gpus
    longest = max(0, int((usable - weights - other) / per_token / sequences) // KV_BLOCK * KV_BLOCK)
    longest = min(longest, config["max_position_embeddings"]) if splits(config, gpus, dtype) else 0
    return Fit(usable, weights, per_token * context * sequences, other, longest, context <= longest)


@dataclass(frozen=True)
class Release:
    """A published model: ``config`` as in its config.json, whether the output matrix is stored although tied, and the
    quantised versions that the publisher offers under ``id-SUFFIX`` (empty: none known to this table)."""

    config: dict
    stored_twice: bool = False
    quantised: tuple[str, ...] = ()

    @property
    def download(self) -> int:
        """Bytes of the bf16 weight files; tokenizer and configuration add about 10 MB."""
        twice = embedding_parameters(self.config) if self.stored_twice else 0
        return 2 * (parameters(self.config) + twice)


def _release(
    model_type, layers, heads, kv_heads, hidden, intermediate, tied, *quantised, twice=False, **more
) -> Release:
    config = {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "tie_word_embeddings": tied,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
    }
    if model_type.startswith("qwen3"):
        config["head_dim"] = 128
    return Release(config | more, twice, quantised)


_MOE = {"num_experts": 128, "num_experts_per_tok": 8}
_QWEN2 = {"max_position_embeddings": 32768}
_QWEN2_BIG = _QWEN2 | {"vocab_size": 152064}  # padded differently from 7B upwards
CATALOGUE = {
    "Qwen/Qwen3-0.6B": _release("qwen3", 28, 16, 8, 1024, 3072, True, "FP8", twice=True),
    "Qwen/Qwen3-1.7B": _release("qwen3", 28, 16, 8, 2048, 6144, True, "FP8", twice=True),
    "Qwen/Qwen3-4B": _release("qwen3", 36, 32, 8, 2560, 9728, True, "FP8"),
    "Qwen/Qwen3-8B": _release("qwen3", 36, 32, 8, 4096, 12288, False, "FP8", "AWQ"),
    "Qwen/Qwen3-14B": _release("qwen3", 40, 40, 8, 5120, 17408, False, "FP8", "AWQ"),
    "Qwen/Qwen3-32B": _release("qwen3", 64, 64, 8, 5120, 25600, False, "FP8", "AWQ"),
    "Qwen/Qwen3-30B-A3B": _release("qwen3_moe", 48, 32, 4, 2048, 6144, False, "FP8", moe_intermediate_size=768, **_MOE),
    "Qwen/Qwen3-235B-A22B": _release(
        "qwen3_moe", 94, 64, 4, 4096, 12288, False, "FP8", moe_intermediate_size=1536, **_MOE
    ),
    "Qwen/Qwen2.5-0.5B-Instruct": _release("qwen2", 24, 14, 2, 896, 4864, True, **_QWEN2),
    "Qwen/Qwen2.5-1.5B-Instruct": _release("qwen2", 28, 12, 2, 1536, 8960, True, **_QWEN2),
    "Qwen/Qwen2.5-3B-Instruct": _release("qwen2", 36, 16, 2, 2048, 11008, True, **_QWEN2),
    "Qwen/Qwen2.5-7B-Instruct": _release("qwen2", 28, 28, 4, 3584, 18944, False, **_QWEN2_BIG),
    "Qwen/Qwen2.5-14B-Instruct": _release("qwen2", 48, 40, 8, 5120, 13824, False, **_QWEN2_BIG),
    "Qwen/Qwen2.5-32B-Instruct": _release("qwen2", 64, 40, 8, 5120, 27648, False, **_QWEN2_BIG),
    "Qwen/Qwen2.5-72B-Instruct": _release("qwen2", 80, 64, 8, 8192, 29568, False, **_QWEN2_BIG),
}


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
