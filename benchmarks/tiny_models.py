"""Measure what the bundled tiny models can do, through vLLM: ``.venv/bin/python benchmarks/tiny_models.py``.

Prints a Markdown table per model and, with ``--write``, puts it into the model's card and the expert measurements into
``assets/traces/``. Arithmetic is judged by the last number after ``</think>``, prompts by the keyword rule of
``tools/tiny_texts.toml``. Problems are held out by operands; strange questions use templates and topics below, none of
which occur in training.
"""

import argparse
import itertools
import json
import random
import re
import statistics
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import tiny_data  # noqa: E402
from tiny_data import Sample, user  # noqa: E402

from helpers import engine, models, routing  # noqa: E402

BUDGETS = [0, 8, 16, 24, 32, 48, 64, None]
STRANGE = {
    "zh": ["你听说过{}吗？", "请告诉我{}的故事。", "如何制作{}？", "{}和人类有什么关系？", "我想买{}，有建议吗？"],
    "en": [
        "Have you heard of {}?",
        "Could you describe {} to me?",
        "How is {} made?",
        "I want to buy {}. Any advice?",
        "When did {} begin?",
    ],
}
STRANGE_TOPICS = {
    "zh": ["京剧", "冰淇淋", "南极", "相对论", "自行车", "葡萄酒", "蜜蜂", "丝绸之路", "台风", "显微镜"],
    "en": [
        "opera",
        "ice cream",
        "Antarctica",
        "relativity",
        "bicycles",
        "wine",
        "honey bees",
        "the Silk Road",
        "typhoons",
        "a microscope",
    ],
}
SYSTEM_400 = {
    "zh": "你在一所学校的机房里工作，学生们每天都会来问问题。请记住今天的日期不重要，窗外的天气也不重要。" * 8,
    "en": "You work in the computer room of a school and students come by every day. The date does not matter today. "
    * 18,
}


def run(llm, samples: list[Sample], thinking: bool = True, budget: int | None = None, sampled: bool = False) -> list:
    """vLLM's outputs for the samples: greedy, or with the checkpoint's recommended sampling."""
    from vllm import SamplingParams

    tokenizer = llm.get_tokenizer()
    # No seed of their own: on a CPU, vLLM 0.32 cannot split the prefill of a request that has one.
    settings = {"temperature": 0.6, "top_p": 0.95, "top_k": 20} if sampled else {"temperature": 0.0}
    prompts = [
        tokenizer.apply_chat_template(
            sample.messages,
            tools=sample.tools or None,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
        for sample in samples
    ]
    prompts = [{"prompt_token_ids": tokenizer.encode(prompt)} for prompt in prompts]
    params = [
        SamplingParams(max_tokens=400, thinking_token_budget=budget if thinking else None, **settings) for _ in prompts
    ]
    return [output.outputs[0] for output in llm.generate(prompts, params, use_tqdm=False)]


def answer_of(text: str) -> str:
    """The text after the thought; a thought that does not close leaves nothing."""
    return text.rpartition("</think>")[2] if "</think>" in text or "<think>" not in text else ""


def right(sample: Sample, text: str) -> bool:
    """Whether the answer is right by the sample's own rule: tool call, last number or keywords."""
    answer = answer_of(text)
    if sample.task == "tool call":
        found = re.search(r"<tool_call>\n(.*?)\n</tool_call>", answer, re.S)
        try:
            call = json.loads(found.group(1)) if found else None
        except json.JSONDecodeError:
            return False
        return call == {"name": "calculator", "arguments": {"expression": sample.expected}}
    if sample.expected is not None:
        numbers = re.findall(r"-?\d+", re.sub(r"(?<=[\d!])-", " - ", answer))
        return bool(numbers) and numbers[-1] == sample.expected
    return all(any(word in answer for word in entry.split("|")) for entry in sample.words)


def share(llm, samples: list[Sample], **options) -> float:
    """Share of right answers in percent."""
    outputs = run(llm, samples, **options)
    return 100 * statistics.mean(right(s, o.text) for s, o in zip(samples, outputs, strict=True))


def cases(cases_per_task: int) -> dict[str, list[Sample]]:
    """The fixed test cases of every row, drawn with a fixed seed."""
    rng = random.Random("benchmark")
    n = cases_per_task
    products = [tiny_data.Problem("×", pair) for pair in itertools.product(range(10, 100), repeat=2)]
    pairs = sorted({tuple(sorted(p.operands)) for p in products if tiny_data.held_out(*p.operands)})
    rng.shuffle(pairs)

    def product(pair):
        problem = tiny_data.Problem("×", pair if rng.random() < 0.5 else pair[::-1])
        question, answer = tiny_data.ask(problem, rng.choice(["formula", "zh", "en"]), rng)
        return Sample("product", [user(question)], problem.thought, answer, expected=str(problem.result))

    def course():
        for i, entry in enumerate(tiny_data.texts()["course"]):
            for language in ("zh", "en"):
                for q in range(len(entry[language])):
                    yield tiny_data.course_question(rng, i, q, language)

    def strange():
        for language in ("zh", "en"):
            for template, topic in itertools.product(STRANGE[language], STRANGE_TOPICS[language]):
                words = tuple(tiny_data.texts()["honest"][f"{language}_words"])
                yield Sample("honest", [user(template.format(topic))], "", "", words=words, language=language)

    def under_system(sample: Sample) -> Sample:
        system = {"role": "system", "content": SYSTEM_400[sample.language]}
        return Sample(**{**vars(sample), "messages": [system, *sample.messages]})

    capitals = range(len(tiny_data.texts()["capitals"]["pairs"]))
    found = {
        "products": [product(pair) for pair in pairs[: 5 * n]],
        "sums": [tiny_data.arithmetic("sum", rng, test=True) for _ in range(3 * n)],
        "differences": [tiny_data.arithmetic("difference", rng, test=True) for _ in range(2 * n)],
        "factorials": [
            Sample("factorial", [user(question)], "", "", expected=str(tiny_data.Problem("!", (k,)).result))
            for k in range(1, 11)
            for question in [f"{k}的阶乘是多少？"]
        ],
        "course prompts": list(course()),
        "other questions": list(strange()),
        "recall": [tiny_data.capital(rng, pair, language) for pair in capitals for language in ("zh", "en")],
        "follow-up": [tiny_data.follow_up(rng, test=True) for _ in range(n)],
        "tool call": [tiny_data.tool_call(rng, test=True) for _ in range(n)],
        "tool answer": [tiny_data.tool_answer(rng, test=True) for _ in range(n)],
        # Thoughts from about 10 to 90 tokens: sums of 2 to 10 terms and products.
        "graded": [tiny_data.arithmetic(kind, rng, test=True) for kind in ["chain", "chain", "product"] * n],
    }
    for name in ("follow-up", "tool call", "tool answer", "sums"):
        found[f"{name}, 400-token system prompt"] = [under_system(sample) for sample in found[name][:n]]
    return found


def story_choices(llm, language: str) -> float:
    """Mean number of tokens with probability above 0.1 at the story's slots, along sampled stories."""
    from vllm import SamplingParams

    tokenizer = llm.get_tokenizer()
    rng = random.Random(1)
    stories = tiny_data.texts()["stories"][language]
    counts = []
    for _ in range(10):
        sample = tiny_data.story(rng, language)
        prompt = tokenizer.apply_chat_template(
            sample.messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        for slot in (place for place, options in enumerate(stories) if len(options) > 1):
            text = prompt + "".join(rng.choice(options) for options in stories[:slot])
            output = llm.generate(
                [{"prompt_token_ids": tokenizer.encode(text)}],
                SamplingParams(max_tokens=1, temperature=0.0, logprobs=20),
                use_tqdm=False,
            )[0]
            found = output.outputs[0].logprobs[0].values()
            counts.append(sum(np.exp(entry.logprob) > 0.1 for entry in found))
    return float(np.mean(counts))


def measure(folder: Path, n: int) -> tuple[list[tuple[str, str, str]], dict[str, float]]:
    """All rows as ``(what, measured, target)`` and the budget curve of one model; ``n`` cases for a small row."""
    with engine.open_engine(folder, max_model_len=2048) as llm:
        found = cases(n)
        rows = []

        def add(what, value, target, unit=" %"):
            rows.append((what, f"{value:.1f}{unit}", target))
            print(f"{folder.name}: {what}: {value:.1f}{unit} (target {target})", file=sys.stderr, flush=True)

        outputs = run(llm, found["products"])
        thought = 100 * statistics.mean(right(s, o.text) for s, o in zip(found["products"], outputs, strict=True))
        plain = share(llm, found["products"], thinking=False)
        add(f"{len(outputs)} held-out products, thinking", thought, ">= 97 %")
        add("the same without thinking", plain, "shown")
        add("gap", thought - plain, ">= 30", " points")
        add("the same, thinking, recommended sampling", share(llm, found["products"], sampled=True), "within 5 points")
        add(f"{len(found['sums'])} held-out sums, thinking", share(llm, found["sums"]), ">= 99 %")
        add("the same without thinking", share(llm, found["sums"], thinking=False), "shown")
        add(f"{len(found['differences'])} held-out differences, thinking", share(llm, found["differences"]), "shown")
        add("factorials 1 to 10", share(llm, found["factorials"]), "100 %")
        for name in ("course prompts", "other questions"):
            add(f"{len(found[name])} {name}", share(llm, found[name]), ">= 95 %")
            add(f"{name}, without thinking", share(llm, found[name], thinking=False), "shown")
        add("recall, thinking", share(llm, found["recall"]), ">= 95 %")
        add("recall, without thinking", share(llm, found["recall"], thinking=False), ">= 95 %")
        for name in found:
            if name.startswith(("follow-up", "tool")) or name.endswith("system prompt"):
                add(name, share(llm, found[name]), ">= 95 %")
        open_thoughts = [
            o
            for name in ("products", "sums", "course prompts", "other questions", "graded")
            for o in run(llm, found[name])
        ]
        unclosed = sum(
            "</think>" not in o.text or o.text.index("</think>") and closed_late(llm, o) for o in open_thoughts
        )
        add("thoughts that do not close within 256 tokens", 100 * unclosed / len(open_thoughts), "<= 0.5 %")
        for language in ("zh", "en"):
            add(f"stories, tokens with p > 0.1 at a slot ({language})", story_choices(llm, language), ">= 3", "")
        curve = {}
        for budget in BUDGETS:
            curve[str(budget)] = share(llm, found["graded"], budget=budget)
            add(f"graded problems, thinking budget {budget}", curve[str(budget)], "rising")
        curve["no thinking"] = share(llm, found["graded"], thinking=False)
        add("graded problems, without thinking", curve["no thinking"], "no budget 5 points below")
    return rows, curve


def closed_late(llm, output) -> bool:
    """Whether the thought took more than 256 tokens."""
    return list(output.token_ids).index(llm.get_tokenizer().convert_tokens_to_ids("</think>")) > 256


def routed_text(tokenizer, n: int) -> list[list[int]]:
    """Token ids of ``n`` held-out conversations of every kind, with their right thoughts and answers."""
    rng = random.Random("experts")
    kinds = [lambda kind=kind: tiny_data.arithmetic(kind, rng, test=True) for kind in ("product", "sum", "chain")]
    kinds += [lambda: tiny_data.course_question(rng), lambda: tiny_data.story(rng), lambda: tiny_data.honest(rng)]
    rows = []
    for i in range(n):
        sample = kinds[i % len(kinds)]()
        prompt = tokenizer.apply_chat_template(sample.messages, tokenize=False, add_generation_prompt=True)
        rows.append(tokenizer.encode(f"{prompt}<think>\n{sample.thought}\n</think>\n\n{sample.answer}<|im_end|>"))
    return rows


def routed_experts(model, rows: list[list[int]]) -> np.ndarray:
    """The expert with the largest weight for each layer and token: ``(layers, tokens)``."""
    import torch

    with torch.inference_mode():
        layers = [model(torch.tensor([row]), output_router_logits=True).router_logits for row in rows]
    return np.stack(
        [np.concatenate([row[layer].argmax(-1).numpy() for row in layers]) for layer in range(len(layers[0]))]
    )


def token_losses(model, rows: list[list[int]]) -> np.ndarray:
    """Loss of predicting each token from those before it, ``(tokens - rows,)``."""
    import torch
    import torch.nn.functional as F

    with torch.inference_mode():
        losses = [
            F.cross_entropy(model(torch.tensor([row])).logits[0, :-1].float(), torch.tensor(row[1:]), reduction="none")
            for row in rows
        ]
    return torch.cat(losses).numpy()


def switched_off(model, layer: int, expert: int):
    """A hook that takes one expert of one layer out of the choice; the others share its tokens. Returns its handle."""
    import torch

    config = model.config

    def without(module, arguments, output):
        logits = output[0].clone()
        logits[:, expert] = float("-inf")
        weights, ids = logits.float().softmax(-1).topk(config.num_experts_per_tok, dim=-1)
        return logits, (weights / weights.sum(-1, keepdim=True)).to(output[1].dtype), ids.to(torch.int64)

    return model.model.layers[layer].mlp.gate.register_forward_hook(without)


def measure_experts(folder: Path, n: int) -> tuple[list[tuple[str, str, str]], dict[str, np.ndarray]]:
    """Association of experts with token classes, and what happens to each class without each expert."""
    import torch
    from train_tiny_models import build_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    untrained = build_model(folder.name, tokenizer).eval()
    rows = routed_text(tokenizer, n)
    classes = np.array(
        [routing.TOKEN_CLASSES.index(routing.token_class(tokenizer.decode([i]))) for row in rows for i in row]
    )
    chosen, random_chosen = routed_experts(model, rows), routed_experts(untrained, rows)
    shuffled = np.random.default_rng(0).permutation(classes)
    association = {
        "trained": [routing.normalized_mutual_information(classes, layer) for layer in chosen],
        "untrained": [routing.normalized_mutual_information(classes, layer) for layer in random_chosen],
        "permuted": [routing.normalized_mutual_information(shuffled, layer) for layer in chosen],
    }
    found = []
    for name, values in association.items():
        layers = ", ".join(f"{value:.3f}" for value in values)
        found.append((f"token class and top expert, {name}: mutual information by layer", layers, ""))
    ratio = np.mean(association["trained"]) / np.mean(association["untrained"])
    found.append(("mean, trained over untrained", f"{ratio:.2f}", ">= 1.5"))

    targets = np.concatenate(
        [[routing.TOKEN_CLASSES.index(routing.token_class(tokenizer.decode([i]))) for i in row[1:]] for row in rows]
    )
    before = token_losses(model, rows)
    layers, experts = model.config.num_hidden_layers, model.config.num_experts
    rise = np.zeros((len(routing.TOKEN_CLASSES), layers, experts))
    for layer, expert in itertools.product(range(layers), range(experts)):
        handle = switched_off(model, layer, expert)
        change = token_losses(model, rows) - before
        handle.remove()
        for index in range(len(rise)):
            if (targets == index).any():
                rise[index, layer, expert] = change[targets == index].mean()
    present = rise[[index for index in range(len(rise)) if (targets == index).any()]]
    found.append(
        (
            "one expert off: largest rise of a class's loss over the median",
            f"{present.max() / np.median(np.abs(present)):.1f}",
            ">= 5",
        )
    )
    return found, {
        "rise": rise,
        "classes": np.array(routing.TOKEN_CLASSES),
        **{k: np.array(v) for k, v in association.items()},
    }


def expert_load(folder: Path, n: int) -> float:
    """Load of the busiest expert over an equal share, the largest of all layers, on held-out text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    experts, top_k = model.config.num_experts, model.config.num_experts_per_tok
    hits = torch.zeros(model.config.num_hidden_layers, experts)
    with torch.inference_mode():
        for row in routed_text(tokenizer, n):
            for layer, logits in enumerate(model(torch.tensor([row]), output_router_logits=True).router_logits):
                hits[layer] += torch.bincount(logits.topk(top_k).indices.flatten(), minlength=experts)
    return float((hits / hits.sum(1, keepdim=True) * experts).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bundled = sorted(path.parent.name for path in models.BUNDLED.glob("*/model.safetensors"))
    parser.add_argument("models", nargs="*", default=bundled)
    parser.add_argument("--cases", type=int, default=100, help="cases of a small row; products take five times as many")
    parser.add_argument(
        "--write", action="store_true", help="put the table into the cards, expert data into assets/traces"
    )
    options = parser.parse_args()
    for name in options.models:
        folder = models.find_checkpoint(name)
        rows, curve = measure(folder, options.cases)
        if "moe" in folder.name:
            found, data = measure_experts(folder, options.cases)
            rows += found + [
                ("busiest expert's load over an equal share", f"{expert_load(folder, options.cases):.2f}", "<= 3")
            ]
            if options.write:
                (ROOT / "assets" / "traces").mkdir(exist_ok=True)
                np.savez_compressed(ROOT / "assets" / "traces" / f"{folder.name}-experts.npz", **data)
        table = "\n".join(
            ["| what | measured | target |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]
        )
        print(f"\n## {folder.name}\n\n{table}\n")
        if options.write:
            write_card(folder, table)


def write_card(folder: Path, table: str) -> None:
    """Put ``table`` between the card's marks."""
    card = folder / "README.md"
    before, rest = card.read_text(encoding="utf-8").split("<!-- measured -->", 1)
    after = rest.split("<!-- end -->", 1)[1]
    card.write_text(f"{before}<!-- measured -->\n{table}\n<!-- end -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
