"""Appendix A2: the models whose experts it counts, and how many parameters they have and use."""

from helpers import catalogue
from helpers.design import LIGHT
from helpers.figures import figure
from helpers.language import say

_QWEN2 = {"vocab_size": 151936, "tie_word_embeddings": False, "model_type": "qwen2_moe"}
# What the config.json of each says: the first two, which have a shared expert, are not in the catalogue.
CONFIGS = {
    "Qwen1.5-MoE-A2.7B": _QWEN2 | {
        "num_hidden_layers": 24, "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 16,
        "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    "Qwen2-57B-A14B": _QWEN2 | {
        "num_hidden_layers": 28, "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4,
        "num_experts": 64, "num_experts_per_tok": 8, "moe_intermediate_size": 2560,
        "shared_expert_intermediate_size": 20480,
    },
    **{name: catalogue.CATALOGUE[f"Qwen/{name}"].config for name in ("Qwen3-30B-A3B", "Qwen3-235B-A22B")},
}  # fmt: skip


def table_of_sizes(sizes):
    """Prints and draws all parameters of every model, and those that one token uses.

    sizes: by name, all parameters, those used for one token, and those of all experts.
    """
    print(
        say(
            "                      总数 B   激活 B    激活    专家占比  专家宽度 / hidden",
            "                     total B active B  active  in experts     width / hidden",
        )
    )
    drawn, ax = figure(height=2.3)
    for place, (name, (total, active, experts)) in enumerate(sizes.items()):
        width = CONFIGS[name]["moe_intermediate_size"] / CONFIGS[name]["hidden_size"]
        print(f"{name:<18} {total / 1e9:>9.2f} {active / 1e9:>8.2f}", end=" ")
        print(f"{active / total:>7.1%} {experts / total:>11.1%} {width:>18.3f}")
        (everything,) = ax.barh(place, total / 1e9, color=LIGHT["quiet"])
        (used,) = ax.barh(place, active / 1e9, color=LIGHT["first"])
    ax.set(yticks=range(len(sizes)), yticklabels=sizes)
    ax.set_xlabel(say("参数，十亿", "parameters, billions"))
    ax.invert_yaxis()
    labels = say("全部参数", "all parameters"), say("一个词元用到的", "used for one token")
    ax.legend((everything, used), labels, loc="center right")
    return drawn
