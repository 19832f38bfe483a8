"""helpers.models: which model the course uses, what its files say, sizes against published totals."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from faulty_hub import SHARDS, write_model, write_shard

from helpers import ROOT, CourseError, catalogue, machine, models
from helpers.checkpoint import LISTING, Checkpoint, read_header

GIB = 2**30
TEMPLATE = (ROOT / "helpers/lessons/lA1/chat_template.jinja").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch, tmp_path):
    """No variables, no course.toml, caches of its own."""
    for name in (models.MODEL_VARIABLE, models.MOE_VARIABLE, "MODELSCOPE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(models, "SETTINGS", tmp_path / "course.toml")
    monkeypatch.setattr(models, "BUNDLED", tmp_path / "bundled")
    monkeypatch.setattr(machine, "AUTODL_DATA_DISK", tmp_path / "autodl-tmp")
    write_model(tmp_path / "bundled/qwen3-tiny")


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


def choice(variable):
    found = models.chosen(variable)
    return found.folder, found.chosen_by


def test_variable_wins_over_settings_and_these_over_the_default(model, tmp_path, monkeypatch):
    default = tmp_path / "bundled/qwen3-tiny"
    assert choice(models.MODEL_VARIABLE) == (default, "the default")
    assert models.is_bundled() and "the default" in models.describe()
    models.use(str(model))
    assert choice(models.MODEL_VARIABLE) == (model, "course.toml")
    assert not models.is_bundled() and "chosen by: course.toml" in models.describe()
    monkeypatch.setenv(models.MODEL_VARIABLE, "qwen3-tiny")
    assert choice(models.MODEL_VARIABLE) == (default, models.MODEL_VARIABLE)


def test_use_keeps_the_other_choice_and_writes_nothing_for_what_is_not_there(model, tmp_path, monkeypatch):
    models.use(str(model), models.MOE_VARIABLE)
    with pytest.raises(CourseError, match="needs a Qwen3-MoE, and model is qwen3: set COURSE_MOE_MODEL"):
        models.course_moe_model()
    config = Checkpoint(model).config | {"model_type": "qwen3_moe"}
    (model / "config.json").write_text(json.dumps(config))
    models.use("qwen3-tiny")
    before = models.SETTINGS.read_text()
    assert before.count("\n") == 2 and 'course_model = "qwen3-tiny"' in before
    assert models.course_moe_model() == model and models.course_model() == tmp_path / "bundled/qwen3-tiny"
    with pytest.raises(CourseError):
        models.use("Qwen/Qwen3-8B")
    assert models.SETTINGS.read_text() == before
    monkeypatch.chdir(model.parent)
    models.use("model")
    assert json.dumps(str(model)) in models.SETTINGS.read_text(), "a relative folder must not depend on where one is"


def test_use_from_the_command_line(model, capsys):
    assert models.main(["use", str(model)]) == 0 and "chosen by: course.toml" in capsys.readouterr().out
    assert models.main(["use", "Qwen/Qwen3-8B"]) == 1
    assert "python -m helpers.download Qwen/Qwen3-8B" in capsys.readouterr().err
    assert models.main([]) == 0 and models.course_model() == model


def test_id_in_every_cache(tmp_path, monkeypatch):
    for cache in ("autodl-tmp", "home/.cache/modelscope", "setting"):
        with pytest.raises(CourseError, match=r"not on disk.*helpers\.download Qwen/Qwen3-0\.6B"):
            models.find_checkpoint("Qwen/Qwen3-0.6B")
        folder = write_model(tmp_path / cache / "models/Qwen--Qwen3-0.6B/snapshots/master")
        if cache == "setting":
            monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / cache))
        assert models.find_checkpoint("Qwen/Qwen3-0.6B") == folder
        (folder / SHARDS[0]).unlink()
        with pytest.raises(CourseError, match="not been downloaded completely"):
            models.find_checkpoint("Qwen/Qwen3-0.6B")
        for file in folder.iterdir():
            file.unlink()


@pytest.mark.parametrize("value", ["no-such-model", "/no/such/folder", "..", "Qwen3-8B"])
def test_what_is_no_model_is_refused_in_two_sentences(value):
    with pytest.raises(CourseError) as refusal:
        models.find_checkpoint(value)
    assert len(str(refusal.value).splitlines()) == 2


def test_settings_that_cannot_be_read(tmp_path):
    models.SETTINGS.write_text("course_model = ")
    with pytest.raises(CourseError, match=r"course\.toml"):
        models.course_model()


def damage_nothing(folder):
    pass


def cut_shard(folder):
    data = (folder / SHARDS[0]).read_bytes()
    (folder / SHARDS[0]).write_bytes(data[:-1])


def empty_shard(folder):
    (folder / SHARDS[0]).write_bytes(b"")


def no_safetensors(folder):
    (folder / SHARDS[0]).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def wrong_tensors(folder):
    write_shard(folder / SHARDS[0], {"other": 10})


def no_shard(folder):
    (folder / SHARDS[0]).unlink()


def begun(folder):
    (folder / "merges.txt.incomplete").write_text("#version")


def broken_index(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {')


def cut_config(folder):
    (folder / "config.json").write_text('{"model_type":')


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def listed_but_not_there(folder):
    (folder / LISTING).write_text(json.dumps({"merges.txt": [5, None]}))


def no_weights(folder):
    for file in folder.glob("model*"):
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (damage_nothing, []),
        (cut_shard, [SHARDS[0]]),
        (empty_shard, [SHARDS[0]]),
        (no_safetensors, [SHARDS[0]]),
        (wrong_tensors, [SHARDS[0]]),
        (no_shard, [SHARDS[0]]),
        (begun, ["merges.txt"]),
        (broken_index, ["model.safetensors", "model.safetensors.index.json"]),
        (cut_config, ["config.json"]),
        (no_tokenizer, ["tokenizer.json"]),
        (listed_but_not_there, ["merges.txt"]),
        (no_weights, ["model.safetensors"]),
    ],
)
def test_broken_files(damage, names, model):
    damage(model)
    assert Checkpoint(model).broken == names
    if names:
        with pytest.raises(CourseError, match=r"helpers\.download ID --folder"):
            models.find_checkpoint(str(model))


def test_one_file_without_an_index(model):
    no_weights(model)
    write_shard(model / "model.safetensors", {"a": 10, "b": 20})
    assert Checkpoint(model).broken == []
    header, begin = read_header(model / "model.safetensors")
    assert header["b"]["data_offsets"] == [10, 30]
    assert begin + 30 == (model / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("template", "thinking"),
    [
        (TEMPLATE, "switch"),
        # Qwen3-2507 Thinking opens the block for the model, 2507 Instruct knows no block; neither has a switch
        ("{%- for m in messages %}{{ m.content }}{% endfor %}{{- '<|im_start|>assistant\\n<think>\\n' }}", "always"),
        ("{%- for m in messages %}{{ m.content }}{% endfor %}{{- '<|im_start|>assistant\\n' }}", "never"),
        ("{{ '<think>' + messages[0].content + '</think>' }}{{- '<|im_start|>assistant\\n' }}", "never"),
        (None, "never"),
    ],
)
@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_thinking_is_seen_from_the_template(template, thinking, place, model):
    if place == "tokenizer_config.json":
        (model / place).write_text(json.dumps({"chat_template": template}))
    elif template:
        (model / place).write_text(template)
    assert Checkpoint(model).capabilities.thinking == thinking


def test_template_that_does_not_work(model):
    (model / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(CourseError, match="chat template"):
        Checkpoint(model).capabilities  # noqa: B018 - it is read when asked for


def test_template_runs_in_a_sandbox(model):
    (model / "chat_template.jinja").write_text("{{ messages.__class__.__mro__ }}")
    with pytest.raises(CourseError, match="unsafe"):
        Checkpoint(model).capabilities  # noqa: B018 - it is read when asked for


@pytest.mark.parametrize(
    ("extra", "moe", "quantised"),
    [
        ({}, False, None),
        ({"num_experts": 8}, True, None),
        ({"quantization_config": {"quant_method": "fp8"}}, False, "fp8"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, False, "awq"),
    ],
)
def test_other_capabilities(extra, moe, quantised, model):
    config = json.loads((model / "config.json").read_text()) | extra
    (model / "config.json").write_text(json.dumps(config))
    found = Checkpoint(model).capabilities
    assert (found.moe, found.quantised, found.context) == (moe, quantised, 128)


# Parameters of the released checkpoints, size of their bf16 weight files in GB, KV-cache bytes per token in bf16.
PUBLISHED = {
    "Qwen/Qwen3-0.6B": (596_049_920, 1.50, 114_688),
    "Qwen/Qwen3-1.7B": (1_720_574_976, 4.06, 114_688),
    "Qwen/Qwen3-4B": (4_022_468_096, 8.04, 147_456),
    "Qwen/Qwen3-8B": (8_190_735_360, 16.38, 147_456),
    "Qwen/Qwen3-14B": (14_768_307_200, 29.54, 163_840),
    "Qwen/Qwen3-32B": (32_762_123_264, 65.52, 262_144),
    "Qwen/Qwen3-30B-A3B": (30_532_122_624, 61.06, 98_304),
    "Qwen/Qwen3-235B-A22B": (235_093_634_560, 470.19, 192_512),
    "Qwen/Qwen2.5-0.5B-Instruct": (494_032_768, 0.99, 12_288),
    "Qwen/Qwen2.5-1.5B-Instruct": (1_543_714_304, 3.09, 28_672),
    "Qwen/Qwen2.5-3B-Instruct": (3_085_938_688, 6.17, 36_864),
    "Qwen/Qwen2.5-7B-Instruct": (7_615_616_512, 15.23, 57_344),
    "Qwen/Qwen2.5-14B-Instruct": (14_770_033_664, 29.54, 196_608),
    "Qwen/Qwen2.5-32B-Instruct": (32_763_876_352, 65.53, 262_144),
    "Qwen/Qwen2.5-72B-Instruct": (72_706_203_648, 145.41, 327_680),
}


def test_catalogue_gives_the_published_numbers():
    found = {
        name: (
            catalogue.parameters(release.config),
            round(release.download / 1e9, 2),
            catalogue.kv_bytes_per_token(release.config),
        )
        for name, release in catalogue.CATALOGUE.items()
    }
    assert found == PUBLISHED


def test_active_parameters_and_a_shared_expert():
    known = catalogue.CATALOGUE
    assert catalogue.parameters(known["Qwen/Qwen3-30B-A3B"].config, active=True) == 3_353_032_704
    assert catalogue.parameters(known["Qwen/Qwen3-235B-A22B"].config, active=True) == 22_190_763_520
    qwen2_moe = {
        "model_type": "qwen2_moe",
        "num_hidden_layers": 24,
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": 151_936,
        "tie_word_embeddings": False,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    }
    assert catalogue.parameters(qwen2_moe) == 14_315_784_192  # Qwen1.5-MoE-A2.7B
    assert catalogue.parameters(qwen2_moe, active=True) == 2_689_173_504


def checkpoints() -> list[Path]:
    return [path.parent for path in sorted((ROOT / "assets/models").glob("*/config.json"))]


@pytest.mark.parametrize("folder", checkpoints(), ids=lambda folder: folder.name)
def test_arithmetic_on_the_bundled_checkpoints(folder):
    """Against the bytes in the checkpoint's own files."""
    config = Checkpoint(folder).config
    headers = [read_header(file)[0] for file in folder.glob("*.safetensors")]
    entries = [entry for header in headers for entry in header.values()]
    assert sum(end - begin for begin, end in (entry["data_offsets"] for entry in entries)) == catalogue.weight_bytes(
        config
    )
    assert Checkpoint(folder).broken == []
    assert Checkpoint(folder).capabilities.thinking == "switch"


def test_estimates_of_quantised_weights():
    config = catalogue.CATALOGUE["Qwen/Qwen3-8B"].config
    sizes = [catalogue.weight_bytes(config, dtype) / GIB for dtype in ("bf16", "fp8", "awq")]
    assert [round(size, 1) for size in sizes] == [15.3, 8.8, 5.7]


def test_what_fits():
    qwen8, qwen30 = (catalogue.CATALOGUE[f"Qwen/Qwen3-{size}"].config for size in ("8B", "30B-A3B"))
    fit = catalogue.fits(qwen8, 24 * GIB, context=8192)
    assert fit.fits and fit.max_context % 16 == 0 and 38_000 < fit.max_context < 39_000
    assert catalogue.fits(qwen8, 24 * GIB, context=fit.max_context).fits
    assert not catalogue.fits(qwen8, 24 * GIB, context=fit.max_context + 16).fits
    assert not catalogue.fits(qwen8, 24 * GIB, context=8192, sequences=5).fits
    assert catalogue.fits(qwen8, 24 * GIB, context=8192, sequences=5, kv_bytes=1).fits
    assert catalogue.fits(qwen8, 16 * GIB).max_context == 0 and catalogue.fits(qwen8, 16 * GIB, dtype="awq").fits
    assert catalogue.fits(qwen8, 80 * GIB).max_context == 40960, "no more than the checkpoint allows"
    assert catalogue.fits(qwen30, 80 * GIB).fits and not catalogue.fits(qwen30, 48 * GIB).fits
    pair, eight = catalogue.fits(qwen30, 48 * GIB, gpus=2), catalogue.fits(qwen30, 48 * GIB, gpus=8)
    assert pair.fits and pair.weights == catalogue.weight_bytes(qwen30) / 2
    assert eight.kv_cache == catalogue.fits(qwen30, 48 * GIB, gpus=4).kv_cache, "4 KV heads: 8 cards hold them twice"


@pytest.mark.parametrize(
    ("model", "gpus", "dtype", "possible"),
    [
        ("Qwen3-30B-A3B", 4, "bf16", True),
        ("Qwen3-30B-A3B", 2, "fp8", True),
        ("Qwen3-30B-A3B", 4, "fp8", True),  # 768 / 4 = 192: blocks of 64
        ("Qwen3-30B-A3B", 8, "fp8", True),  # 96: blocks of 32
        ("Qwen3-30B-A3B", 16, "fp8", False),  # 48: blocks of 16, too small
        ("Qwen3-235B-A22B", 4, "fp8", True),
        ("Qwen3-235B-A22B", 8, "fp8", True),
        ("Qwen3-4B", 4, "fp8", True),
        ("Qwen3-4B", 8, "fp8", False),  # 9728 / 8 = 1216: dense layers keep their blocks
        ("Qwen3-8B", 3, "bf16", False),
        ("Qwen3-8B", 16, "bf16", True),  # 8 KV heads, each on two cards
        ("Qwen3-14B", 5, "bf16", False),  # 40 heads divide by 5, 8 KV heads do not
        ("Qwen2.5-7B-Instruct", 7, "bf16", False),  # 28 heads divide by 7, 4 KV heads do not
        ("Qwen2.5-0.5B-Instruct", 14, "bf16", False),  # heads divide, the MLP and the vocabulary do not
        ("Qwen3-8B", 8, "awq", True),
        ("Qwen2.5-7B-Instruct", 4, "bf16", True),
        ("Qwen2.5-7B-Instruct", 8, "bf16", False),  # 28 heads
    ],
)
def test_what_can_be_cut_into_parts(model, gpus, dtype, possible):
    config = catalogue.CATALOGUE[f"Qwen/{model}"].config
    assert catalogue.splits(config, gpus, dtype) is possible
    assert catalogue.splits(config, 1, dtype) is True
    assert catalogue.fits(config, 1000 * GIB, dtype=dtype, gpus=gpus).fits is possible


def test_share_of_the_card_is_vllms_default():
    import importlib.util

    source = Path(importlib.util.find_spec("vllm").origin).parent / "config" / "cache.py"
    [default] = re.findall(r"gpu_memory_utilization: float = Field\(default=([\d.]+)", source.read_text())
    assert float(default) == catalogue.GPU_SHARE


@pytest.mark.slow
def test_fp8_blocks_as_vllm_refines_them():
    """vLLM's own rule for experts of one width, cut into parts, against ours."""
    code = """
        import json, sys
        from types import SimpleNamespace
        from vllm.model_executor.layers.fused_moe.oracle.fp8 import refine_fp8_moe_block_shape
        shapes = {}
        for width, parts in json.loads(sys.argv[1]):
            cut = SimpleNamespace(intermediate_size_per_partition=width // parts, tp_size=parts, hidden_dim=2048)
            shapes[f"{width} {parts}"] = refine_fp8_moe_block_shape(cut, [128, 128]) or [128, 128]
        print(json.dumps(shapes))
    """
    cases = [(width, parts) for width in (768, 1536, 1024, 512) for parts in (2, 4, 8, 16)]
    command = [sys.executable, "-c", textwrap.dedent(code), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True)
    shapes = json.loads(done.stdout.splitlines()[-1])
    assert shapes["768 4"] == [64, 64] and shapes["768 8"] == [32, 32], done.stderr
    for width, parts in cases:
        config = catalogue.CATALOGUE["Qwen/Qwen3-30B-A3B"].config | {"moe_intermediate_size": width}
        assert catalogue.splits(config, parts, "fp8") is ((width // parts) % shapes[f"{width} {parts}"][0] == 0)


def test_import_is_cheap():
    code = "import sys, helpers.models, helpers.download, helpers.hub; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "vllm", "numpy", "jinja2", "requests", "modelscope_hub"} & set(loaded)
