"""Train one of the tiny models that the course bundles: ``python3 -m tools.tiny_models.train qwen3-tiny``.

Everything is made here: data, tokenizer and recipe are lesson A1's (helpers/lessons/lA1), the model is transformers'
own Qwen3, and the checkpoint has the hub's layout. A run is resumable: a state is written every five minutes and at
the end, and since each step draws its data from its own seed, a resumed run continues exactly as an uninterrupted one
would.
"""

import argparse
import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

from helpers.lessons.lA1 import build_tokenizer, recipe
from helpers.models import ROOT

SAVE_SECONDS = 300


def train(
    name: str,
    folder: Path,
    steps: int,
    threads: int = 1,
    balance: float = recipe.BALANCE,
    stop_after: int | None = None,
):
    """Train ``name`` for ``steps`` steps and those of ``recipe.REFINEMENT``, resuming from ``folder``.

    Returns ``(model, tokenizer, log)``. ``log`` is a list of ``{"step", "loss", "load"}``.
    ``stop_after`` ends early, as an interruption would.
    """
    import torch
    from tqdm import tqdm

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = build_tokenizer(recipe.CONTEXT)
    model = recipe.build_model(name, tokenizer).to(device)
    optimizers = recipe.make_optimizers(model)
    rates = [recipe.MUON_RATE, recipe.ADAMW_RATE]
    experts = getattr(model.config, "num_experts", None)
    load = torch.full((model.config.num_hidden_layers, experts), 1 / experts, device=device) if experts else None
    first, log, state_file = 0, [], folder / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, optimizer_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        first, log, load = state["step"], state["log"], state["load"]

    def save(step: int):
        folder.mkdir(parents=True, exist_ok=True)
        states = {"model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}
        torch.save(states | {"step": step, "log": log, "load": load}, state_file.with_suffix(".part"))
        os.replace(state_file.with_suffix(".part"), state_file)

    model.train()
    saved = time.monotonic()
    end = steps + recipe.REFINEMENT[name]
    if stop_after:
        end = min(end, stop_after)
    bar = tqdm(range(first, end), initial=first, total=end, desc=name, mininterval=5)
    for step in bar:
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * recipe.schedule(step, steps)
        chunks = list(recipe.batches(step, tokenizer, refinement=step >= steps))
        loss, load = recipe.train_step(model, optimizers, chunks, load, balance)
        log.append({"step": step, "loss": loss} | ({} if load is None else {"load": load.tolist()}))
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        if time.monotonic() - saved > SAVE_SECONDS:
            save(step + 1)
            saved = time.monotonic()
    save(end)
    return model.eval(), tokenizer, log


def write_log(log: list[dict], file: Path) -> None:
    """The training's log as ``.npz``: ``loss`` (steps,) and ``load`` (steps, layers, experts) of every fifth step."""
    import numpy as np

    log = log[::5]
    arrays = {"step": [entry["step"] for entry in log], "loss": np.array([entry["loss"] for entry in log], np.float32)}
    if "load" in log[0]:
        arrays["load"] = np.array([entry["load"] for entry in log], np.float16)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **arrays)


def export(model, tokenizer, folder: Path) -> None:
    """Write the checkpoint in the hub's layout, weights in bf16."""
    import torch
    from transformers import GenerationConfig

    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(  # what Qwen recommends for thinking, as in Qwen3's own file
        bos_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        do_sample=True,
        temperature=0.6,
        top_k=20,
        top_p=0.95,
    )
    model.to("cpu", torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # transformers 5 writes names that 4.x does not know (it would fall back to theta 10,000 in silence); the hub's
    # Qwen3 files use the older names, which both read.
    with edit_json(folder / "config.json") as config:
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        config["rope_scaling"] = None
        config["torch_dtype"] = config.pop("dtype")
        config["max_window_layers"] = len(config.pop("layer_types", [])) or config["num_hidden_layers"]
        if "num_local_experts" in config:
            config["num_experts"] = config.pop("num_local_experts")
    with edit_json(folder / "tokenizer_config.json") as config:
        config.pop("backend", None)
        config["tokenizer_class"] = "PreTrainedTokenizerFast"


@contextmanager
def edit_json(path: Path):
    """The JSON object in ``path``, written back with sorted keys after the block."""
    content = json.loads(path.read_text(encoding="utf-8"))
    yield content
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=recipe.MODELS)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--balance", type=float, default=recipe.BALANCE, help="weight of the load-balancing loss")
    parser.add_argument("--folder", type=Path, help="where the resumable state lies (default build/training/NAME)")
    parser.add_argument("--output", type=Path, help="where the checkpoint goes (default assets/models/NAME)")
    parser.add_argument("--stop-after", type=int, metavar="STEP", help="end early and write no checkpoint")
    parser.add_argument("--log", type=Path, help="write loss and expert load of the training to this .npz")
    options = parser.parse_args()
    folder = options.folder or ROOT / "build" / "training" / options.name
    steps = options.steps or recipe.STEPS[options.name]
    model, tokenizer, log = train(options.name, folder, steps, options.threads, options.balance, options.stop_after)
    if options.log:
        write_log(log, options.log)
    if not options.stop_after:
        export(model, tokenizer, options.output or ROOT / "assets" / "models" / options.name)


if __name__ == "__main__":
    main()
