"""What a ``config.json`` says, checked: which family of models it describes, and its sizes.

A ``config`` is the dictionary of a ``config.json``. Its values come from whoever published the model, so each is read
through a function of this module: what is missing, of the wrong type or absurd is one CourseError that names the key.
"""

import math
import reprlib
from typing import Any, NamedTuple

from helpers import CourseError

RUNNABLE = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe")
LATER = {  # model_type -> what is published under it; three of four layers of the first four are linear attention
    "qwen3_next": "Qwen3-Next",
    "qwen3_5": "Qwen3.5, 3.6, 3.8",
    "qwen3_5_moe": "Qwen3.5, 3.6, 3.8 MoE",
    "qwen4_exp": "Qwen3.8-Flash-Next",
    "qwen3_vl": "Qwen3-VL",
    "qwen3_vl_moe": "Qwen3-VL MoE",
    "qwen3_omni_moe": "Qwen3-Omni",
}
HYBRID = ("qwen3_next", "qwen3_5", "qwen3_5_moe", "qwen4_exp")
HYBRID_KEYS = ("full_attention_interval", "linear_num_value_heads")  # a hybrid of a name that is not known here
NESTED = ("thinker_config", "text_config")  # where a model with eyes or ears keeps the numbers of its language model
LIMITS = {"num_hidden_layers": 1_000, "num_experts": 10_000, "vocab_size": 10**8, "max_position_embeddings": 10**9}
LIMIT = 100_000  # for any other size; the widest published matrix has about 30,000 rows


def number(config: dict, key: str, default: int | None = None) -> int:
    """A size of the model, a whole number from 1 to its limit; ``default`` where the key is missing or null.

    Raises CourseError for any other value, and for a missing one without default.
    """
    value = config.get(key)
    if value is None and default is not None:
        return default
    most = LIMITS.get(key, LIMIT)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise wrong(config, key, f"1 到 {most:,} 的整数", f"a whole number from 1 to {most:,}")
    return value


def real(config: dict, key: str, default: float) -> float:
    """A positive finite number such as ``rms_norm_eps``; ``default`` where the key is missing or null."""
    value = config.get(key)
    if value is None:
        return default
    try:
        if not isinstance(value, bool) and 0 < (found := float(value)) < math.inf and not isinstance(value, str):
            return found
    except (TypeError, ValueError, OverflowError):
        pass
    raise wrong(config, key, "正数", "a positive number")


def flag(config: dict, key: str, default: bool) -> bool:
    """A yes or no; ``default`` where the key is missing or null."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong(config, key, "true 或 false", "true or false")
    return value


def listed(config: dict, key: str, kind: type) -> list:
    """A list of strings or of whole numbers, empty where the key is missing or null."""
    value = config.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or any(type(entry) is not kind for entry in value):
        what = ("字符串", "strings") if kind is str else ("整数", "whole numbers")
        raise wrong(config, key, f"{what[0]}的列表", f"a list of {what[1]}")
    return value


def part(config: dict, key: str) -> dict:
    """An object inside the config, empty where the key is missing or null."""
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(config, key, "对象", "an object")
    return value


def wrong(config: dict, key: str, zh: str, en: str) -> CourseError:
    """The error for a value that cannot be right: what it is, and what it should be."""
    value: Any = config.get(key)
    found = ("没有", "is missing") if value is None else (f"是 {reprlib.repr(value)}", f"is {reprlib.repr(value)}")
    return CourseError(
        f"config.json 里的 {key} {found[0]}，应是{zh}：请与模型页面上的文件比较，或重新下载。",
        f"In config.json, {key} {found[1]} and should be {en}: compare with the file on the model's page, or download "
        "it again.",
    )


def text_config(config: dict) -> dict:
    """The numbers of the language model: ``config`` itself, or what a model with eyes or ears nests in it."""
    for key in NESTED:
        if inner := part(config, key):
            config = {"tie_word_embeddings": config.get("tie_word_embeddings")} | inner
    return config


def family(config: dict) -> str:
    """``model_type``, of a nested config the outer one, without the ``_text`` of its language model."""
    named = config if config.get("model_type") is not None else text_config(config)
    kind = named.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise wrong(named, "model_type", "名称，例如 qwen3", "a name such as qwen3")
    return kind.removesuffix("_text")


def is_hybrid(config: dict) -> bool:
    """Whether some layers have linear attention, by the family or, for a name not known here, by the keys."""
    text = text_config(config)
    kinds = listed(text, "layer_types", str)
    return (
        str(text.get("model_type")).removesuffix("_text") in HYBRID
        or any(text.get(key) is not None for key in HYBRID_KEYS)
        or "linear_attention" in kinds
    )


class Layers(NamedTuple):
    """Layers by what they remember: ``full`` keep keys and values of every token, ``linear`` one state a sequence."""

    full: int
    linear: int


def layers(config: dict) -> Layers:
    """How many layers have full and how many linear attention."""
    text = text_config(config)
    total = number(text, "num_hidden_layers")
    if kinds := listed(text, "layer_types", str):
        if len(kinds) != total:
            raise wrong(text, "layer_types", f" {total} 项的列表", f"a list of {total}, one for each layer")
        linear = kinds.count("linear_attention")
    else:
        linear = total - total // number(text, "full_attention_interval", 4) if is_hybrid(text) else 0
    return Layers(total - linear, linear)


def refuse_other_families(config: dict, name: str) -> None:
    """Raises CourseError, which names the family and what to take instead, unless the course runs it."""
    kind = family(config)
    nested = any(config.get(key) is not None for key in NESTED)
    if kind in RUNNABLE and not nested and not is_hybrid(config):
        return
    known = LATER.get(kind)
    later = known or nested or is_hybrid(config) or kind.startswith(("qwen3_", "qwen3.", "qwen4"))
    title = f"{known}（{kind}）" if known else kind, f"{known} ({kind})" if known else kind
    what = (
        ("，Qwen3 之后的系列，层、缓存和对话模板都不同", ", a family after Qwen3 with other layers, cache and template")
        if later
        else ("，课程不认识这个系列", ", a family that this course does not know")
    )
    raise CourseError(
        f"{name} 是 {title[0]}{what[0]}：课程运行 qwen2、qwen3 和它们的 _moe，请换一个，例如 Qwen/Qwen3-8B。",
        f"{name} is {title[1]}{what[1]}: this course runs qwen2, qwen3 and their _moe, so take one of these, such as "
        "Qwen/Qwen3-8B.",
    )
