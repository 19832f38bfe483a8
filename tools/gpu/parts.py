"""The parts of a check on a GPU. Each runs in a process of its own and returns its figures.

    python -m tools.gpu.parts NAME FILE     runs one part and writes its figures as JSON

An exception is a failure, and its text goes into the report. Parts that need torch only import nothing else.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers import GIB, ROOT, CourseError, catalogue, models
from helpers.checkpoint import Checkpoint

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
NEW_TOKENS = 128
ROW = re.compile(r"^(\S+) +\| (\d+) +\| ([\d.]+) *\| ok$", re.MULTILINE)  # of the table of tools/lessons/run.py


@dataclass(frozen=True)
class Part:
    """``needs``: of "cuda", "vllm", "jupyter", "matplotlib", "real" (a COURSE_MODEL that is not bundled), "real moe".

    memory: GiB of a card; seconds: the limit of its time.
    """

    run: Callable[[], dict]
    seconds: int
    needs: tuple[str, ...] = ()
    memory: float = 0
    full_only: bool = True


def machine() -> dict:
    """Lines of the pre-flight check that are not ok."""
    command = [sys.executable, "-m", "helpers.machine", "--json"]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout)
    return {check["name"]: f"{check['level']}: {check['fact']}" for check in found["checks"] if check["level"] != "ok"}


def first_look() -> dict:
    """The models of ``helpers/qwen.py`` against themselves on the CPU and against transformers, and their speed."""
    import torch

    from benchmarks.gpu_first_look import HEAD, rows

    found = {}
    for values in rows("cuda" if torch.cuda.is_available() else "cpu"):
        row = dict(zip(HEAD, values, strict=True))
        found[f"{row.pop('model')} {str(row.pop('dtype')).removeprefix('torch.')}"] = row
    wrong = [name for name, row in found.items() if "float32" in name.split() and row["tokens, CPU"] < 0.99]
    if wrong:
        raise CourseError(
            f"{wrong[0]}：float32 下，这里选出的词元和 CPU 上不同。",
            f"{wrong[0]}: in float32 it chooses other tokens here than on the CPU. All rows: {found}",
        )
    return found


def lessons_in_torch() -> dict:
    """Lessons that need torch alone, as tools/gpu/plain.py runs them: seconds, cells, and what was left out."""
    import torch

    short = {}
    if not torch.cuda.is_available():  # the course's own runs on a CPU take A1's 200 steps
        short = {"COURSE_TRAIN_STEPS": os.environ.get("COURSE_TRAIN_STEPS", "50")}
    found: dict = dict(short)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    for number in ("03", "04", "A1"):
        [notebook] = (ROOT / "notebooks" / "en").glob(f"{number}_*.ipynb")
        with tempfile.TemporaryDirectory() as folder:
            file, start = Path(folder, "cells.json"), time.perf_counter()
            command = [sys.executable, "-m", "tools.gpu.plain", str(notebook), str(file)]
            # As a kernel does, it starts in the notebook's folder: that tells the page's language.
            environment = os.environ | short | {"PYTHONPATH": path}
            done = subprocess.run(command, cwd=notebook.parent, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{notebook.stem}: {done.stdout[-600:]}\n{done.stderr[-3000:]}")
            seconds = time.perf_counter() - start
            found[notebook.stem] = {"seconds": seconds} | json.loads(file.read_text(encoding="utf-8"))
    return found


def lessons(*names: str) -> dict:
    """Seconds of each lesson, run on the models that the environment names."""
    command = [sys.executable, "-m", "tools.lessons.run", "--jobs", "1", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    ran = {name: float(seconds) for name, _, seconds in ROW.findall(done.stdout)}
    if done.returncode:
        raise RuntimeError(f"{done.stdout[-600:]}\n{done.stderr[-3000:]}")
    return ran


def vllm_routing() -> dict:
    """The experts that vLLM reports on a GPU against those of ``helpers/qwen.py``, for one answer."""
    import torch

    from helpers import qwen, routing
    from helpers.engine import open_engine
    from helpers.lessons.lA2.vllm_routing import capture_vllm_gpu

    folder = models.find_checkpoint("qwen3-moe-tiny")
    with open_engine(folder, enable_return_routed_experts=True, enable_prefix_caching=False) as llm:
        tokenizer = llm.get_tokenizer()
        chat = [{"role": "user", "content": "37×46=?"}]
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        theirs = capture_vllm_gpu(llm, prompt, 32)
    model = qwen.load_model(folder, torch.bfloat16, "cuda")
    ours = routing.capture_reference(model, tokenizer, theirs.token_ids.tolist())
    return {"same choices": routing.agreement(ours, theirs).same_sets}


@contextlib.contextmanager
def random_checkpoint(name: str, **changes) -> Iterator[tuple[Path, dict]]:
    """A folder with the config of a real model and the bundled tokenizer, without weights: vLLM draws them."""
    config = catalogue.CATALOGUE[name].config | changes
    kind = "Qwen3MoeForCausalLM" if "num_experts" in config else "Qwen3ForCausalLM"
    more = {"architectures": [kind], "rope_theta": 1e6, "norm_topk_prob": True, "dtype": "bfloat16"}
    tiny = models.find_checkpoint("qwen3-tiny")
    ours = json.loads((tiny / "config.json").read_text(encoding="utf-8"))
    kept = {key: ours[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in ours}
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        for file in TOKENIZER:
            shutil.copy(tiny / file, folder)
        Path(folder, "config.json").write_text(json.dumps(config | kept | more))
        yield Path(folder), config


def shape(name: str, changes: dict | None = None, **options) -> dict:
    """vLLM on random weights of a real model's shape: seconds to load, room for the KV cache, tokens per second."""
    from vllm import LLM, SamplingParams

    from helpers.engine import GPU_SHARE, close_engine

    with random_checkpoint(name, **(changes or {})) as (folder, config):
        start = time.perf_counter()
        llm = LLM(str(folder), load_format="dummy", max_model_len=4096, disable_log_stats=True, **options)
        found: dict = {"seconds to load": time.perf_counter() - start}
        cache = llm.llm_engine.vllm_config.cache_config
        found["tokens of KV cache"] = cache.num_gpu_blocks * cache.block_size
        if card := _card_bytes():
            room = card * GPU_SHARE - catalogue.weight_bytes(config) - catalogue.OTHER_MEMORY
            found["tokens of KV cache, computed"] = int(room / catalogue.kv_bytes_per_token(config))
        params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
        for batch in (1, 64):
            prompts = [{"prompt_token_ids": list(range(100 + row, 132 + row))} for row in range(batch)]
            llm.generate(prompts, SamplingParams(temperature=0, max_tokens=4, ignore_eos=True), use_tqdm=False)
            start = time.perf_counter()
            llm.generate(prompts, params, use_tqdm=False)
            found[f"tokens/s, {batch}"] = batch * NEW_TOKENS / (time.perf_counter() - start)
        close_engine()
    return found


def expert_block() -> dict:
    """The experts of one layer of Qwen3-30B-A3B's shape in torch, bfloat16: milliseconds for 1 and for 1,024 tokens."""
    import torch

    from helpers import qwen
    from helpers.loading import qwen_config

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with random_checkpoint("Qwen/Qwen3-30B-A3B") as (folder, _):
        config = qwen_config(folder)
    with torch.device(device):
        block = qwen.SparseMoeBlock(config).to(torch.bfloat16)
    found = {}
    with torch.inference_mode():
        for tokens in (1, 1024):
            hidden_states = torch.randn(1, tokens, config.hidden_size, device=device, dtype=torch.bfloat16)
            seconds = []
            for _ in range(4):
                start = time.perf_counter()
                block(hidden_states)[0].float().cpu()
                seconds.append(time.perf_counter() - start)
            found[f"ms, {tokens} tokens"] = 1000 * min(seconds[1:])
    return found


def kept_lessons() -> dict:
    """The lessons of generation and serving on the chosen model, kept below assets/recorded/."""
    ran = lessons("05", "06", "07", "08", "09")
    command = [sys.executable, "-m", "tools.lessons.keep_run", "05", "06", "07", "08", "09"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return ran | {"kept": done.stdout.split()}


def real_trace() -> dict:
    """The routing of one conversation in the chosen mixture of experts, in torch, kept beside the report."""
    import torch
    import transformers

    from helpers import qwen, routing

    folder = models.course_moe_model()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = qwen.load_model(folder, torch.bfloat16, "cuda" if torch.cuda.is_available() else "cpu")
    trace = routing.capture_conversation(model, tokenizer, ["37×46=?"], 512)
    target = ROOT / "assets" / "recorded" / Checkpoint(folder).name / "routing.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
    trace.save(target)
    return {"tokens": len(trace.token_ids), "kept": str(target.relative_to(ROOT))}


def _card_bytes() -> int:
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0


VLLM, GPU = ("vllm", "jupyter"), ("cuda", "vllm")
PARTS = {
    "machine": Part(machine, 60, full_only=False),
    "first look": Part(first_look, 600, full_only=False),
    "lessons in torch": Part(lessons_in_torch, 1200, ("matplotlib",), full_only=False),
    "lessons on the engine": Part(lambda: lessons("00", "05"), 900, VLLM, full_only=False),
    "routing of vLLM": Part(vllm_routing, 200, GPU, full_only=False),
    "shape of Qwen3-0.6B": Part(lambda: shape("Qwen/Qwen3-0.6B"), 300, GPU, 6, full_only=False),
    "all lessons": Part(lessons, 1800, VLLM),
    "shape of Qwen3-8B": Part(lambda: shape("Qwen/Qwen3-8B"), 600, GPU, 20),
    "shape of Qwen3-8B, FP8": Part(lambda: shape("Qwen/Qwen3-8B", quantization="fp8"), 600, GPU, 14),
    "experts of Qwen3-30B-A3B": Part(expert_block, 300, ("cuda",), 4),
    "lessons on the chosen model": Part(kept_lessons, 3600, (*VLLM, "real")),
    "routing of the chosen model": Part(real_trace, 1200, ("real moe",)),
}


def fits(part: Part) -> bool:
    return _card_bytes() >= part.memory * GIB


if __name__ == "__main__":
    chosen, file = sys.argv[1:]
    Path(file).write_text(json.dumps(PARTS[chosen].run()), encoding="utf-8")
