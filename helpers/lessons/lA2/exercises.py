"""Appendix A2: the parameters of the experts, the load-balancing loss."""

from functools import partial

from helpers import catalogue
from helpers.check import Exercise
from helpers.lessons import balance

# ---------------------------------------------------------------------------------------------- exercise 1


def expert_parameters(config, matrices=3, width="moe_intermediate_size", layers="num_hidden_layers", used=None):
    """used: how many experts a token uses, in place of num_experts_per_tok."""
    one = matrices * config["hidden_size"] * config[width] * config.get(layers, 1)
    return one * config["num_experts"], one * (used or config["num_experts_per_tok"])


def router_parameters(config):
    return config["hidden_size"] * config["num_experts"] * config["num_hidden_layers"]


ex1 = Exercise(
    right=expert_parameters,
    cases={f"Qwen3-{size}": (catalogue.CATALOGUE[f"Qwen/Qwen3-{size}"].config,) for size in ("30B-A3B", "235B-A22B")},
    start=("一个专家是三个 hidden × moe_intermediate_size 的矩阵；再乘专家数和层数。",
           "an expert is three matrices of hidden × moe_intermediate_size; times the experts, times the layers."),
    mistakes=[
        (lambda config: expert_parameters(config)[::-1], "顺序反了：先全部，后用到的。",
         "the order is the other way round: all first, then used."),
        (partial(expert_parameters, layers="one layer"), "这只是一层的：还要乘层数。",
         "this is one layer: times the layers."),
        (partial(expert_parameters, matrices=2), "一个专家有三个矩阵，不是两个：gate_proj、up_proj、down_proj。",
         "an expert has three matrices, not two: gate_proj, up_proj, down_proj."),
        (partial(expert_parameters, matrices=1), "一个专家有三个矩阵，这里只算了一个。",
         "an expert has three matrices, this counts one."),
        (partial(expert_parameters, matrices=6), "要的是参数的个数，不是字节数：不用乘 2。",
         "the number of parameters is wanted, not bytes: do not multiply by 2."),
        (lambda config: tuple(n / 1e9 for n in expert_parameters(config)), "要的是参数的个数：不用除以十亿。",
         "the number of parameters is wanted: do not divide by a billion."),
        (lambda config: (expert_parameters(config)[0], config["num_experts_per_tok"]),
         "第二个数也是参数的个数，不是专家的个数。", "the second number counts parameters too, not experts."),
        (partial(expert_parameters, width="intermediate_size"),
         "intermediate_size 是稠密层的宽度；专家的宽度是 moe_intermediate_size。",
         "intermediate_size is the width of a dense layer; that of an expert is moe_intermediate_size."),
        *[(wrong, "第二个数是一个词元用到的：每层 num_experts_per_tok 个专家。",
           "the second number is what a token uses: num_experts_per_tok experts in each layer.") for wrong in (
            partial(expert_parameters, used=1),
            lambda config: expert_parameters(config, used=config["num_experts"] * config["num_experts_per_tok"]),
            lambda config: expert_parameters(config, used=config["num_experts"] - config["num_experts_per_tok"]),
            lambda config: (expert_parameters(config)[0], expert_parameters(config, layers="one layer")[1]))],
        (lambda config: tuple(n + router_parameters(config) for n in expert_parameters(config)),
         "路由器的矩阵不算：只要专家的参数。", "the router's matrix does not count: the experts alone are asked for."),
        (lambda config: expert_parameters(config)[:1] * 2, "一个词元只用到 num_experts_per_tok 个专家。",
         "a token uses num_experts_per_tok of the experts only."),
        (lambda config: expert_parameters(config)[0], "应该返回两个数：全部的，和用到的。",
         "two numbers are wanted: of all, and of those used."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 2

ex2 = balance.of_router
