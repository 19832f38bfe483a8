"""Lesson 04: the router, the loop over experts, the parameters of the experts, the load-balancing loss."""

from functools import partial
from itertools import product

from helpers import models
from helpers.check import Exercise
from helpers.difference import alike

EXPERTS = 4  # in exercise 2


def seeded():
    import torch

    return torch, torch.Generator().manual_seed(0)


# ---------------------------------------------------------------------------------------------- exercise 1


def choose_experts(router_logits, top_k, scores=lambda logits: logits.softmax(-1), normed=True, largest=True):
    weights, ids = scores(router_logits).topk(top_k, largest=largest)
    return (weights / weights.sum(-1, keepdim=True) if normed else weights), ids


def right_route(router_logits, top_k):
    from helpers.qwen import route

    return route(router_logits, top_k, norm_topk_prob=True)


def router_cases():
    torch, generator = seeded()
    logits = 2 * torch.randn(6, 5, generator=generator)  # as many tokens as no top-k is
    return {"router_logits (6, 5), top_k=3": (logits, 3), "router_logits (6, 5), top_k=2": (logits, 2)}


OTHER_SCORES = [
    (lambda logits: logits.softmax(0), "softmax 沿着词元做了；应该沿着专家做：dim=-1。",
     "the softmax runs over the tokens; it should run over the experts: dim=-1."),
    (lambda logits: logits, "权重直接取自 logits；logits 可以是负数，要先做 softmax。",
     "the weights come from the logits themselves, which may be negative: softmax first."),
    (lambda logits: logits.sigmoid(), "这里用 softmax，不用 sigmoid。", "it is softmax here, not sigmoid."),
]  # fmt: skip

ex1 = Exercise(
    right=right_route,
    cases=router_cases,
    start=("三步：在专家那一维上做 softmax，取 topk，再除以选中的权重之和。",
           "three steps: softmax over the experts, topk, then divide by the sum of the chosen weights."),
    mistakes=[
        (partial(choose_experts, normed=False), "还差最后一步：每个词元的权重要除以它们的和，加起来才是 1。",
         "one step is missing: divide the weights of each token by their sum, so that they add up to 1."),
        *[(partial(choose_experts, scores=scores, normed=normed), *hint)
          for (scores, *hint), normed in product(OTHER_SCORES, (True, False))],
        (lambda *case: right_route(*case)[::-1], "顺序反了：先权重，后编号。",
         "the order is the other way round: weights first, then ids."),
        (lambda logits, top_k: (right_route(logits, top_k)[0], right_route(-logits, top_k)[1]),
         "选中的专家不对：编号和权重来自同一个 topk。",
         "these are not the chosen experts: ids and weights come from the same topk."),
        (partial(choose_experts, largest=False), "选了分数最低的专家；应该选最高的。",
         "these are the experts with the lowest scores; the highest are chosen."),
        (lambda *case: right_route(*case)[0], "应该返回两个张量：return routing_weights, expert_ids。",
         "two tensors are wanted: return routing_weights, expert_ids."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 2


def weighted(expert, rows, weights):
    return expert(rows) * weights


def run_experts(
    tokens, routing_weights, expert_ids, experts, output=None, slots=lambda *where: where, rows=weighted, add=True
):
    """output: where to start; rows: of one expert, from its function, its tokens and their weights."""
    output = 0 * tokens if output is None else output
    for expert in range(len(experts)):
        token, slot = slots(*(expert_ids == expert).nonzero(as_tuple=True))
        put = output.index_add_ if add else output.index_copy_
        put(0, token, rows(experts[expert], tokens[token], routing_weights[token, slot, None]))
    return output


def over_tokens(tokens, routing_weights, expert_ids, experts):
    output = 0 * tokens
    for token, slot in product(range(len(tokens)), range(expert_ids.shape[1])):
        output[token] += routing_weights[token, slot] * experts[expert_ids[token, slot]](tokens[None, token])[0]
    return output


def count_calls(solution, tokens, routing_weights, expert_ids, experts):
    """The output, and how often experts were called."""
    calls = []

    def counted(expert):
        return lambda rows: (calls.append(expert), expert(rows))[1]

    output = solution(tokens, routing_weights, expert_ids, [counted(expert) for expert in experts])
    return {"output": output, "calls": len(calls)}


def same_output(given, wanted):
    """With at most one call each, or with more than that, however many."""
    return alike(given["output"], wanted["output"]) and (given["calls"] > EXPERTS) == (wanted["calls"] > EXPERTS)


def expert_cases():
    torch, generator = seeded()
    # Not linear, so that it shows whether a weight goes in or comes out.
    experts = [lambda rows, n=n: torch.tanh((n + 1) * rows + rows.flip(-1)) + n for n in range(EXPERTS)]
    tokens = torch.randn(5, 3, generator=generator)
    weights = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.8, 0.2], [0.6, 0.4], [0.55, 0.45]])
    expert_ids = torch.tensor([[0, 2], [2, 0], [1, 2], [0, 1], [2, 1]])  # nobody takes expert 3
    return {
        "tokens (5, 3)": (tokens, weights, expert_ids, experts),
        "tokens (2, 3)": (tokens[:2], weights[:2], expert_ids[2:4], experts),
    }


FROM_ZEROS = ("输出要从全零开始，不能加在输入上：torch.zeros_like(tokens)。",
              "start the output from zeros, not from the input: torch.zeros_like(tokens).")  # fmt: skip
TOKEN_FIRST = "torch.where 先给词元，后给名次，别弄反。", "torch.where gives the token first, then the slot."

ex2 = Exercise(
    right=run_experts,
    cases=expert_cases,
    ask=count_calls,
    same=same_output,
    start=(
        "对每个专家：torch.where(expert_ids == expert) 给出词元和名次，算完乘权重，再用 index_add_ 加回去。",
        "for each expert: torch.where(expert_ids == expert) gives tokens and slots; run, weight, add with index_add_.",
    ),
    mistakes=[
        (over_tokens, "结果对了，可是专家被调用了 {given[calls]} 次：一个专家一次就够，把它的词元一起交给它。",
         "the result is right, but the experts were called {given[calls]} times: once each is enough, with all its "
         "tokens together."),
        (lambda *case: run_experts(*case, output=case[0]), *FROM_ZEROS),
        (lambda *case: run_experts(*case, output=case[0].clone()), *FROM_ZEROS),
        (partial(run_experts, rows=lambda expert, rows, weights: expert(rows)), "还没有乘路由权重。",
         "the routing weights are missing."),
        (partial(run_experts, rows=lambda expert, rows, weights: expert(rows * weights)),
         "权重乘在了专家的输入上；要乘在它的输出上：专家不是线性的，两者不同。",
         "the weight goes to what the expert returns, not to what it is given: an expert is not linear."),
        (partial(run_experts, slots=lambda token, slot: (token[slot < 1], slot[slot < 1])),
         "每个词元只算了第一个专家。", "each token got its first expert only."),
        (partial(run_experts, add=False), "后来的专家盖掉了先前的：用 index_add_ 加，不要赋值。",
         "later experts overwrote earlier ones: add with index_add_ instead of assigning."),
        (partial(run_experts, slots=lambda token, slot: (slot, token)), *TOKEN_FIRST),
        (partial(run_experts, slots=lambda token, slot: (slot, token.clamp(max=1))), *TOKEN_FIRST),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 3


def expert_parameters(config, matrices=3, width="moe_intermediate_size", layers="num_hidden_layers"):
    one = matrices * config["hidden_size"] * config[width] * config.get(layers, 1)
    return one * config["num_experts"], one * config["num_experts_per_tok"]


ex3 = Exercise(
    right=expert_parameters,
    cases={f"Qwen3-{size}": (models.CATALOGUE[f"Qwen/Qwen3-{size}"].config,) for size in ("30B-A3B", "235B-A22B")},
    start=("一个专家是三个 hidden × moe_intermediate_size 的矩阵；再乘专家数和层数。",
           "an expert is three matrices of hidden × moe_intermediate_size; times the experts, times the layers."),
    mistakes=[
        (lambda config: expert_parameters(config)[::-1], "顺序反了：先全部，后用到的。",
         "the order is the other way round: all first, then used."),
        (partial(expert_parameters, layers="one layer"), "这只是一层的：还要乘层数。",
         "this is one layer: times the layers."),
        (partial(expert_parameters, matrices=2), "一个专家有三个矩阵，不是两个：gate_proj、up_proj、down_proj。",
         "an expert has three matrices, not two: gate_proj, up_proj, down_proj."),
        (partial(expert_parameters, width="intermediate_size"),
         "intermediate_size 是稠密层的宽度；专家的宽度是 moe_intermediate_size。",
         "intermediate_size is the width of a dense layer; that of an expert is moe_intermediate_size."),
        (lambda config: expert_parameters(config)[:1] * 2, "一个词元只用到 num_experts_per_tok 个专家。",
         "a token uses num_experts_per_tok of the experts only."),
        (lambda config: expert_parameters(config)[0], "应该返回两个数：全部的，和用到的。",
         "two numbers are wanted: of all, and of those used."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 4


def load_balancing_loss(logits, top_k, times=None, over=None, mean=True, f="counts", p="all"):
    """times: in place of the number of experts; over: what the counts are divided by, in place of the tokens."""
    import torch

    probabilities = logits.softmax(-1)
    ids = probabilities.topk(top_k).indices
    counts = torch.bincount(ids.flatten(), minlength=logits.shape[1]) / (over or len(logits))
    chosen = torch.zeros_like(probabilities).scatter(1, ids, probabilities.gather(1, ids))
    p = {"all": probabilities, "chosen": chosen}.get(p)
    p = counts if p is None else p.mean(0) if mean else p.sum(0)
    return (times or logits.shape[1]) * ((counts if f == "counts" else p) * p).sum()


def with_gradient(solution, router_logits, top_k):
    """The loss, and whether a gradient flows from it."""
    import torch

    with torch.enable_grad():
        loss = solution(router_logits.requires_grad_(), top_k)
    return {"loss": loss, "gradient": getattr(loss, "requires_grad", "no tensor")}


def loss_cases():
    torch, generator = seeded()
    logits = torch.randn(40, 4, generator=generator) + torch.tensor([1.5, 0.5, 0.0, -1.0])
    return {"router_logits (40, 4), top_k=2": (logits, 2), "router_logits (9, 4), top_k=1": (logits[:9].clone(), 1)}


ex4 = Exercise(
    right=load_balancing_loss,
    cases=loss_cases,
    ask=with_gradient,
    start=("f 是每个专家被选中的次数除以词元数，p 是 softmax 概率在词元上的平均；返回 专家数 × Σ f·p。",
           "f: how often each expert is chosen, over the number of tokens; p: the softmax averaged over the tokens; "
           "return num_experts × Σ f·p."),
    mistakes=[
        (partial(load_balancing_loss, times=1), "还要乘专家数。", "times the number of experts."),
        (lambda logits, top_k: load_balancing_loss(logits, top_k, over=top_k * len(logits)),
         "f 的和应该是 top_k：除以词元数，不是除以选择的总次数。",
         "f adds up to top_k: divide by the number of tokens, not by the number of choices."),
        (partial(load_balancing_loss, over=1), "f 要除以词元数。", "f is divided by the number of tokens."),
        (partial(load_balancing_loss, over=1, mean=False), "f 和 p 都要除以词元数。",
         "f and p are both divided by the number of tokens."),
        (partial(load_balancing_loss, f="p"), "f 要数真正的选择，不能用概率代替。",
         "f counts the choices made, not the probabilities."),
        (partial(load_balancing_loss, p="chosen"), "p 是全部专家的概率，没选中的也算。",
         "p takes the probabilities of all experts, chosen or not."),
        (partial(load_balancing_loss, p="counts"), "p 是概率的平均，不是次数：次数没有梯度。",
         "p averages the probabilities: counts have no gradient."),
        (lambda *case: load_balancing_loss(*case).item(), "应该返回张量，才能求梯度：不要用 .item()。",
         "a tensor is wanted, for its gradient: do without .item()."),
        (lambda *case: load_balancing_loss(*case).detach(),
         "数值对了，可是梯度断了：不要用 .detach()、.item()、torch.tensor(...) 或 torch.no_grad()。",
         "the value is right, but its gradient is lost: do without .detach(), .item(), torch.tensor(...) and "
         "torch.no_grad()."),
    ],
)  # fmt: skip
