"""helpers/engine.py against the real vLLM: quiet, one at a time, memory given back, thinking split from the answer."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from types import SimpleNamespace

import psutil
import pytest
from lesson_code import own_memory

from helpers import GIB, CourseError, catalogue, engine, models
from helpers.checkpoint import Checkpoint
from helpers.llm_requests import check_messages
from helpers.machine import GpuUse

QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_size": 4096,
    "max_position_embeddings": 40960,
}
QUESTION = [{"role": "user", "content": "37×46=?"}]


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with the configuration of Qwen3-8B and no weights."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_8B))
    return tmp_path


def test_options_follow_the_checkpoint_and_the_caller_wins(checkpoint, monkeypatch):
    monkeypatch.setattr(engine, "on_cpu", lambda: True)
    options = engine.sized_options(checkpoint)
    assert options["max_model_len"] == 8192 and options["enforce_eager"]
    assert options["kv_cache_memory_bytes"] == 2 * 8192 * 147456  # bytes a token of Qwen3-8B: 2 * 36 * 8 * 128 * 2
    assert engine.sized_options(checkpoint, max_model_len=100)["kv_cache_memory_bytes"] == 64 * 2**20
    assert engine.sized_options(checkpoint, enforce_eager=False, seed=7) == options | {
        "enforce_eager": False,
        "seed": 7,
    }
    monkeypatch.setattr(engine, "on_cpu", lambda: False)
    assert engine.sized_options(checkpoint) == {"max_model_len": 8192}


def test_a_small_model_runs_on_one_thread(checkpoint, monkeypatch):
    monkeypatch.setattr(engine, "on_cpu", lambda: True)
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(b"x")
    assert engine.environment(checkpoint)["OMP_NUM_THREADS"] == "1"
    os.truncate(weights, 2**30)
    assert "OMP_NUM_THREADS" not in engine.environment(checkpoint)


def test_thinking_is_read_from_the_template_not_from_the_vocabulary(checkpoint):
    settings = {"chat_template": "{{ messages }}", "added_tokens_decoder": {"1": {"content": "</think>"}}}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "reasoning_parser" not in engine.sized_options(checkpoint)
    (checkpoint / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ '<think>' if not enable_thinking }}"})
    )
    assert engine.sized_options(checkpoint)["reasoning_parser"] == "qwen3"
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")  # the file wins, as in transformers
    assert "reasoning_parser" not in engine.sized_options(checkpoint)


def test_a_wrong_model_is_refused_before_vllm_is_imported():
    code = "import sys; from helpers.engine import open_engine\ntry: open_engine('no/where/at/all')\n"
    code += "except Exception as error: print(type(error).__name__, 'vllm' in sys.modules, str(error).count('\\n'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["CourseError", "False", "1"], done.stderr


def test_each_file_of_the_checkpoint_is_opened_once(tmp_path):
    """Before vLLM is imported, which here it cannot be: what vLLM reads is its own matter."""
    code = """
import json, os, sys
folder, opened = sys.argv[1], []
def watch(event, arguments):
    if event == "open" and str(arguments[0]).startswith(folder):
        opened.append(os.path.basename(arguments[0]))
sys.addaudithook(watch)
sys.modules["vllm"] = None
from helpers.engine import open_engine
try:
    open_engine(folder)
except ImportError:
    print(json.dumps(opened))
"""
    folder = shutil.copytree(models.course_model(), tmp_path / "model")  # outside of the course each part is looked at
    command = [sys.executable, "-c", code, str(folder)]
    opened = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert {"config.json", "model.safetensors"} < set(opened)
    assert len(opened) == len(set(opened)), opened


# --- what a learner may ask wrongly


def checkpoint_of(tmp_path, model_id, weight_bytes):
    config = catalogue.CATALOGUE[model_id].config | {"architectures": ["Qwen3ForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    with open(tmp_path / "model.safetensors", "wb") as file:  # sparse: takes no room on the disk
        file.truncate(weight_bytes)
    return tmp_path


def test_a_model_too_large_for_the_memory_is_refused_with_what_fits(tmp_path, monkeypatch):
    folder = checkpoint_of(tmp_path, "Qwen/Qwen3-32B", 61 * GIB)
    monkeypatch.setattr(engine, "on_cpu", lambda: True)
    monkeypatch.setattr(engine.psutil, "virtual_memory", lambda: SimpleNamespace(available=12 * GIB))
    monkeypatch.setattr(engine.machine, "look", lambda: SimpleNamespace(memory=64 * GIB))
    with pytest.raises(CourseError) as refused:
        engine.refuse_too_large(folder, engine.sized_options(folder))
    zh, en = str(refused.value).splitlines()
    assert "权重 61.0" in zh and "about 66.5 GiB (weights 61.0, KV cache 4.0), and 12.0 GiB are free" in en
    assert "Qwen3-4B" in en and "Qwen3-8B" not in en and "FP8" not in en


def test_a_context_too_long_is_refused_with_the_one_that_fits(tmp_path, monkeypatch):
    folder = checkpoint_of(tmp_path, "Qwen/Qwen3-8B", int(15.26 * GIB))
    monkeypatch.setattr(engine, "on_cpu", lambda: False)
    cards = [GpuUse(memory=((0, 24 * 1024),))]
    monkeypatch.setattr(engine.machine, "gpu_use", lambda: cards[-1])
    with pytest.raises(CourseError, match=r"open_engine\(max_model_len=37888\)"):
        engine.refuse_too_large(folder, engine.sized_options(folder, max_model_len=40960))
    engine.refuse_too_large(folder, engine.sized_options(folder, max_model_len=37888))
    engine.refuse_too_large(folder, engine.sized_options(folder))
    cards.append(GpuUse(memory=((0, 16 * 1024),) * 2))
    with pytest.raises(CourseError, match="Qwen3-8B-FP8|Qwen3-8B-AWQ"):
        engine.refuse_too_large(folder, engine.sized_options(folder))
    engine.refuse_too_large(folder, engine.sized_options(folder, tensor_parallel_size=2))


def test_a_gpu_that_another_notebook_holds_is_named_before_anything_loads(monkeypatch):
    monkeypatch.setattr(engine.machine, "gpu_use", lambda: GpuUse(memory=((22000, 24576),)))
    monkeypatch.setattr(engine.machine, "gpu_users", lambda use, root, gpus: ["other.ipynb"])
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it would raise
    with pytest.raises(CourseError, match="other.ipynb"):
        engine.open_engine()


@pytest.mark.parametrize(
    ("given", "settled"),
    [("4,2", "4"), ("", None), ("0", None), ("0,4", None), ("-1", None), ("two", None), ("4x", None), (" 3 ", "3")]
    + [("007", "7"), ("9" * 5000, None), ("4, 2", "4"), ("\uff14", None), (None, None)],
)
def test_a_number_of_threads_that_torch_cannot_take_is_put_right(given, settled, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    engine.environment(models.find_checkpoint("qwen3-tiny"))
    assert os.environ.get("OMP_NUM_THREADS") == settled


def test_messages_that_the_template_would_swallow_are_refused():
    for messages, sentence in (
        ([], "Conversation 0, counted from 0, is empty"),
        ([QUESTION, []], "Conversation 1, counted from 0, is empty"),
        ([{"role": "robot", "content": "1"}], "role 'robot'"),
        ([{"content": "1"}], "role None"),
    ):
        with pytest.raises(CourseError, match=sentence) as refused:
            check_messages(messages)
        assert str(refused.value).count("\n") == 1
    check_messages([QUESTION, [{"role": "system", "content": ""}, *QUESTION]])


# --- with vLLM


@pytest.fixture(scope="module")
def llm():
    yield engine.open_engine()
    engine.close_engine()


@pytest.mark.slow
def test_it_is_vllms_own_llm_in_this_process(llm):
    from vllm import LLM, SamplingParams

    assert isinstance(llm, LLM)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a helper that ended meanwhile
            assert not child.name().startswith("VLLM::")
    [output] = llm.chat(QUESTION, SamplingParams(max_tokens=3), use_tqdm=False)
    assert len(output.outputs[0].token_ids) in range(1, 4)


@pytest.mark.slow
def test_the_kv_cache_holds_as_many_tokens_as_computed(llm):
    """As vLLM reports it; tests/test_routing.py does so for the mixture of experts."""
    cache, config = llm.llm_engine.vllm_config.cache_config, Checkpoint(models.course_model()).config
    size = engine.sized_options(models.course_model())["kv_cache_memory_bytes"]
    assert cache.num_gpu_blocks == size // (catalogue.kv_bytes_per_token(config) * cache.block_size) > 0


@pytest.mark.slow
def test_a_second_engine_is_refused_and_the_first_still_works(llm):
    with pytest.raises(CourseError, match="close_engine"):
        engine.open_engine()
    assert llm.chat(QUESTION, use_tqdm=False)


@pytest.mark.slow
def test_split_with_thinking_off(llm):
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=8, ignore_eos=True)
    [output] = llm.chat(QUESTION, params, chat_template_kwargs={"enable_thinking": False}, use_tqdm=False)
    thinking, answer, finished = engine.split(output)
    assert thinking is None and not finished
    assert answer == output.outputs[0].text.strip()


@pytest.mark.slow
def test_split_of_a_thought_that_vllm_closes_or_leaves_open(llm):
    from vllm import SamplingParams

    prompt = llm.get_tokenizer().apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True) + "<think>\n"
    closed = SamplingParams(max_tokens=12, thinking_token_budget=4, ignore_eos=True)
    digits = SamplingParams(max_tokens=6, allowed_token_ids=llm.get_tokenizer().encode("12345"))
    outputs = llm.generate([prompt, prompt], [closed, digits], use_tqdm=False)
    parts = engine.split(outputs[0])
    assert parts.thinking is not None and parts.answer is not None
    assert engine.split(outputs[1]) == (outputs[1].outputs[0].text, None, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "completion", "reason", "parts"),
    [
        ("<|im_start|>assistant\n", "<think>\n12\n</think>\n\n34<|im_end|>", "stop", ("12", "34", True)),
        ("<|im_start|>assistant\n", "<think>\n1</think>2</think>3", "stop", ("1</think>2", "3", True)),
        ("<|im_start|>assistant\n", "<think>\n12", "length", ("12", None, False)),
        ("<|im_start|>assistant\n", "<think>\n12</think>", "length", ("12", "", False)),
        ("<|im_start|>assistant\n", "34<|im_end|>", "stop", (None, "34", True)),
        ("<|im_start|>assistant\n<think>\n", "12</think>34", "stop", ("12", "34", True)),
        ("<|im_start|>assistant\n<think>\n", "12", "length", ("12", None, False)),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "34", "stop", (None, "34", True)),
        ("<|im_start|>user\n<think><|im_end|>\n<|im_start|>assistant\n", "34", "stop", (None, "34", True)),
        ("raw text", "34", "length", (None, "34", False)),
    ],
)
def test_split_goes_by_token_ids(llm, prompt, completion, reason, parts):
    from vllm import CompletionOutput, RequestOutput

    tokenizer = llm.get_tokenizer()
    ids = tokenizer.encode(completion, add_special_tokens=False)
    one = CompletionOutput(0, completion, ids, None, None, finish_reason=reason)
    output = RequestOutput("0", prompt, tokenizer.encode(prompt, add_special_tokens=False), None, [one], True)
    assert engine.split(output) == engine.split(output, tokenizer) == parts


@pytest.mark.slow
def test_a_wrong_request_gets_one_sentence_and_the_engine_stays_usable(llm):
    from vllm import SamplingParams

    def ask(prompt="1", **params):
        return llm.generate(prompt, SamplingParams(**{"max_tokens": 2} | params), use_tqdm=False)

    for request, sentence in (
        (lambda: ask("你" * 3000), "maximum context length is 2048 tokens"),
        (lambda: ask(stop_token_ids=[151645]), "out-of-vocab"),
        (lambda: ask(""), "cannot be empty"),
        (lambda: llm.chat([], use_tqdm=False), "is empty"),
        (lambda: llm.chat([{"role": "robot", "content": "1"}], use_tqdm=False), "robot"),
        (lambda: ask(["1", "你" * 3000]), "maximum context length"),
    ):
        with pytest.raises(CourseError, match=sentence) as refused:
            request()
        zh, en = str(refused.value).splitlines()
        assert any("\u4e00" <= char <= "\u9fff" for char in zh) and "parameter=" not in en
        assert not llm.llm_engine.has_unfinished_requests()
    assert len(ask()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 3), ("temperature", -1), ("top_p", 0), ("top_k", -5), ("min_p", 5)]
)
def test_vllm_names_a_sampling_value_out_of_range(name, value, llm):
    from vllm import SamplingParams

    with pytest.raises(Exception, match=rf"^{name} must be .* got {value}\b") as refused:
        SamplingParams(**{name: value})
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_clipped_max_tokens_are_said(llm):
    from vllm import SamplingParams

    prompt = [1] * 2040
    with pytest.warns(UserWarning, match="max_tokens=100 is more than the context has room for: .* after 8 tokens"):
        llm.generate([{"prompt_token_ids": prompt}], SamplingParams(max_tokens=100, ignore_eos=True), use_tqdm=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tokens in (8, None):
            params = SamplingParams(max_tokens=tokens, ignore_eos=True)
            llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)


@pytest.mark.slow
def test_an_interrupt_in_a_long_batch_leaves_the_engine_usable(llm):
    """As a kernel's interrupt does, SIGINT arrives in the main thread, at a time of its own."""
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": [number, 1]} for number in range(1, 33)]
    expected = [
        list(o.outputs[0].token_ids) for o in llm.generate(prompts, SamplingParams(temperature=0, max_tokens=5))
    ]
    for seconds in (0.02, 0.1, 0.3, 0.5):
        timer = threading.Timer(seconds, signal.raise_signal, [signal.SIGINT])
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            llm.generate(prompts, SamplingParams(max_tokens=2000, ignore_eos=True), use_tqdm=False)
        assert time.monotonic() - start < 30  # 2,000 tokens take longer
        assert not llm.llm_engine.has_unfinished_requests()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=5), use_tqdm=False)
        assert [list(o.outputs[0].token_ids) for o in outputs] == expected


@pytest.mark.slow
def test_an_interrupt_while_a_request_is_queued_leaves_the_engine_usable(llm):
    """SIGINT at each call and return while vLLM takes in the second of two requests: in its queue, not in its books."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=5)
    [expected] = llm.chat(QUESTION, params, use_tqdm=False)

    def ask_two(interrupt_at=None) -> int:
        """The number of events, of which one brings the interrupt."""
        seen, inside = 0, []

        def profile(frame, event, argument):
            nonlocal seen
            if frame.f_code.co_name == "add_request" and event == "call":
                inside.append(frame)
            seen += len(inside) > 2  # of the course's and the engine's own: in what they call
            if inside and frame is inside[-1] and event == "return":
                inside.pop()
            if seen == interrupt_at:
                sys.setprofile(None)
                signal.raise_signal(signal.SIGINT)

        sys.setprofile(profile)
        try:
            llm.chat([QUESTION] * 2, params, use_tqdm=False)
        finally:
            sys.setprofile(None)
        return seen

    events = ask_two()
    assert events > 100
    for number in range(events // 2, events + 1):
        with pytest.raises(KeyboardInterrupt):
            ask_two(number)
        assert not llm.llm_engine.has_unfinished_requests()
        [output] = llm.chat(QUESTION, params, use_tqdm=False)
        assert output.outputs[0].token_ids == expected.outputs[0].token_ids


@pytest.mark.slow
@pytest.mark.parametrize("part", ["schedule", "update_from_output", "process_outputs"])
def test_an_interrupt_within_a_step_leaves_the_engine_usable(part, llm):
    """SIGINT when a part of a step is done and the next has not begun.

    Once scheduled, a prompt counts as cached: cut off before it runs, it would be answered from memory never filled.
    """
    from vllm import SamplingParams

    prompt = [{"prompt_token_ids": [*range(100, 400)]}]  # longer than a block of the cache
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    [expected] = llm.generate(prompt, params, use_tqdm=False)
    llm.reset_prefix_cache()
    met = []

    def profile(frame, event, argument):
        if event == "return" and frame.f_code.co_name == part:
            sys.setprofile(None)
            met.append(part)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        sys.setprofile(profile)
        try:
            llm.generate(prompt, params, use_tqdm=False)
        finally:
            sys.setprofile(None)
    assert met and not llm.llm_engine.has_unfinished_requests()
    [output] = llm.generate(prompt, params, use_tqdm=False)
    assert output.outputs[0].token_ids == expected.outputs[0].token_ids


@pytest.mark.slow
def test_closing_gives_the_memory_back_and_the_next_engine_opens(llm):
    def resident():  # MiB, without the pages of files, which the system may take back at any time
        return own_memory("RssAnon") / 2**20

    engine.close_engine()  # the fixture's; every test below this one in the file opens its own
    before = resident()
    with pytest.raises(RuntimeError, match="learner"), engine.open_engine(kv_cache_memory_bytes=512 * 2**20) as big:
        assert resident() > before + 500
        steps = big.llm_engine  # a name of the learner's, as in lesson 05
        raise RuntimeError("learner")
    assert resident() < before + 100
    for use in (lambda: big.generate("1"), lambda: big.llm_engine, steps.step, lambda: steps.engine_core):
        with pytest.raises(CourseError, match="closed"):
            use()
    small = engine.open_engine()
    assert small.generate("1+1=2, 2+2=4", use_tqdm=False)  # more than a token, see Server._warm_up
    del small  # what a learner does; the next engine must open all the same
    with engine.open_engine() as llm:
        assert llm.generate("1", use_tqdm=False)
    with pytest.raises(CourseError, match="tokenizer"):
        engine.split(None)


@pytest.mark.slow
def test_an_engine_that_could_not_open_leaves_the_way_free():
    engine.close_engine()
    with pytest.raises(TypeError, match="no_such_option"):
        engine.open_engine(no_such_option=1)
    with engine.open_engine() as llm:
        assert llm.model_config.model == str(models.course_model())


@pytest.mark.slow
def test_nothing_is_printed_and_numba_is_no_obstacle():
    code = """
import numba  # as n-gram drafts do; vLLM 0.32 alone would open no engine from now on
from helpers.engine import open_engine
with open_engine() as llm:
    llm.chat([{"role": "user", "content": "1"}], use_tqdm=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
