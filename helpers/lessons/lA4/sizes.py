"""Appendix A4: the dense models that it counts, the table of their sizes, and what GQA saves of their KV caches."""

from helpers import catalogue
from helpers.design import EXPERTS, LIGHT
from helpers.figures import figure
from helpers.language import say

# Parameters on the model cards, in billions.
PUBLISHED = {
    "Qwen2.5-0.5B": 0.49, "Qwen2.5-1.5B": 1.54, "Qwen2.5-3B": 3.09, "Qwen2.5-7B": 7.61, "Qwen2.5-14B": 14.7,
    "Qwen2.5-32B": 32.5, "Qwen2.5-72B": 72.7, "Qwen3-0.6B": 0.6, "Qwen3-1.7B": 1.7, "Qwen3-4B": 4.0, "Qwen3-8B": 8.2,
    "Qwen3-14B": 14.8, "Qwen3-32B": 32.8,
}  # fmt: skip


def _config(name):
    return catalogue.CATALOGUE[f"Qwen/{name}" + ("-Instruct" if name.startswith("Qwen2.5") else "")].config


DENSE = {name: _config(name) for name in PUBLISHED}  # what the config.json of each says


def table_of_sizes(counts):
    """Prints parameters, widths, KV heads and KV cache of every dense model; counts: its parameters by name."""
    print(
        say(
            "                      参数量   hidden     query     KV 头  共用      KiB/词元",
            "                  parameters   hidden     query  KV heads  tied     KiB/token",
        )
    )
    for name, count in counts.items():
        config = DENSE[name]
        hidden, width = config["hidden_size"], config["num_attention_heads"] * catalogue.head_dim(config)
        sign, tied = "=" if hidden == width else "≠", str(config["tie_word_embeddings"])
        kv_heads, kv_cache = config["num_key_value_heads"], catalogue.kv_bytes_per_token(config) / 1024
        print(f"{name:<12} {count:>15,} {hidden:>8}  {sign}  {width:>5} {kv_heads:>9} {tied:>5} {kv_cache:>13g}")


def kv_caches():
    """The KV cache per token of every dense model, beside one with a KV head for each query head."""
    drawn, axes = figure(1, 2, height=2.8, sharex=True)
    for ax, family in zip(axes, ("Qwen2.5-", "Qwen3-"), strict=True):
        names = [name for name in DENSE if name.startswith(family)]
        for row, config in enumerate(DENSE[name] for name in names):
            cached = catalogue.kv_bytes_per_token(config) / 1024
            group = config["num_attention_heads"] // config["num_key_value_heads"]
            (whole,) = ax.barh(row, cached * group, color=LIGHT["quiet"])
            (real,) = ax.barh(row, cached, color=EXPERTS[0])
            ax.text(cached * group + 30, row, f"{cached:g} KiB, 1/{group}", va="center")
        ax.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 3300))
        ax.set_xlabel(say("KV 缓存，KiB/词元，bf16", "KV cache, KiB/token, bf16"))
    labels = say("每个查询头都有自己的 KV 头", "a KV head for each query head"), say("实际（GQA）", "as it is (GQA)")
    drawn.legend((whole, real), labels, loc="outside upper center", ncols=2)
    return drawn
