"""Lesson 05, exercise 3: top-p of a batch."""

from helpers.check import Exercise


def right_top_p(logits, top_p):
    from helpers.qwen import keep_top_p

    return keep_top_p(logits, top_p)


def keep(logits, drop):
    return logits.masked_fill(drop, float("-inf"))


def before(logits):
    """The probabilities of the tokens in front of each one, added up."""
    return logits.softmax(-1).cumsum(-1) - logits.softmax(-1)


def without_the_one_that_crosses(logits, top_p):
    ordered, places = logits.sort(dim=-1, descending=True)
    return logits.scatter(-1, places, keep(ordered, ordered.softmax(-1).cumsum(-1) >= top_p))


def in_sorted_order(logits, top_p):
    ordered = logits.sort(dim=-1, descending=True).values
    return keep(ordered, before(ordered) >= top_p)


def mask_of_the_sorted(logits, top_p):
    return keep(logits, before(logits.sort(dim=-1, descending=True).values) >= top_p)


def gathered(logits, top_p):
    places = logits.sort(dim=-1, descending=True).indices
    return in_sorted_order(logits, top_p).gather(-1, places)


def along_the_batch(logits, top_p):
    ordered, places = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(0)
    return logits.scatter(-1, places, keep(ordered, probabilities.cumsum(0) - probabilities >= top_p))


def min_p(logits, top_p):
    probabilities = logits.softmax(-1)
    return keep(logits, probabilities < top_p * probabilities.max(-1, keepdim=True).values)


def from_the_smallest(logits, top_p):
    ordered, places = logits.sort(dim=-1)
    return logits.scatter(-1, places, keep(ordered, before(ordered) >= top_p))


def top_p_cases():
    import torch

    logits = torch.tensor([[0.1, 0.6, 0.3], [0.25, 0.05, 0.7]]).log()
    return {f"top_p={top_p}": (logits, top_p) for top_p in (0.65, 0.5, 0.3, 0.8, 0.96)}


EACH = ("这是逐个和门槛比较；top-p 看的是从大到小的累计。",
        "this compares each probability with the line; top-p looks at the sum from the largest down.")  # fmt: skip
SCORES = ("留对了词元，但留下的分数变了：不要动它们。",
          "the right tokens stay, but their scores changed: leave them alone.")  # fmt: skip

ex3 = Exercise(
    right=right_top_p,
    cases=top_p_cases,
    start=("先把 logits 从大到小排序，求 softmax 和 cumsum。",
           "sort the logits from high to low, softmax, then cumsum."),
    mistakes=[
        (without_the_one_that_crosses,
         "top_p={case[1]} 时，越过门槛的那一个也被去掉了：看它前面的累计概率，不含它自己。",
         "with top_p={case[1]} the token that crosses the line is gone too: take the sum before it."),
        (in_sorted_order, "次序没有还原：用 scatter 放回原来的位置。", "the old order is lost: scatter puts it back."),
        (gathered, "还原用的是 scatter，不是 gather：places 说的是每个词元原来在哪里。",
         "it takes scatter to restore the order, not gather: places says where each token came from."),
        (along_the_batch, "softmax 和 cumsum 沿着批次做了：应该沿着词表，dim=-1。",
         "softmax and cumsum run along the batch; they should run along the vocabulary: dim=-1."),
        (min_p, "这是 min-p：和最大的概率比；top-p 看的是从大到小的累计。",
         "this is min-p, which compares with the best; top-p looks at the sum from the largest down."),
        (lambda logits, top_p: (kept := right_top_p(logits, top_p)).masked_fill(kept.isinf(), 0),
         "去掉的要写成负无穷：写 0，它们还有概率。",
         "what goes is minus infinity: with 0 it still has a probability."),
        (mask_of_the_sorted, "在排好序的里面算出来的，不能直接用在原来的 logits 上：用 scatter 放回原来的位置。",
         "what was found in sorted order does not fit the logits as they are: scatter puts it back."),
        (lambda logits, top_p: right_top_p(logits, top_p).clamp(min=-1e9), "要写负无穷：float('-inf') 或 -torch.inf。",
         "it has to be minus infinity: float('-inf') or -torch.inf."),
        (lambda logits, top_p: keep(logits, ~right_top_p(logits, top_p).isinf()),
         "反了：留下的成了负无穷，该去掉的还在。",
         "the wrong way round: those that stay are minus infinity, and those that go are there."),
        (lambda logits, top_p: keep(logits, before(logits) >= top_p), "没有排序就累加了：要从最大的数起。",
         "this adds up without sorting: begin with the largest."),
        (from_the_smallest, "从小到大排了序：要从最大的数起。", "this sorts upwards: begin with the largest."),
        (lambda logits, top_p: keep(logits, logits.softmax(-1) < top_p), *EACH),
        (lambda logits, top_p: keep(logits, logits.softmax(-1) < 1 - top_p), *EACH),
        (lambda logits, top_p: right_top_p(logits, top_p).softmax(-1).log(), *SCORES),
        (lambda logits, top_p: right_top_p(logits, top_p).softmax(-1), *SCORES),
    ],
)  # fmt: skip
