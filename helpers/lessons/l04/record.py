"""Records a conversation with a model, for lesson 04: `python -m helpers.routing MODEL`."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from helpers import ROOT, CourseError, models
from helpers.capture import capture_conversation
from helpers.language import say
from helpers.routing import RoutingTrace

QUESTIONS = ("什么是 MoE？", "What does the router do?", "37×46=?")


def recorded_path(model: str) -> Path:
    """Where the recorded conversation of a model lies: a bundled name, a hub id or a folder."""
    name = Path(model).name
    if (models.BUNDLED / name).is_dir():
        return ROOT / "assets" / "traces" / f"routing-{name}.npz"
    return ROOT / "assets" / "recorded" / name / "routing.npz"


def record(model: str, questions=QUESTIONS, output: Path | None = None, max_new_tokens=256) -> Path:
    """Record a conversation with ``model`` (as :func:`helpers.models.find_checkpoint` takes it); returns the file.

    A bundled model runs in float32, any other in the dtype of its files, on the GPU if there is one.
    """
    import torch
    from transformers import AutoTokenizer

    from helpers.qwen import load_model

    folder = models.find_checkpoint(model)
    output = Path(output or recorded_path(model))
    dtype = torch.float32 if models.is_bundled(folder) else None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trace = capture_conversation(load_model(folder, dtype), tokenizer, questions, max_new_tokens)
    output.parent.mkdir(parents=True, exist_ok=True)
    # A hub's cache calls the folder "master", so the name comes from what the user typed.
    replace(trace, provenance=trace.provenance | {"model": Path(model).name}).save(output)
    return output


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m helpers.routing", description="Record the routing of a model.")
    parser.add_argument("model", nargs="?", default=models.DEFAULTS[models.MOE_VARIABLE], help="folder, hub id or name")
    parser.add_argument("--questions", nargs="+", default=QUESTIONS, help="asked one after the other")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="of each answer, its thinking included")
    parser.add_argument("--output", type=Path, help="an .npz file; default: in assets, where lesson 04 finds it")
    options = parser.parse_args(arguments)
    try:
        path = record(options.model, options.questions, options.output, options.max_new_tokens)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    trace = RoutingTrace.load(path)
    layers, tokens, size = len(trace.layers), len(trace.token_ids), f"{path.stat().st_size / 1e3:.0f} kB"
    zh, en = f"{layers} 层，{tokens} 个词元，{size}", f"{layers} layers, {tokens} tokens, {size}"
    print(say(f"{path}：{zh}", f"{path}: {en}"))
    return 0
