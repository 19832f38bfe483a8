"""The load-balancing loss: from the router's scores in appendix A2, from each expert's share in lesson A1."""

from functools import partial

from helpers.check import Exercise

# ---------------------------------------------------------------------------------------------- appendix A2


def load_balancing_loss(logits, top_k, times=None, over=None, mean=True, f="counts", p="all", dim=-1, minlength=True):
    """times: in place of the number of experts; over: what the counts are divided by, in place of the tokens."""
    import torch

    probabilities = logits.softmax(dim)
    ids = probabilities.topk(top_k).indices
    counts = torch.bincount(ids.flatten(), minlength=logits.shape[1] if minlength else 0) / (over or len(logits))
    chosen = torch.zeros_like(probabilities).scatter(1, ids, probabilities.gather(1, ids))
    tables = {
        "logits": logits,
        "all": probabilities,
        "chosen": chosen,
        "renormalised": chosen / chosen.sum(-1, keepdim=True),
    }
    p = counts if p == "counts" else tables[p].mean(0) if mean else tables[p].sum(0)
    return (times or logits.shape[1]) * ((p if f == "p" else counts) * p).sum()


def with_gradient(solution, router_logits, top_k):
    """The loss, and whether a gradient flows from it."""
    import torch

    with torch.enable_grad():
        loss = solution(router_logits.requires_grad_(), top_k)
    return {"loss": loss, "gradient": getattr(loss, "requires_grad", "no tensor")}


def router_cases():
    import torch

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 4, generator=generator) + torch.tensor([1.5, 0.5, 0.0, -1.0])
    return {"router_logits (40, 4), top_k=2": (logits, 2), "router_logits (9, 4), top_k=1": (logits[:9].clone(), 1)}


ALL_PROBABILITIES = ("p 是全部专家的概率，没选中的也算。",
                     "p takes the probabilities of all experts, chosen or not.")  # fmt: skip

of_router = Exercise(
    right=load_balancing_loss,
    cases=router_cases,
    ask=with_gradient,
    start=("f 是每个专家被选中的次数除以词元数，p 是 softmax 概率在词元上的平均；返回 专家数 × Σ f·p。",
           "f: how often each expert is chosen, over the number of tokens; p: the softmax averaged over the tokens; "
           "return num_experts × Σ f·p."),
    mistakes=[
        (partial(load_balancing_loss, times=1), "还差专家数这么多倍：对专家求和，不求平均，再乘专家数。",
         "this is too small by the number of experts: sum over them, no mean, then times their number."),
        (lambda logits, top_k: load_balancing_loss(logits, top_k, times=top_k), "乘的是 top_k，应当乘专家数。",
         "this multiplies by top_k; take the number of experts."),
        (lambda logits, top_k: load_balancing_loss(logits, top_k, times=len(logits)),
         "词元数和专家数弄反了：f 除以词元数，最后乘专家数。",
         "tokens and experts are mixed up: f is divided by the number of tokens, and the sum times that of experts."),
        (lambda logits, top_k: logits.shape[1] * top_k * logits.softmax(-1).mean(0).sum(),
         "先各自求和再相乘，得数总是一样；应当先逐个相乘，再求和。",
         "the product of two sums is always the same; multiply expert by expert, then sum."),
        (lambda logits, top_k: top_k * logits.shape[1] * logits.softmax(-1).mean(),
         "p 对专家也求了平均；只在词元上求：mean(dim=0)。",
         "p is averaged over the experts as well; take the mean over the tokens alone: mean(dim=0)."),
        (lambda logits, top_k: load_balancing_loss(logits, top_k, over=top_k * len(logits)),
         "f 的和应该是 top_k：除以词元数，不是除以选择的总次数。",
         "f adds up to top_k: divide by the number of tokens, not by the number of choices."),
        (partial(load_balancing_loss, over=1), "f 和 p 各要除以一次词元数，现在一共只除了一次。",
         "f and p are each divided by the number of tokens; this divides only once."),
        (partial(load_balancing_loss, over=1, mean=False), "f 和 p 都要除以词元数。",
         "f and p are both divided by the number of tokens."),
        (partial(load_balancing_loss, f="p"), "f 要数真正的选择，不能用概率代替。",
         "f counts the choices made, not the probabilities."),
        (partial(load_balancing_loss, p="chosen"), *ALL_PROBABILITIES),
        (partial(load_balancing_loss, p="renormalised"), *ALL_PROBABILITIES),
        (partial(load_balancing_loss, p="logits"), "p 是概率的平均：先做 softmax。",
         "p averages probabilities: take the softmax first."),
        (partial(load_balancing_loss, p="counts"), "p 是概率的平均，不是次数：次数没有梯度。",
         "p averages the probabilities: counts have no gradient."),
        (partial(load_balancing_loss, dim=0), "softmax 沿着词元做了；应该沿着专家做：dim=-1。",
         "the softmax runs over the tokens; it should run over the experts: dim=-1."),
        (lambda logits, top_k: load_balancing_loss(logits, 1), "只数了第一名：每个词元选中的 top_k 个都要数。",
         "this counts the best expert alone: count all top_k choices of each token."),
        (partial(load_balancing_loss, minlength=False),
         "编号最大的专家没人选，计数就短了一截：bincount 要写 minlength=num_experts。",
         "nobody chose the last expert, so the counts are too short: give bincount minlength=num_experts."),
        (lambda *case: load_balancing_loss(*case).item(), "应该返回张量，才能求梯度：不要用 .item()。",
         "a tensor is wanted, for its gradient: do without .item()."),
        (lambda *case: load_balancing_loss(*case).detach(),
         "数值对了，可是梯度断了：不要用 .detach()、.item()、torch.tensor(...) 或 torch.no_grad()。",
         "the value is right, but its gradient is lost: do without .detach(), .item(), torch.tensor(...) and "
         "torch.no_grad()."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- lesson A1


def balancing_loss(load, probabilities, times=None, dim=0, mean=True, of=lambda load, p: load * p):
    p = probabilities.mean(dim) if mean else probabilities.sum(dim)
    return float((times or len(load)) * of(load, p).sum())


def load_cases():
    import torch

    generator = torch.Generator().manual_seed(0)
    load, logits = torch.rand(6, generator=generator), 2 * torch.randn(40, 6, generator=generator)
    even = torch.full((4,), 0.25), torch.full((3, 4), 0.25)
    square = load[:5] / load[:5].sum(), logits[:5, :5].softmax(dim=-1)  # tokens in place of experts would fit, too
    return {"load (6)": (load / load.sum(), logits.softmax(dim=-1)), "load (4)": even, "load (5)": square}


of_load = Exercise(
    right=balancing_loss,
    cases=load_cases,
    start=("在词元上求平均得到 p，和 load 逐个相乘，求和，再乘专家数。",
           "the mean over tokens is p; multiply by load expert by expert, sum, and multiply by the number of experts."),
    mistakes=[
        (partial(balancing_loss, times=1), "还要乘专家数。", "it still has to be multiplied by the number of experts."),
        (lambda load, p: balancing_loss(load, p, times=len(p)), "乘的是词元数，应当乘专家数：load 的长度。",
         "this multiplies by the number of tokens; take that of the experts, the length of load."),
        (partial(balancing_loss, mean=False), "在词元上求了和，应当求平均。",
         "this sums over the tokens; take their mean."),
        (partial(balancing_loss, dim=-1), "在专家上求了平均，应当在词元上：dim=0。",
         "this is the mean over the experts; take it over the tokens: dim=0."),
        (lambda load, p: balancing_loss(load / len(p), p), "load 已经是份额，不用再除以词元数。",
         "load is a share already: do not divide it by the number of tokens."),
        (partial(balancing_loss, of=lambda load, p: load.sum() * p.sum()),
         "先各自求和再相乘，总是得到专家数；应当先逐个相乘，再求和。",
         "the product of two sums is always the number of experts; multiply expert by expert, then sum."),
        (lambda load, p: float((load * p.mean(0)).mean()), "对专家求了平均；应当求和，再乘专家数。",
         "this takes the mean over experts; take the sum, times their number."),
        (partial(balancing_loss, of=lambda load, p: load * load), "两次都用了 load，它没有梯度；另一个是概率的平均。",
         "load twice has no gradient; the other is p."),
        (partial(balancing_loss, of=lambda load, p: p * p), "两次都用了概率；另一个是 load。",
         "this uses the probabilities twice; the other one is load."),
        (partial(balancing_loss, times=6), "专家数要从输入里读，不要写死。",
         "read the number of experts from the input."),
        (lambda load, p: len(load) * load * p.mean(0), "应当是一个数；还差一次求和或平均。",
         "a single number is wanted; a sum or a mean is missing."),
    ],
)  # fmt: skip
