"""vLLM's ``LLM`` for a notebook: it can be interrupted and closed, and says in one sentence what is wrong.

Importing this module imports vLLM, which takes seconds: helpers/engine.py does so when it opens one.
"""

import contextlib
import signal
import sys
import threading
import warnings

from vllm import LLM
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.exceptions import VLLMValidationError

from helpers import CourseError
from helpers.llm_requests import check_messages, clipping, refusal


class Engine(LLM):
    """vLLM's ``LLM``, which a ``with`` statement closes. Closed, it holds no weights and says so when it is used."""

    closed = False
    llm_engine: "WholeSteps"

    def __init__(self, **options):
        _let_vllm_read_numba()
        try:
            with warnings.catch_warnings(action="ignore"):
                super().__init__(**options)
        except BaseException:
            clean_up()
            raise
        self.llm_engine = WholeSteps(self.llm_engine)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __getattr__(self, name):  # asked for what is not there: after close(), everything
        if self.closed:
            raise _is_closed()
        return object.__getattribute__(self, name)

    def close(self) -> None:
        """Give the memory back. A variable or a notebook's ``Out[]`` that still names the engine keeps none of it."""
        if not self.closed:
            self.llm_engine.close()
            self.__dict__.clear()
            self.closed = True
            clean_up()

    def generate(self, prompts, sampling_params=None, *arguments, **options):
        return self._run(super().generate, prompts, sampling_params, *arguments, **options)

    def chat(self, messages, sampling_params=None, *arguments, **options):
        check_messages(messages)
        return self._run(super().chat, messages, sampling_params, *arguments, **options)

    def _run(self, method, requests, params, *arguments, **options):
        try:
            outputs = method(requests, params, *arguments, **options)
        except KeyboardInterrupt:
            self.llm_engine.abort_all()
            raise
        except VLLMValidationError as error:
            raise refusal(error, self.model_config.max_model_len) from None
        if said := clipping(outputs, params):
            warnings.warn(said, stacklevel=3)
        return outputs


class WholeSteps:
    """vLLM's ``LLMEngine``, of which an interrupt cuts neither ``add_request`` nor ``step`` in two.

    An exception between queueing, scheduling and bookkeeping would leave requests that the next batch trips over. So
    an interrupt takes effect afterwards, and drops the batch.
    """

    def __init__(self, llm_engine):
        self._llm_engine = llm_engine

    def __getattr__(self, name):
        if name == "_llm_engine":
            raise _is_closed()
        return getattr(self._llm_engine, name)

    def add_request(self, *arguments, **options):
        with self._interrupted_afterwards():
            return self._llm_engine.add_request(*arguments, **options)

    def step(self):
        with self._interrupted_afterwards():
            return self._llm_engine.step()

    def abort_all(self) -> None:
        """Drop every request that is not finished."""
        self.abort_request(list(self.output_processor.request_states), internal=True)

    def close(self) -> None:
        self.engine_core.shutdown()
        del self._llm_engine

    @contextlib.contextmanager
    def _interrupted_afterwards(self):
        if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
            yield
            return
        interrupts = []
        before = signal.signal(signal.SIGINT, lambda *signal_and_frame: interrupts.append(signal_and_frame))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        if interrupts:
            self.abort_all()
            raise KeyboardInterrupt


def _let_vllm_read_numba() -> None:
    """vLLM 0.32 on a CPU looks for its kernels in the variables of every module, and of what they name. Once anything
    has imported numba (n-gram drafts do), that is llvmlite's library too, which hands out a function under any name,
    ``__dict__`` as well: no engine would open in this process any more."""
    if llvmlite := sys.modules.get("llvmlite.binding.ffi"):
        llvmlite.lib._fntab["__dict__"] = {}


def clean_up() -> None:
    """Give back what an engine leaves behind in the process: vLLM's parallel state and memory."""
    with warnings.catch_warnings(action="ignore"):
        cleanup_dist_env_and_memory()  # which also looks for garbage, 0.6 s


def _is_closed() -> CourseError:
    return CourseError(
        "这个引擎已经关闭：用 open_engine() 重新打开一个。", "This engine is closed: open another with open_engine()."
    )
