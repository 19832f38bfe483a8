"""What cells of lesson A1 show: a sample written in one of the four ways, the vocabulary by kind, and the curves."""

import random
from copy import deepcopy

from helpers.design import EXPERTS, LIGHT
from helpers.figures import figure
from helpers.language import say
from helpers.lessons.lA1 import recipe
from helpers.lessons.lA1.samples import Sample

BAR, WRITTEN, PROMPT = EXPERTS[0], EXPERTS[5], EXPERTS[7]


def encode_as(mode: str, sample: Sample, tokenizer) -> tuple[list[int], int, set[int]]:
    """:func:`recipe.encode` in this mode: the recipe draws it, so this looks for a seed that gives it."""
    for seed in range(1000):
        if recipe.choose_mode(deepcopy(sample), random.Random(seed))[0] == mode:
            return recipe.encode(deepcopy(sample), tokenizer, random.Random(seed))
    raise ValueError(f"the recipe has no mode {mode}")


def kind_of(token: int, tokenizer) -> str:
    """What a piece of the vocabulary is made of."""
    piece = tokenizer.decode([token])
    if piece in tokenizer.get_added_vocab():
        return say("特殊词元", "special")
    if "\ufffd" in piece:
        return say("不成字的字节", "partial bytes")
    if piece.isdigit():
        return say("数字", "digits")
    if "\u4e00" <= piece[0] <= "\u9fff":
        return say("汉字", "Chinese")
    return say("字母和空格", "Latin, spaces") if piece.isascii() else say("其他", "other")


def held_out_map(held):
    """Which products of two numbers from 10 to 99 are held out, and how many of each first number."""
    drawn, axes = figure(1, 2, height=3.4, width_ratios=(1, 1.6))
    axes[0].imshow(held, cmap="Blues", origin="lower", extent=(10, 100, 10, 100), interpolation="nearest")
    axes[0].set(title=say("a × b：深色的留出", "a × b: dark squares are held out"), xlabel="a", ylabel="b")
    axes[1].bar(range(10, 100), held.mean(axis=1), width=1, color=BAR)
    axes[1].axhline(1 / 8, color=LIGHT["strong"], linestyle="--", linewidth=1)
    share = f"{held.mean():.1%}"
    title = say(f"每个 a 留出的份额（总共 {share}；虚线：1/8）", f"share held out, by a ({share} in all; dashed: 1/8)")
    axes[1].set(title=title, xlabel="a", ylim=(0, 0.3))
    return drawn


def inventory(kinds: dict[str, int], lengths: dict[str, list[tuple[int, int]]]):
    """Pieces of the vocabulary by kind; by task the share of samples, and the mean tokens of prompt and reply.

    lengths: by task, (tokens of the prompt, tokens that the model writes) of each sample.
    """
    tasks = sorted(lengths, key=lambda task: len(lengths[task]))
    total = sum(map(len, lengths.values()))
    prompt = [sum(first for first, _ in lengths[task]) / len(lengths[task]) for task in tasks]
    written = [sum(last for _, last in lengths[task]) / len(lengths[task]) for task in tasks]
    drawn, axes = figure(1, 3, height=2.9)
    axes[0].barh(list(kinds), list(kinds.values()), color=BAR)
    axes[0].set(title=say("词表里的词元", "pieces of the vocabulary"), xlim=(0, 2000))
    for row, value in enumerate(kinds.values()):
        axes[0].text(value + 20, row, value, va="center")
    axes[1].barh(tasks, [100 * len(lengths[task]) / total for task in tasks], color=BAR)
    axes[1].set(title=say("占样本的份额，%", "share of the samples, %"))
    axes[2].barh(tasks, prompt, color=PROMPT, label=say("提示词", "prompt"))
    axes[2].barh(tasks, written, left=prompt, color=WRITTEN, label=say("要模型写的", "written by the model"))
    axes[2].set(title=say("平均一条样本的词元数", "tokens of a sample, on average"), yticklabels=[])
    axes[2].legend(loc="upper right", fontsize=9)
    return drawn


def loss_and_rate(log):
    """The loss of qwen3-moe-tiny, step by step, and its learning rate. log: arrays ``step`` and ``loss``."""
    steps = recipe.STEPS["qwen3-moe-tiny"]
    drawn, axes = figure(1, 2, height=2.8)
    axes[0].plot(log["step"], log["loss"], color=LIGHT["first"], linewidth=1)
    for step, label in (
        (recipe.LONG_PROMPTS_FROM, say("提示词变长", "long prompts")),
        (steps, say("更多“不知道”", "more refusals")),
    ):
        axes[0].axvline(step, color=LIGHT["strong"], linestyle=":", linewidth=1)
        axes[0].text(step - 40, 3, label, ha="right")
    title = say("qwen3-moe-tiny：每个词元的损失，nat", "qwen3-moe-tiny: loss, nats per token")
    axes[0].set(title=title, xlabel=say("步数", "step"), yscale="log")
    rates = [100 * recipe.schedule(int(step), steps) for step in log["step"]]
    axes[1].plot(log["step"], rates, color=LIGHT["second"])
    axes[1].set(title=say("学习率，占峰值的 %", "learning rate, % of its peak"), xlabel=say("步数", "step"))
    return drawn


def load_curves(logs: dict, labels: dict[str, str]):
    """The share of each expert over the steps, a row for each log and a panel for each layer, as far as all logs go."""
    length = min(len(log["step"]) for log in logs.values())
    layers = next(iter(logs.values()))["load"].shape[1]
    drawn, axes = figure(len(logs), layers, height=4.4, sharex=True, sharey=True)
    for row, (name, log) in zip(axes, logs.items(), strict=True):
        load = log["load"][:length].astype(float)  # (steps, layers, experts)
        for layer, ax in enumerate(row):
            for expert in range(load.shape[2]):
                ax.plot(log["step"][:length], load[:, layer, expert], color=EXPERTS[expert % len(EXPERTS)])
            ax.axhline(1 / load.shape[2], color=LIGHT["strong"], linestyle="--", linewidth=1)
            ax.set_title(say(f"第 {layer} 层，{labels[name]}", f"layer {layer}, {labels[name]}"))
    drawn.supxlabel(say("步数", "step"), fontsize=9)
    share = say("（词元，名次）的份额，滑动平均", "share of (token, slot) pairs, running average")
    drawn.supylabel(share, fontsize=9)
    return drawn


def live_curves(losses: dict[str, list[float]], scores: dict[str, float], questions: int):
    """The losses of the models trained live, with the share of right answers in the legend; both by the same names."""
    drawn, ax = figure(height=2.4)
    for (name, curve), colour in zip(losses.items(), (LIGHT["first"], LIGHT["second"]), strict=True):
        share = f"{scores[name]:.0%}"
        right = f"{name}: {share} of {questions} held-out sums right"
        ax.plot(curve, color=colour, label=say(f"{name}：{questions} 道留出的题，对 {share}", right))
    title = say("每个词元的损失，nat", "loss, nats per token")
    ax.set(title=title, xlabel=say("步数", "step"), yscale="log")
    ax.legend()
    return drawn
