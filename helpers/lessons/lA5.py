"""Lesson A5: the cache over the context, for Qwen3 and for models after it."""

from helpers.design import LIGHT
from helpers.figures import figure
from helpers.language import say

# max_position_embeddings of the published config.json, by the start of a model's name
NATIVE = {"Qwen3-": 40_960, "Qwen3.": 262_144}


def cache_over_context(cached: dict[str, tuple[int, int]]):
    """A figure of the cache's bytes over tokens; ``cached``: by model, bytes for each token and for each sequence."""
    drawn, ax = figure(height=3.6)
    colours = iter(LIGHT[name] for name in ("first", "third", "second", "fourth"))
    for name, (token, sequence) in cached.items():
        last = next(tokens for start, tokens in NATIVE.items() if name.startswith(start))
        contexts = [2**power for power in range(6, 19) if 2**power < last] + [last]
        sizes = [(sequence + token * tokens) / 2**30 for tokens in contexts]
        ax.plot(contexts, sizes, "--" if sequence else "-", color=next(colours), label=name)
    ax.set(xscale="log", yscale="log")
    ax.set_xticks([2**power for power in range(6, 19, 2)], [f"{2**power:,}" for power in range(6, 19, 2)])
    ax.minorticks_off()
    ax.set_yticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
    ax.set_xlabel(say("一条序列的词元数", "tokens of a sequence"))
    ax.set_ylabel(say("缓存，GiB", "cache, GiB"))
    ax.set_title(say("一条序列的缓存（bf16，由配置算出）", "cache of one sequence (bf16, computed from configs)"))
    ax.grid(alpha=0.3)
    ax.legend()
    return drawn
