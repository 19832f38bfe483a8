"""Files that someone else wrote: each of some 1,000 damaged or hostile ones is read, or refused in one sentence.

The inputs are made here, by tables and by a seeded generator: config.json, generation_config.json, chat templates,
headers and indexes of safetensors, ``.npz`` traces, course.toml, folders of a hub's cache. None may end in a foreign
traceback or hang, none may count as zero what is not known, and what cannot be read is never whole.
"""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from faulty_hub import write_model

from helpers import ROOT, CourseError, catalogue, machine, models, routing
from helpers.cache import hub_copies
from helpers.checkpoint import LISTING, Checkpoint, read_header, render
from helpers.config import family, layers
from helpers.engine import environment, refuse_too_large, sized_options
from helpers.loading import load_model, qwen_config
from helpers.routing import RoutingTrace, expert_load

pytestmark = pytest.mark.slow

TINY, MOE = (ROOT / "assets/models" / name for name in ("qwen3-tiny", "qwen3-moe-tiny"))
INDEX = "model.safetensors.index.json"
DEEP = 100_000
LIMIT = 60  # seconds for one input, on a machine however busy: beyond it something hangs


@contextlib.contextmanager
def ends():
    """Whatever runs inside comes to an end."""

    def give_up(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(action):
    """What the action returns, or its CourseError, which has to be one sentence in each language."""
    with ends():
        try:
            return action()
        except CourseError as error:
            assert error.zh and error.en and "\n" not in error.zh + error.en, error.en
            return error


def copy(model: Path, folder: Path) -> Path:
    """A folder with the model's files, the weights as links; without a template, which no config concerns."""
    folder.mkdir(parents=True)
    for file in model.iterdir():
        if file.suffix == ".safetensors":
            (folder / file.name).symlink_to(file)
        elif file.suffix in (".json", ".jinja"):
            shutil.copy(file, folder)
    return folder


@pytest.fixture(autouse=True)
def own_settings(monkeypatch, tmp_path):
    for name in (models.MODEL_VARIABLE, models.MOE_VARIABLE, "MODELSCOPE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(models, "SETTINGS", tmp_path / "course.toml")
    monkeypatch.setattr(machine, "AUTODL_DATA_DISK", tmp_path / "no data disk")


# ---------------------------------------------------------------------------------------------------- config.json

SIZES = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "max_position_embeddings", "num_experts", "num_experts_per_tok", "moe_intermediate_size",
)  # fmt: skip
OTHERS = (
    "model_type", "architectures", "tie_word_embeddings", "rms_norm_eps", "rope_theta", "rope_parameters",
    "rope_scaling", "layer_types", "use_sliding_window", "attention_bias", "decoder_sparse_step", "mlp_only_layers",
    "norm_topk_prob", "eos_token_id", "pad_token_id", "quantization_config", "hidden_act", "text_config",
    "full_attention_interval", "num_local_experts", "shared_expert_intermediate_size", "linear_num_value_heads",
)  # fmt: skip
GONE = object()
VALUES = (
    GONE, None, "", "abc", "12", -1, 0, 1, 3, True, False, 1.5, -0.0, 10**6, 2**40, 10**400, float("nan"),
    float("inf"), [], [1], ["a"], [[]], [None], {}, {"a": 1}, {"rope_type": 5}, {"rope_type": "yarn", "factor": "x"},
    {"rope_type": "yarn", "factor": 1e308, "original_max_position_embeddings": -1}, "x" * 5000, "\x00", "\ud800",
)  # fmt: skip
REQUIRED = {key for key in SIZES if key not in ("num_key_value_heads", "head_dim")}


def configs():
    """(name, model, config): one key changed, in a dense and a sparse model, and pairs of keys drawn at random."""
    originals = {model: json.loads((model / "config.json").read_text(encoding="utf-8")) for model in (TINY, MOE)}
    for key, value in itertools.product(SIZES + OTHERS, VALUES):
        model = MOE if "expert" in key or key in ("decoder_sparse_step", "mlp_only_layers") else TINY
        yield f"{key}={value!r}"[:60], model, changed(originals[model], {key: value})
    draw = random.Random(16)
    for number in range(150):
        keys = draw.sample(SIZES + OTHERS, draw.randint(2, 5))
        model = draw.choice((TINY, MOE))
        yield f"drawn {number}", model, changed(originals[model], {key: draw.choice(VALUES) for key in keys})


def changed(config, changes):
    config = dict(config)
    for key, value in changes.items():
        if value is GONE:
            config.pop(key, None)
        else:
            config[key] = value
    return config


CONFIGS = list(configs())
READS = (
    lambda folder: Checkpoint(folder).capabilities,
    lambda folder: Checkpoint(folder).stop_ids,
    lambda folder: Checkpoint(folder).architecture,
    lambda folder: Checkpoint(folder).broken,
    lambda folder: models.find_checkpoint(str(folder)),
    lambda folder: models.describe(folder),
    lambda folder: environment(folder),
    lambda folder: sized_options(folder),
    lambda folder: refuse_too_large(folder, sized_options(folder)),
    lambda folder: qwen_config(folder),
)
COUNTS = (
    catalogue.parameters, catalogue.weight_bytes, catalogue.kv_bytes_per_token, catalogue.embedding_parameters,
    catalogue.kv_block, catalogue.head_dim, catalogue.kv_heads,
)  # fmt: skip


def check_counts(name, config):
    """Every number that comes out is one, and none is zero for a size that is not known."""
    for count in COUNTS:
        found = outcome(lambda count=count: count(config))
        if not isinstance(found, CourseError) and count is not catalogue.kv_bytes_per_token:
            assert found > 0, (name, count.__name__)
    kept = outcome(lambda: catalogue.kv_bytes_per_token(config))
    kinds = outcome(lambda: layers(config))
    assert isinstance(kept, CourseError) or kept > 0 or kinds.full == 0, name
    for gpus, dtype in ((1, "bf16"), (4, "fp8"), (7, "awq")):
        outcome(lambda gpus=gpus, dtype=dtype: catalogue.fits(config, 24e9, gpus=gpus, dtype=dtype))
        outcome(lambda gpus=gpus, dtype=dtype: catalogue.splits(config, gpus, dtype))
    outcome(lambda: family(config))
    outcome(lambda: catalogue.num_experts(config))
    outcome(lambda: catalogue.state_bytes_per_sequence(config))


def test_every_config_is_counted_or_refused():
    for name, _, config in CONFIGS:
        check_counts(name, config)
        check_counts(f"nested {name}", {"model_type": "qwen3_5", "text_config": config})


def test_every_config_is_loaded_or_refused(tmp_path):
    """The folder's other files are those of a whole model; what loads has the shapes that its config names."""
    folders = {model: copy(model, tmp_path / model.name) for model in (TINY, MOE)}
    for folder in folders.values():
        (folder / "chat_template.jinja").unlink()
    loaded = 0
    for name, model, config in CONFIGS:
        folder = folders[model]
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        for read in READS:
            outcome(partial(read, folder))
        found = outcome(partial(load_model, folder, device="cpu"))
        if not isinstance(found, CourseError):
            loaded += 1
            assert found.config.num_hidden_layers == config["num_hidden_layers"], name
    assert 0 < loaded < len(CONFIGS) / 2


@pytest.mark.parametrize("key", sorted(REQUIRED - {"intermediate_size"}))
@pytest.mark.parametrize("value", [GONE, "abc", -1, 2**40, 1.5, True])
def test_the_error_names_the_key(key, value, tmp_path):
    config = changed(json.loads((MOE / "config.json").read_text(encoding="utf-8")), {key: value})
    actions = [lambda: catalogue.fits(config, 24e9), lambda: catalogue.parameters(config, active=True)]
    found = [outcome(action) for action in actions]
    named = [error for error in found if isinstance(error, CourseError)]
    assert named and all(key in error.en and key in error.zh for error in named)


# ------------------------------------------------------------------------------------------- any file of a checkpoint


def as_bytes(content: bytes):
    return lambda file: file.write_bytes(content)


def a_loop(file):
    file.symlink_to(file)


RAW = {
    "empty": as_bytes(b""),
    "spaces": as_bytes(b" \n"),
    "cut": as_bytes(b'{"model_type": "qw'),
    "a list": as_bytes(b"[]"),
    "a number": as_bytes(b"5"),
    "none": as_bytes(b"null"),
    "a text": as_bytes(b'"qwen3"'),
    "deep lists": as_bytes(b"[" * DEEP + b"]" * DEEP),
    "deep objects": as_bytes(b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    "deep inside": as_bytes(b'{"model_type": ' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "a long number": as_bytes(b'{"eos_token_id": ' + b"9" * 10_000 + b"}"),
    "BOM": as_bytes(b'\xef\xbb\xbf{"model_type": "qwen3"}'),
    "UTF-16": as_bytes('{"model_type": "qwen3"}'.encode("utf-16")),
    "GBK": as_bytes('{"model_type": "模型"}'.encode("gbk")),
    "zeros": as_bytes(bytes(100)),
    "a web page": as_bytes(b"<!doctype html><title>404</title>"),
    "a pointer": as_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
    "noise": as_bytes(random.Random(1).randbytes(1000)),
    "a folder": lambda file: file.mkdir(),
    "a dangling link": lambda file: file.symlink_to("nowhere"),
    "a link to itself": a_loop,
    "a pipe": os.mkfifo,
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "another's": as_bytes(b'{"weight_map": {"a": 5}, "chat_template": 5, "eos_token_id": "x"}'),
}
HARMLESS = {  # readable JSON objects in which nothing has to stand
    ("generation_config.json", "another's"),
    ("tokenizer_config.json", "another's"),
}
FILES = ("config.json", "generation_config.json", "tokenizer_config.json", INDEX, LISTING, "model.safetensors")


@pytest.mark.parametrize("name", [*FILES, "chat_template.jinja"])
def test_every_file_may_be_anything(name, tmp_path):
    for kind, write in RAW.items():
        folder = copy(TINY, tmp_path / f"{name} {kind}")
        (folder / name).unlink(missing_ok=True)
        write(folder / name)
        checkpoint = Checkpoint(folder)
        broken = outcome(lambda checkpoint=checkpoint: checkpoint.broken)
        for action in (
            lambda checkpoint=checkpoint: checkpoint.capabilities,
            lambda checkpoint=checkpoint: checkpoint.stop_ids,
            lambda checkpoint=checkpoint: checkpoint.stored_bytes,
            lambda folder=folder: load_model(folder, device="cpu"),
            lambda checkpoint=checkpoint: sized_options(checkpoint),
        ):
            outcome(action)
        found = outcome(lambda folder=folder: models.find_checkpoint(str(folder)))
        if name not in (LISTING, "chat_template.jinja") and (name, kind) not in HARMLESS:
            assert (broken or name == "config.json") and isinstance(found, CourseError), (kind, "taken for whole")


# ---------------------------------------------------------------------------------------------------- safetensors

ENTRY = {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}
HEADERS = [
    {"a": value} for value in (None, 5, "x", [], {}, {"dtype": "BF16"}, ENTRY | {"shape": None}, ENTRY | {"shape": 4})
] + [
    {"a": ENTRY | change}
    for change in (
        {"data_offsets": None}, {"data_offsets": [8]}, {"data_offsets": ["0", "8"]}, {"data_offsets": [8, 0]},
        {"data_offsets": [-8, 0]}, {"data_offsets": [0, 2**62]}, {"data_offsets": [0, 1e9]}, {"data_offsets": {}},
        {"shape": [-2, -2]}, {"shape": ["2"]}, {"shape": [2**62, 2]}, {"shape": [[2]]}, {"shape": [True, 4]},
        {"dtype": 5}, {"dtype": None}, {"dtype": "F999"}, {"dtype": []}, {"shape": [3, 3]},
    )
]  # fmt: skip
LENGTHS = (0, 1, 7, 100, 2**20, 99_999_999, 2**31, 2**40, 2**63, 2**64 - 1)


def test_every_header_is_read_or_refused(tmp_path):
    folder = copy(TINY, tmp_path / "model")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    file.unlink()
    bodies = [json.dumps(header).encode() for header in HEADERS]
    files = [len(body).to_bytes(8, "little") + body + bytes(8) for body in bodies]
    files += [number.to_bytes(8, "little") + b'{"a": 1}' for number in LENGTHS]
    files += [whole[:size] for size in (1, 7, 8, 9, length, length + 8, length + 9, len(whole) - 1)]
    draw = random.Random(3)
    for _ in range(60):  # a byte of the length or of the header changed: mostly nonsense, sometimes another name
        place, flipped = draw.randrange(length + 8), bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        files.append(bytes(flipped))
    for content in files:
        file.write_bytes(content)
        checkpoint = Checkpoint(folder)
        with ends(), contextlib.suppress(OSError, ValueError):
            read_header(file)
        broken = outcome(lambda checkpoint=checkpoint: checkpoint.broken)
        found = outcome(lambda: load_model(folder, device="cpu"))
        outcome(lambda: models.find_checkpoint(str(folder)))
        if isinstance(broken, list) and broken:
            assert isinstance(found, CourseError)
    assert len(files) > 100


def test_an_index_that_leads_elsewhere_is_none(tmp_path):
    outside = tmp_path / "outside.safetensors"
    shutil.copy(TINY / "model.safetensors", outside)
    for shard in (
        "../outside.safetensors",
        str(outside),
        "a/../../outside.safetensors",
        "",
        ".",
        "a\x00b",
        5,
        None,
        [],
    ):
        folder = copy(TINY, tmp_path / "model")
        (folder / INDEX).write_text(json.dumps({"weight_map": {"model.embed_tokens.weight": shard}}))
        assert INDEX in outcome(lambda folder=folder: Checkpoint(folder).broken), shard
        assert isinstance(outcome(lambda folder=folder: load_model(folder)), CourseError)
        shutil.rmtree(folder)


# ---------------------------------------------------------------------------------------------------- chat templates

ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% for a in range(9) %}{{ f(n + 1) }}{% endfor %}{% endmacro %}{{ f(0) }}",
    "{{ lipsum(n=10**9) }}",
    "{{ 'a' * 10**12 }}",
    "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(n=9) %}{% for i in range(99) %}{% set ns.n = ns.n ** 9 %}{% endfor %}{{ ns.n }}",
    "{{ '%999999999999d' % 1 }}",
    "{{ 'a'.center(10**12) }}",
    "{{ 'x'|center(10**12) }}",
    "{{ [1]|batch(10**10, 0)|list }}",
]
WRONG = [
    "{% for %}", "{% if %}", "{{", "{{ 1 / 0 }}", "{{ messages[5].role.x }}", "{{ undefined.x }}", "{{ ''.__class__ }}",
    "{{ messages.append(1) }}", "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}",
    "{{ raise_exception(1) }}", "{{ raise_exception('no') }}", "{{ range(10**9) }}", "{% generation %}",
    "{{ messages|tojson(5, 6, 7, 8, 9) }}",
    "{{ cycler.__init__.__globals__ }}", "{{ strftime_now(5) }}", "{{ 'a' + 1 }}", "{{ messages|map('x')|list }}",
    "\x00{%",
]  # fmt: skip
RIGHT = {
    "{% generation %}{{ messages[0].content }}{% endgeneration %}": "never",
    "{%- generation -%} x {%- endgeneration -%}": "never",
    "{{ strftime_now('%Y') }}{{ messages|tojson }}": "never",
    "{{ {'a': '<é>'}|tojson(indent=2) }}": "never",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% break %}{% endfor %}": "never",
    "{% if tools is none and documents is none %}<think>{% endif %}": "always",
    "{% if enable_thinking is false %}{{ raise_exception('always on') }}{% endif %}<think>\n": "always",
    "{% if enable_thinking %}{{ raise_exception('never on') }}{% endif %}": "never",
    "{{ enable_thinking }}": "switch",
    "": "never",
}


def test_every_template_ends(tmp_path):
    for number, template in enumerate(ENDLESS):
        folder = copy(TINY, tmp_path / str(number))
        (folder / "chat_template.jinja").write_text(template)
        found = outcome(lambda folder=folder: Checkpoint(folder).thinking)
        assert isinstance(found, CourseError) and "chat template" in found.en, template
        assert "fetch" not in str(found) and "download" not in str(found)


@pytest.mark.parametrize("template", [*RIGHT, *WRONG])
def test_templates_are_rendered_as_transformers_does(template, tmp_path):
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": "user", "content": "?"}]
    for on in (True, False):
        [ours] = render(template, {"enable_thinking": on})
        options = {"chat_template": template, "add_generation_prompt": True, "enable_thinking": on}
        try:
            theirs = render_jinja_template([messages], **options)[0][0]
        except Exception:
            assert isinstance(ours, ValueError)
        else:
            assert ours == theirs
    folder = copy(TINY, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    found = outcome(lambda: Checkpoint(folder).thinking)
    if template in RIGHT:
        assert found == RIGHT[template]
    else:
        assert isinstance(found, CourseError) is isinstance(ours, ValueError)


@pytest.mark.parametrize(
    ("field", "thinking"),
    [
        ([{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ enable_thinking }}"}], "switch"),
        ([{"name": "tool_use", "template": "x"}], "never"),
        ([5, None, {"name": 5}], "never"),
        ("{{ enable_thinking ~ eos_token }}", "switch"),
        (5, None),
        ({"default": "x"}, None),
        ([{"name": "default", "template": 5}], None),
    ],
)
def test_a_template_in_the_tokenizers_configuration(field, thinking, tmp_path):
    folder = copy(TINY, tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    settings = {"chat_template": field, "eos_token": {"content": "<|im_end|>"}, "pad_token": 5}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    found = outcome(lambda: Checkpoint(folder).thinking)
    assert found == thinking if thinking else isinstance(found, CourseError)


# ---------------------------------------------------------------------------------------------------- traces

TRACE = {
    "version": np.array(1),
    "token_ids": np.arange(3),
    "piece_bytes": np.frombuffer(b"abc", np.uint8),
    "piece_lengths": np.ones(3, int),
    "prompt_length": np.array(2),
    "layers": np.arange(2),
    "expert_ids": np.tile(np.array([0, 1]), (2, 3, 1)),
    "num_experts": np.array(4),
    "provenance": np.frombuffer(b"{}", np.uint8),
    "weights": np.full((2, 3, 2), 0.5, np.float16),
    "entropy": np.ones((2, 3), np.float16),
}
ARRAYS = [
    np.array(-1), np.array(2**40), np.array(0), np.array(1.5), np.array(True), np.array("x"), np.array(np.nan),
    np.zeros(0), np.zeros((2, 3, 2)), np.full((2, 3, 2), -1), np.full((2, 3, 2), 2**62), np.array([2**63], np.uint64),
    np.full((2, 3, 2), np.inf), np.array([1j]), np.zeros((1, 1, 1, 1), np.int8), np.array(["2020"], "M8[s]"),
    np.frombuffer(b"[" * DEEP, np.uint8), np.frombuffer(b"[1]", np.uint8), np.frombuffer(b"\xff", np.uint8), None,
]  # fmt: skip


def test_every_trace_is_read_or_refused(tmp_path):
    path = tmp_path / "trace.npz"
    np.savez(path, **TRACE)
    whole = path.read_bytes()
    assert isinstance(outcome(lambda: RoutingTrace.load(path)), RoutingTrace)
    for name, values in itertools.product(TRACE, ARRAYS):
        arrays = {key: value for key, value in (TRACE | {name: values}).items() if value is not None}
        np.savez(path, **arrays)
        found = outcome(lambda: RoutingTrace.load(path))
        if not isinstance(found, CourseError):
            assert outcome(lambda found=found: expert_load(found)).sum() == found.expert_ids.size
    draw = random.Random(5)
    for _ in range(100):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(flipped) if draw.random() < 0.7 else whole[: draw.randrange(len(whole))])
        outcome(lambda: RoutingTrace.load(path))


def test_a_trace_is_no_way_to_fill_the_memory(tmp_path, monkeypatch):
    """What is not part of a trace is not read, and what is has a limit, here a small one."""
    path, most = tmp_path / "trace.npz", 2**20
    monkeypatch.setattr(routing, "MOST_BYTES", most)
    for name in ("unused", "expert_ids"):
        np.savez_compressed(path, **TRACE | {name: np.zeros(most, np.int64)})
        tracemalloc.start()
        found = outcome(lambda: RoutingTrace.load(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert isinstance(found, RoutingTrace if name == "unused" else CourseError)
        assert path.stat().st_size < most / 10 and peak < most
        assert name == "unused" or "too large" in found.en


# ---------------------------------------------------------------------------------------------------- course.toml

SETTINGS = [
    b"", b"\n\n", b"course_model = ", b"course_model = 5", b"course_model = true", b"course_model = []",
    b"course_model = {}", b'course_model = ""', b'course_model = "no-such-model"', b'course_model = "\\ud800"',
    b'course_model = "a\\u0000b"', b"course_model = 2020-01-01", b"[course_model]\na = 1", b"course_model",
    b'course_model = "' + b"a/" * 4000 + b'"', b'course_model = "~nobody-of-this-name/x"', b'course_model = "\xff"',
    b"\xef\xbb\xbfcourse_model = 'x'", 'course_model = "模型"'.encode("gbk"), 'a = "x"'.encode("utf-16"), bytes(50),
    b"a = " + b"[" * DEEP + b"]" * DEEP, b"a." * 5000 + b"b = 1", b'course_model = "x"\ncourse_model = "y"',
    b'course_model = "qwen3-tiny"\n[other]\nx = 1\n', b'# by hand\nother = """\n[not a table]\n"""\n',
]  # fmt: skip


def test_every_settings_file_is_read_or_refused_and_never_emptied():
    for content in SETTINGS:
        models.SETTINGS.write_bytes(content)
        outcome(models.course_model)
        outcome(models.describe)
        found = outcome(lambda: models.use("qwen3-moe-tiny", models.MOE_VARIABLE))
        after = models.SETTINGS.read_bytes()
        if isinstance(found, CourseError):
            assert after == content
        else:
            assert set(content.splitlines()) <= set(after.splitlines())
            assert models.course_moe_model() == MOE


@pytest.mark.parametrize("kind", ["a folder", "a dangling link", "a link to itself", "a pipe", "a device"])
def test_settings_that_are_no_file(kind):
    RAW[kind](models.SETTINGS)
    outcome(models.course_model)
    outcome(lambda: models.use("qwen3-tiny"))


def test_other_settings_stay_where_they_are(tmp_path):
    before = '# mine\nother = 1\ncourse_model = "old"\n\n[table]\ncourse_model = "of the table"\nx = [1, 2]\n'
    models.SETTINGS.write_text(before)
    models.use("qwen3-tiny")
    assert models.SETTINGS.read_text() == before.replace('"old"', '"qwen3-tiny"')
    models.use("qwen3-moe-tiny", models.MOE_VARIABLE)
    assert models.course_moe_model() == MOE and "of the table" in models.SETTINGS.read_text()


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", "模型 \U0001f600".encode(), b'a"b\\c', b"tab\there", b"\x7f", b"line\nbreak"]
)
def test_a_folder_of_any_name_is_chosen_or_refused(name, tmp_path):
    models.use("qwen3-tiny")
    before = models.SETTINGS.read_bytes()
    folder = copy(TINY, tmp_path / os.fsdecode(name))
    try:
        models.use(str(folder))
    except CourseError:
        assert models.SETTINGS.read_bytes() == before
    else:
        assert models.course_model() == folder


VALUES_OF_A_MODEL = [
    "", ".", "..", "/", "~", "~nobody-of-this-name", "a" * 5000, "a/" * 3000, "\x00", "a\x00/b", "\ud800", "/dev/null",
    "/proc/self/mem", "Qwen/", "/Qwen", "Qwen/../x", "Qwen/Qwen3-8B\n", "qwen3-tiny/", "qwen3-tiny/..", "模型", "C:\\x",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES_OF_A_MODEL, ids=lambda value: repr(value)[:20])
def test_every_value_is_found_or_refused(value, monkeypatch):
    outcome(lambda: models.find_checkpoint(value))
    outcome(lambda: models.use(value))
    with contextlib.suppress(ValueError):  # no variable holds a NUL
        monkeypatch.setenv(models.MODEL_VARIABLE, value)
        outcome(models.course_model)
        monkeypatch.setenv("MODELSCOPE_CACHE", value)
        outcome(lambda: models.find_checkpoint("Qwen/Qwen3-8B"))


# ---------------------------------------------------------------------------------------------------- caches of clients

FOREIGN = [  # what other programs leave in a folder with a whole model
    ".cache/huggingface/download/x.ab12.incomplete", ".cache/huggingface/.gitignore", "._model.safetensors",
    ".DS_Store", "._config.json", ".git/index", ".msc", ".mv", "._____temp/model.safetensors.incomplete",
    ".ipynb_checkpoints/config.json", "original/consolidated.00.pth", "onnx/model.onnx",
    "README.md", ".lock/file.lock", "tokenizer.json.incomplete",
]  # fmt: skip


@pytest.mark.parametrize("path", FOREIGN)
def test_foreign_files_do_not_condemn_a_whole_model(path, tmp_path):
    folder = write_model(tmp_path / "model")
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(b"")
    assert Checkpoint(folder).broken == [] and models.find_checkpoint(str(folder)) == folder
    (folder / "model.safetensors.index.json").unlink()
    assert Checkpoint(folder).broken == []


def test_what_was_begun_is_still_seen(tmp_path):
    folder = write_model(tmp_path / "model")
    (folder / "onnx").mkdir()
    (folder / "onnx/model.onnx.incomplete").write_bytes(b"")
    assert Checkpoint(folder).broken == ["onnx/model.onnx"]


LAYOUTS = [
    "models/qwen--qwen3-0.6b/snapshots/master", "models/Qwen--Qwen3-0.6B/snapshots/master", "qwen/Qwen3-0.6B",
    "Qwen/Qwen3-0___6B", "qwen/qwen3-0___6b", "hub/qwen/Qwen3-0___6B", "models/QWEN/Qwen3-0.6B",
    "hub/models/qwen/Qwen3-0___6B",
]  # fmt: skip


@pytest.mark.parametrize("asked", ["Qwen/Qwen3-0.6B", "qwen/qwen3-0.6b"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_is_found_in_any_case_and_has_its_name(layout, asked, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    folder = write_model(tmp_path / "cache" / layout)
    assert models.find_checkpoint(asked) == folder and "___" not in Checkpoint(folder).name
    assert Checkpoint(folder).name.lower() == "qwen3-0.6b"
    assert models.use(asked) == folder and f'"{asked}"' in models.SETTINGS.read_text()


def test_the_very_name_comes_before_another_case(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    write_model(tmp_path / "cache/qwen/Qwen3-8B")
    exact = write_model(tmp_path / "cache/Qwen/Qwen3-8B")
    assert [copy.folder for copy in hub_copies("Qwen/Qwen3-8B")][0] == exact


@pytest.mark.parametrize("kind", ["empty", "a folder", "a dangling link", "a link to itself", "a pipe", "noise"])
@pytest.mark.parametrize(
    "place", ["cache", "cache/models", "cache/models/Qwen--Qwen3-8B/snapshots/master", "cache/Qwen"]
)
def test_a_cache_may_be_anything(place, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    RAW[kind](tmp_path / place)
    assert isinstance(outcome(lambda: models.find_checkpoint("Qwen/Qwen3-8B")), CourseError)


# ---------------------------------------------------------------------------------------------------- writing


def test_two_writers_leave_one_whole_file_and_nothing_else(tmp_path):
    """Each has a file of its own, which takes the name when it is written: the other cannot pull it away."""
    from helpers.files import replacing

    path = tmp_path / "out"
    with replacing(path) as first:
        first.write(b"first")
        with replacing(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]
    with contextlib.suppress(ZeroDivisionError), replacing(path) as third:
        third.write(b"half")
        1 / 0  # noqa: B018
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_how_many_inputs_there_are():
    tables = len(CONFIGS) * 2 + len(RAW) * (len(FILES) + 1) + len(HEADERS) + len(LENGTHS) + 60 + 8
    tables += len(ENDLESS) + len(WRONG) + len(RIGHT) + len(TRACE) * len(ARRAYS) + 100 + len(SETTINGS)
    tables += len(VALUES_OF_A_MODEL) + len(FOREIGN) + 2 * len(LAYOUTS)
    assert tables > 2_000
