"""Lesson 04: the router, and the loop over experts."""

from functools import partial
from itertools import product

from helpers.check import Exercise
from helpers.difference import alike

EXPERTS = 4  # in exercise 2


def seeded():
    import torch

    return torch, torch.Generator().manual_seed(0)


# ---------------------------------------------------------------------------------------------- exercise 1


def each_token(weights):
    return weights.sum(-1, keepdim=True)


def choose_experts(router_logits, top_k, scores=lambda logits: logits.softmax(-1), total=each_token, largest=True):
    weights, ids = scores(router_logits).topk(top_k, largest=largest)
    return (weights / total(weights) if total else weights), ids


def right_route(router_logits, top_k):
    from helpers.qwen import route

    return route(router_logits, top_k, norm_topk_prob=True)


def router_cases():
    torch, generator = seeded()
    logits = 2 * torch.randn(6, 5, generator=generator)  # as many tokens as no top-k is
    cases = (logits, 3), (logits, 2), (logits[:3], 3)  # in the last one, a sum that lost its dimension divides as well
    return {f"router_logits {tuple(logits.shape)}, top_k={top_k}": (logits, top_k) for logits, top_k in cases}


OTHER_SCORES = [
    (lambda logits: logits.softmax(0), "softmax 沿着词元做了；应该沿着专家做：dim=-1。",
     "the softmax runs over the tokens; it should run over the experts: dim=-1."),
    (lambda logits: logits, "权重直接取自 logits；logits 可以是负数，要先做 softmax。",
     "the weights come from the logits themselves, which may be negative: softmax first."),
    (lambda logits: logits.sigmoid(), "这里用 softmax，不用 sigmoid。", "it is softmax here, not sigmoid."),
]  # fmt: skip


def softmax_twice(router_logits, top_k):
    weights, ids = choose_experts(router_logits, top_k, total=None)
    return weights.softmax(-1), ids


ex1 = Exercise(
    right=right_route,
    cases=router_cases,
    start=("三步：在专家那一维上做 softmax，取 topk，再除以选中的权重之和。",
           "three steps: softmax over the experts, topk, then divide by the sum of the chosen weights."),
    mistakes=[
        (partial(choose_experts, total=None), "还差最后一步：每个词元的权重要除以它们的和，加起来才是 1。",
         "one step is missing: divide the weights of each token by their sum, so that they add up to 1."),
        *[(partial(choose_experts, scores=scores, total=total), *hint)
          for (scores, *hint), total in product(OTHER_SCORES, (each_token, None))],
        (partial(choose_experts, total=lambda weights: weights.sum(-1)),
         "求和丢了一维，除法对不上词元：sum 要写 keepdim=True。",
         "the sum lost its dimension, so the division does not line up with the tokens: sum with keepdim=True."),
        (partial(choose_experts, total=lambda weights: weights.sum()), "除以了所有词元的总和；每个词元除以自己的和。",
         "this divides by the sum over all tokens; divide the weights of each token by their own sum."),
        *[(partial(choose_experts, scores=lambda logits, dim=dim: logits.softmax(dim), total=lambda w: w.sum(0)),
           "求和沿着词元做了；每个词元的权重沿着最后一维加：dim=-1。",
           "the sum runs over the tokens; add up the weights of each token: dim=-1.") for dim in (-1, 0)],
        (softmax_twice, "第三步不是再做一次 softmax：除以选中的权重之和。",
         "the third step is no second softmax: divide by the sum of the chosen weights."),
        (lambda *case: tuple(part.flip(-1) for part in right_route(*case)), "次序反了：权重最大的排在最前面。",
         "the order is wrong: the heaviest comes first."),
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
    tokens, routing_weights, expert_ids, experts, *, output=None, slots=lambda *where: where, rows=weighted, add=True
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


def every_token(tokens, routing_weights, expert_ids, experts):
    output = 0 * tokens
    for expert in range(len(experts)):
        output += experts[expert](tokens) * (routing_weights * (expert_ids == expert)).sum(-1, keepdim=True)
    return output


def all_rows(tokens, routing_weights, expert_ids, experts):
    """What an expert gives for all tokens, with the weights of those that chose it: the rows do not match."""
    output = 0 * tokens
    for expert in range(len(experts)):
        token, slot = (expert_ids == expert).nonzero(as_tuple=True)
        output.index_add_(0, token, experts[expert](tokens) * routing_weights[token, slot, None])
    return output


def at_slots(tokens, routing_weights, expert_ids, experts):
    """What experts give is added at the place of the slot."""
    output = 0 * tokens
    for expert in range(len(experts)):
        token, slot = (expert_ids == expert).nonzero(as_tuple=True)
        output.index_add_(0, slot, experts[expert](tokens[token]) * routing_weights[token, slot, None])
    return output


def last_only(tokens, routing_weights, expert_ids, experts, last=lambda ids, experts: len(experts) - 1):
    """What comes of an output that is made within the loop."""
    own = expert_ids.masked_fill(expert_ids != last(expert_ids, experts), len(experts))
    return run_experts(tokens, routing_weights, own, experts)


def first_only(tokens, routing_weights, expert_ids, experts):
    """What comes of a return within the loop."""
    return run_experts(tokens, routing_weights, expert_ids, experts[:1])


def count_calls(solution, tokens, routing_weights, expert_ids, experts):
    """The output, how often experts were called, and whether they got no more rows than there are choices."""
    calls = []

    def counted(expert):
        def call(rows):
            calls.append(len(rows) if rows.dim() > 1 else 1)
            return expert(rows)

        return call

    output = solution(tokens, routing_weights, expert_ids, [counted(expert) for expert in experts])
    return {"output": output, "calls": len(calls), "gathered": sum(calls) <= expert_ids.numel()}


def same_output(given, wanted):
    """With at most one call each, or with more than that, however many; and both with the tokens gathered or not."""
    effort = [(answer["calls"] > EXPERTS, answer["gathered"]) for answer in (given, wanted)]
    return alike(given["output"], wanted["output"]) and effort[0] == effort[1]


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
        "len(experts)=2": (tokens[:3], weights[:3], torch.tensor([[0, 1], [1, 0], [0, 1]]), experts[:2]),
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
        (all_rows, "专家收到了全部词元，行数就对不上：只给它选了它的那些，tokens[token]。",
         "the expert gets all tokens, and the rows do not match: give it those that chose it, tokens[token]."),
        (every_token, "结果对了，可是每个专家都算了全部词元：先用 torch.where 挑出选了它的。",
         "the result is right, but every expert ran on all tokens: gather those that chose it, with torch.where."),
        (first_only, "只算了第一个专家：return 是不是写在了循环里面？",
         "only the first expert was run: does the return stand within the loop?"),
        *[(wrong, "只剩最后一个专家的结果：全零的输出要在循环之前建，不能在循环里面。",
           "only the last expert's result is left: make the output of zeros before the loop, not within it.")
          for wrong in (last_only, partial(last_only, last=lambda ids, experts: ids.max()))],
        (at_slots, "加错了位置：index_add_ 的第二样是 token，不是 slot。",
         "this adds in the wrong place: index_add_ takes token second, not slot."),
        (lambda *case: 0 * case[0], "输出还是全零：index_add 不改动 output，末尾要有下划线：index_add_。",
         "the output is still zeros: index_add leaves it as it is, it takes the underscore at the end: index_add_."),
        (lambda *case: run_experts(*case, output=case[0]), *FROM_ZEROS),
        (lambda *case: run_experts(*case, output=case[0].clone()), *FROM_ZEROS),
        (partial(run_experts, rows=lambda expert, rows, weights: expert(rows)), "还没有乘路由权重。",
         "the routing weights are missing."),
        (partial(run_experts, rows=lambda expert, rows, weights: expert(rows * weights)),
         "权重乘在了专家的输入上；要乘在它的输出上：专家不是线性的，两者不同。",
         "the weight goes to what the expert returns, not to what it is given: an expert is not linear."),
        (partial(run_experts, slots=lambda token, slot: (token[slot < 1], slot[slot < 1])),
         "每个词元只算了第一个专家。", "each token got its first expert only."),
        (partial(run_experts, slots=lambda token, slot: (token, 0 * slot)),
         "权重总取了第一个：选了几个专家就有几个权重，取 slot 那一个。",
         "this always takes a token's first weight: there is one for each choice, take that of slot."),
        (lambda tokens, weights, ids, experts: run_experts(tokens, weights, ids, experts[: ids.shape[1]]),
         "只循环了 top_k 个专家：要走遍 len(experts) 个。",
         "the loop takes top_k experts only: go through all len(experts)."),
        (lambda tokens, weights, ids, experts: run_experts(tokens, weights[[[n] for n in range(len(ids))], ids], ids,
                                                           experts),
         "权重按专家编号取了：routing_weights 的第二维是名次，用 slot。",
         "the weights are looked up by expert: the second dimension of routing_weights is the slot."),
        (partial(run_experts, rows=lambda expert, rows, weights: expert(rows) * weights[:, 0]),
         "权重少一维，对不上 hidden：routing_weights[token, slot, None]。",
         "the weights lack a dimension and meet hidden instead of the rows: routing_weights[token, slot, None]."),
        (partial(run_experts, add=False), "后来的专家盖掉了先前的：用 index_add_ 加，不要赋值。",
         "later experts overwrote earlier ones: add with index_add_ instead of assigning."),
        (partial(run_experts, slots=lambda token, slot: (slot, token)), *TOKEN_FIRST),
        (partial(run_experts, slots=lambda token, slot: (slot, token.clamp(max=1))), *TOKEN_FIRST),
        (lambda tokens, weights, ids, experts: run_experts(tokens, weights.T, ids, experts),
         "routing_weights 先是词元，后是名次：routing_weights[token, slot, None]。",
         "routing_weights has tokens first, then slots: routing_weights[token, slot, None]."),
    ],
)  # fmt: skip
