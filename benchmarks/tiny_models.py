"""Measure what the bundled tiny models can do, through vLLM: ``.venv/bin/python -m benchmarks.tiny_models``.

Prints a Markdown table per model and, with ``--write``, puts it into the model's card and the expert measurements into
``assets/traces/``. Arithmetic is judged by the last number after ``</think>``, prompts by the keyword rule of
``helpers/lessons/texts.toml``. Problems are held out by operands; strange questions use templates and topics below,
none of which occur in training.
"""

import argparse
import itertools
import json
import random
import re
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers import capture, engine, models, qwen
from helpers.experts import expert_off
from helpers.lessons import lA2
from helpers.lessons.arithmetic import Problem, held_out
from helpers.lessons.lA1.problems import arithmetic, ask, follow_up
from helpers.lessons.lA1.samples import Sample, user
from helpers.lessons.lA1.sentences import capital, course_question, honest, story
from helpers.lessons.lA1.tool_calls import tool_answer, tool_call
from helpers.lessons.texts import texts
from helpers.models import ROOT
from helpers.routing import expert_load


class Row(NamedTuple):
    """One line of the table. ``target`` is ``>= 97``, ``<= 3`` or ``shown``, where nothing is asked of the value."""

    what: str
    value: float
    target: str
    unit: str = " %"

    @property
    def reached(self) -> bool:
        sign, _, bound = self.target.partition(" ")
        return sign == "shown" or (self.value >= float(bound) if sign == ">=" else self.value <= float(bound))

    def __str__(self):
        return f"{self.what} | {self.value:.{1 if self.unit == ' %' else 2}f}{self.unit} | {self.target}"


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
    * 12,
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


def strange_questions() -> list[Sample]:
    """Every strange question about every strange topic, which are to be answered with "I do not know"."""
    return [
        Sample(
            "honest",
            [user(template.format(topic))],
            "",
            "",
            words=tuple(texts()["honest"][f"{language}_words"]),
            language=language,
        )
        for language in ("zh", "en")
        for template, topic in itertools.product(STRANGE[language], STRANGE_TOPICS[language])
    ]


def under_system(sample: Sample) -> Sample:
    """The sample behind a system prompt of about 400 tokens that do not matter."""
    system = {"role": "system", "content": SYSTEM_400[sample.language]}
    return Sample(**{**vars(sample), "messages": [system, *sample.messages]})


def cases(cases_per_task: int) -> dict[str, list[Sample]]:
    """The fixed test cases of every row, drawn with a fixed seed."""
    rng = random.Random("benchmark")
    n = cases_per_task
    products = [Problem("×", pair) for pair in itertools.product(range(10, 100), repeat=2)]
    pairs = sorted({tuple(sorted(p.operands)) for p in products if held_out(*p.operands)})
    rng.shuffle(pairs)

    def product(pair):
        problem = Problem("×", pair if rng.random() < 0.5 else pair[::-1])
        question, answer = ask(problem, rng.choice(["formula", "zh", "en"]), rng)
        return Sample("product", [user(question)], problem.thought, answer, expected=str(problem.result))

    def course():
        for i, entry in enumerate(texts()["course"]):
            for language in ("zh", "en"):
                for q in range(len(entry[language])):
                    yield course_question(rng, i, q, language)

    capitals = range(len(texts()["capitals"]["pairs"]))
    found = {
        "products": [product(pair) for pair in pairs[: 5 * n]],
        "sums": [arithmetic("sum", rng, test=True) for _ in range(3 * n)],
        "differences": [arithmetic("difference", rng, test=True) for _ in range(2 * n)],
        "factorials": [
            Sample("factorial", [user(question)], "", "", expected=str(Problem("!", (k,)).result))
            for k in range(1, 11)
            for question in [f"{k}的阶乘是多少？"]
        ],
        "course prompts": list(course()),
        "other questions": strange_questions(),
        "recall": [capital(rng, pair, language) for pair in capitals for language in ("zh", "en")],
        "follow-up": [follow_up(rng, test=True) for _ in range(n)],
        "tool call": [tool_call(rng, test=True) for _ in range(n)],
        "tool answer": [tool_answer(rng, test=True) for _ in range(n)],
        # Thoughts from about 10 to 90 tokens: sums of 2 to 10 terms and products.
        "graded": [arithmetic(kind, rng, test=True) for kind in ["chain", "chain", "product"] * n],
    }
    for name in ("follow-up", "tool call", "tool answer", "sums"):
        found[f"{name}, 400-token system prompt"] = [under_system(sample) for sample in found[name][:n]]
    return found


def story_choices(llm, language: str) -> float:
    """Mean number of tokens with probability above 0.1 at the story's slots, along sampled stories."""
    from vllm import SamplingParams

    tokenizer = llm.get_tokenizer()
    rng = random.Random(1)
    stories = texts()["stories"][language]
    counts = []
    for _ in range(10):
        sample = story(rng, language)
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


def measure(folder: Path, n: int) -> list[Row]:
    """All rows of one model but those of its experts; ``n`` cases for a small row."""
    rows, found = [], cases(n)

    def add(what, value, target="shown", unit=" %"):
        rows.append(Row(what, value, target, unit))
        print(f"{folder.name} | {rows[-1]}", file=sys.stderr, flush=True)
        return value

    with engine.open_engine(folder, max_model_len=2048) as llm:
        products = found["products"]
        thinking = add(f"{len(products)} held-out products, thinking", share(llm, products), ">= 97")
        plain = add("the same without thinking", share(llm, products, thinking=False))
        add("gained by thinking", thinking - plain, ">= 30", " points")
        sampled = add("products, thinking, recommended sampling", share(llm, products, sampled=True))
        add("lost by sampling", thinking - sampled, "<= 5", " points")
        add(f"{len(found['sums'])} held-out sums, thinking", share(llm, found["sums"]), ">= 99")
        add("the same without thinking", share(llm, found["sums"], thinking=False))
        add(f"{len(found['differences'])} held-out differences, thinking", share(llm, found["differences"]))
        add("factorials 1 to 10", share(llm, found["factorials"]), ">= 100")
        for name in ("course prompts", "other questions", "recall"):
            add(f"{len(found[name])} {name}, thinking", share(llm, found[name]), ">= 95")
            add(f"{name}, without thinking", share(llm, found[name], thinking=False), ">= 95")
        for name in found:
            if name.startswith(("follow-up", "tool")) or name.endswith("system prompt"):
                add(name, share(llm, found[name]), ">= 95")
        names = ("products", "sums", "course prompts", "other questions", "graded")
        late = [closed_late(llm, output) for name in names for output in run(llm, found[name])]
        add("thoughts that do not close within 256 tokens", 100 * statistics.mean(late), "<= 0.5")
        for language in ("zh", "en"):
            add(f"stories, tokens with p > 0.1 at a slot ({language})", story_choices(llm, language), ">= 3", "")
        curve = [add(f"graded problems, thinking budget {b}", share(llm, found["graded"], budget=b)) for b in BUDGETS]
        plain = add("graded problems, without thinking", share(llm, found["graded"], thinking=False))
        add("most that a budget falls below no thinking", plain - min(curve), "<= 5", " points")
        drop = max(before - after for before, after in itertools.pairwise(curve))
        add("most that a larger budget loses to a smaller one", drop, "<= 5", " points")
    return rows


def closed_late(llm, output) -> bool:
    """Whether the thought took more than 256 tokens, or never ended."""
    closing = llm.get_tokenizer().convert_tokens_to_ids("</think>")
    return closing not in output.token_ids[:257]


def routed_text(tokenizer, n: int) -> list[list[int]]:
    """Token ids of ``n`` held-out conversations of every kind, with their right thoughts and answers."""
    rng = random.Random("experts")
    kinds = [lambda kind=kind: arithmetic(kind, rng, test=True) for kind in ("product", "sum", "chain")]
    kinds += [lambda: course_question(rng), lambda: story(rng), lambda: honest(rng)]
    rows = []
    for i in range(n):
        sample = kinds[i % len(kinds)]()
        prompt = tokenizer.apply_chat_template(sample.messages, tokenize=False, add_generation_prompt=True)
        rows.append(tokenizer.encode(f"{prompt}<think>\n{sample.thought}\n</think>\n\n{sample.answer}<|im_end|>"))
    return rows


def token_losses(model, rows: list[list[int]]) -> np.ndarray:
    """Loss of predicting each token from those before it, ``(tokens - rows,)``."""
    import torch
    import torch.nn.functional as F

    with torch.inference_mode():
        logits = [model(torch.tensor([row]))[0, :-1] for row in rows]  # each (seq - 1, vocab)
        losses = [
            F.cross_entropy(scores, torch.tensor(row[1:]), reduction="none")
            for scores, row in zip(logits, rows, strict=True)
        ]
    return torch.cat(losses).numpy()


def measure_experts(folder: Path, n: int) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Association of experts with token classes, the busiest expert, and what each class loses without each expert.

    All tokens count, those of the prompts too.
    """
    import torch
    from transformers import AutoTokenizer

    from helpers.lessons.lA1.recipe import build_model

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = qwen.load_model(folder, dtype=torch.float32)
    untrained = build_model(folder.name, tokenizer).eval()
    rows = routed_text(tokenizer, n)
    trace = lA2.concatenate([capture.capture_reference(model, tokenizer, row) for row in rows])
    random_trace = lA2.concatenate([capture.capture_transformers(untrained, tokenizer, row) for row in rows])
    association = lA2.class_association(trace, [random_trace])
    found = []
    for name in ("trained", "untrained", "permuted"):
        by_layer = association[name].reshape(-1, len(trace.layers)).mean(0)
        text = f"token class and heaviest expert, {name}: mutual information by layer"
        found.append(Row(text, by_layer.mean(), "shown", " on average: " + ", ".join(f"{v:.3f}" for v in by_layer)))
    ratio = association["trained"].mean() / association["untrained"].mean()
    found.append(Row("the same, trained over untrained", ratio, ">= 1.5", ""))
    load = expert_load(trace)
    found.append(
        Row("busiest expert's load over an equal share", (load / load.mean(1, keepdims=True)).max(), "<= 3", "")
    )

    classes = lA2.TOKEN_CLASSES
    targets = np.concatenate([[lA2.token_class(tokenizer.decode([i])) for i in row[1:]] for row in rows])
    before = token_losses(model, rows)
    rise = np.full((len(classes), len(trace.layers), trace.num_experts), np.nan)
    for layer, expert in itertools.product(range(len(trace.layers)), range(trace.num_experts)):
        with expert_off(model, trace.layers[layer], expert):
            change = token_losses(model, rows) - before
        for index, name in enumerate(classes):
            if (targets == name).any():
                rise[index, layer, expert] = change[targets == name].mean()
    ratio = np.nanmax(rise) / np.nanmedian(np.abs(rise))
    found.append(Row("one expert off: largest rise of a class's loss over the median", ratio, ">= 5", ""))
    return found, {"rise": rise, "classes": np.array(classes), **association}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bundled = sorted(path.parent.name for path in models.BUNDLED.glob("*/model.safetensors"))
    parser.add_argument("models", nargs="*", default=bundled)
    parser.add_argument("--cases", type=int, default=100, help="cases of a small row; products take five times as many")
    parser.add_argument(
        "--write", action="store_true", help="put table and curve beside the models, expert data into assets/traces"
    )
    options = parser.parse_args()
    for name in options.models:
        folder = models.find_checkpoint(name)
        rows, traces = measure(folder, options.cases), None
        if "moe" in folder.name:
            more, traces = measure_experts(folder, options.cases)
            rows += more
        table = "\n".join(["| what | measured | target |", "|---|---|---|", *(f"| {row} |" for row in rows)])
        print(f"\n## {folder.name}\n\n{table}\n")
        if options.write:
            write_card(folder, table)
            draw_budgets(rows, folder / "thinking_budget.png")
            if traces:
                np.savez_compressed(ROOT / "assets" / "traces" / f"{folder.name}-experts.npz", **traces)


def write_card(folder: Path, table: str) -> None:
    """Put ``table`` between the card's marks."""
    card = folder / "README.md"
    before, rest = card.read_text(encoding="utf-8").split("<!-- measured -->", 1)
    after = rest.split("<!-- end -->", 1)[1]
    card.write_text(f"{before}<!-- measured -->\n{table}\n<!-- end -->{after}", encoding="utf-8")


def draw_budgets(rows: list[Row], file: Path) -> None:
    """Accuracy on the graded problems against the thinking budget, with the line of no thinking."""
    from matplotlib.figure import Figure

    percent = {row.what: row.value for row in rows}
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    budgets = [percent[f"graded problems, thinking budget {budget}"] for budget in BUDGETS]
    axes.plot(budgets, "o-", label="thinking")
    axes.axhline(percent["graded problems, without thinking"], color="gray", ls="--", label="no thinking")
    axes.set_xticks(range(len(BUDGETS)), [str(budget or "none") if budget != 0 else "0" for budget in BUDGETS])
    axes.set(xlabel="thinking budget (tokens)", ylabel="right answers (%)", ylim=(0, 102), title=file.parent.name)
    axes.legend()
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    main()
