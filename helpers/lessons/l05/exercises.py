"""Lesson 05: a prompt without thinking, written by hand; top-p of a list, and of a batch."""

import functools
from functools import partial

from helpers import models
from helpers.check import Exercise

# ---------------------------------------------------------------------------------------------- exercise 1


@functools.cache
def tiny_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(models.find_checkpoint("qwen3-tiny"))


def rendered(system, question):
    """What the chat template writes, with thinking off."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": question})
    template = tiny_tokenizer().apply_chat_template
    return template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)


BLOCK, TURN, END = "<think>\n\n</think>\n\n", "<|im_start|>assistant\n", "<|im_end|>\n"


def written(system, question, think=BLOCK, last=TURN, end=END, first="<|im_start|>system\n", default=None, after=""):
    """default: in place of a system message that is not there; after: what follows everything."""
    system = default if system is None else system
    start = "" if system is None else f"{first}{system}{end}"
    return f"{start}<|im_start|>user\n{question}{end}{last}{think}{after}"


def but_for_newlines(solution, system, question):
    """The text; without any blank where nothing but blanks is wrong, so that all such texts are alike."""
    text, right = solution(system, question), rendered(system, question)
    bare = "".join(text.split()) if isinstance(text, str) else text
    return bare if text != right and bare == "".join(right.split()) else text


NEWLINES = (
    "只差换行。思考块应该是 '<think>\\n\\n</think>\\n\\n'，其余每一轮之后一个换行。",
    "only newlines differ. The think block is '<think>\\n\\n</think>\\n\\n', and every turn ends with one newline.",
)
NO_DEFAULT = ("没有系统消息时什么也不写：Qwen3 的模板没有默认的系统消息。",
              "without a system message nothing is written: Qwen3's template has no default one.")  # fmt: skip
ASSISTANT = (
    "还差 assistant 这一轮的开头，模型才知道轮到自己。",
    "the beginning of the assistant's turn is missing: without it the model does not know that it is next.",
)
NO_END = ("最后一轮不要用 <|im_end|> 结束：接下来由模型写。",
          "the last turn does not end with <|im_end|>: the model goes on there.")  # fmt: skip

ex1 = Exercise(
    right=rendered,
    cases=[(None, "你是谁？"), ("只说中文。", "37×46=?")],
    ask=but_for_newlines,
    start=("从用户的一轮写起：<|im_start|>user、换行、问题、<|im_end|>、换行。",
           "begin with the user's turn: <|im_start|>user, a newline, the question, <|im_end|>, a newline."),
    mistakes=[
        (partial(written, think=""), "这是会思考的提示词：末尾还差空的思考块。",
         "this prompt still thinks: the empty think block is missing."),
        (lambda system, question: written(system, question + BLOCK, think=""),
         "思考块写进了用户的一轮：它是 assistant 的一轮的开头，在最后。",
         "the think block is in the user's turn: it belongs at the end, where the assistant's turn begins."),
        (partial(written, think="<think>\n"), "思考块只开了头：要写成空的，连 </think> 一起。",
         "the think block is only opened: write it empty, </think> included."),
        (partial(written, end="<|im_end|>"), *NEWLINES),
        (partial(written, first="<|im_start|>system"), *NEWLINES),
        (partial(written, last=""), *ASSISTANT),
        (partial(written, last="", think=""), *ASSISTANT),
        *[(partial(written, default=text), *NO_DEFAULT)
          for text in ("You are Qwen.", "You are a helpful assistant.", "", "None")],
        (lambda system, question: written(None, question), "系统消息没有写进去，它应该在最前面。",
         "the system message is missing; it comes first."),
        *[(partial(written, think=think, after=after), *NO_END)
          for think in (BLOCK, "") for after in ("<|im_end|>\n", "<|im_end|>")],
        *[(lambda system, question, think=think: written(system, question + " /no_think", think=think),
           "不用写 /no_think：空的思考块已经让模型不思考了。",
           "leave /no_think out: the empty think block is what switches thinking off.") for think in (BLOCK, "")],
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 2


def chances(probabilities, top_p, line=None, before=True, divide=True):
    """before: the sum in front of a token decides, not the one that includes it; line: replaces top_p's comparison."""
    kept, total = [], 0
    for probability in probabilities:
        enough = line(total, top_p) if line else total >= top_p
        if enough or not (before or total + probability <= top_p):
            break
        kept.append(probability)
        total += probability
    return [probability / total for probability in kept] if divide else kept


def of_those(keep_one):
    """A wrong top-p: ``keep_one(probability, probabilities, top_p)`` decides on each token by itself."""

    def answer(probabilities, top_p):
        kept = [one for one in probabilities if keep_one(one, probabilities, top_p)]
        return [one / sum(kept) for one in kept]

    return answer


ex2 = Exercise(
    right=chances,
    cases=[([0.5, 0.25, 0.25], 0.6), ([0.5, 0.25, 0.125, 0.125], 0.5), ([0.5, 0.25, 0.125, 0.125], 0.8),
           ([0.75, 0.25], 0.1), ([0.5, 0.5], 1.0), ([0.25, 0.25, 0.25, 0.25], 0.5)],
    start=("从一个空列表和 0 开始，for 循环一个一个收下，和够了就 break。",
           "begin with an empty list and 0; a for loop takes one after another, and breaks when the sum is enough."),
    mistakes=[
        (partial(chances, divide=False), "留下的对了，还差一步：各除以它们的和。",
         "the right ones stay; one step is missing: divide each by their sum."),
        (partial(chances, before=False), "越过门槛的那一个也被去掉了：看它前面的和，不含它自己。",
         "the one that crosses the line is gone too: look at the sum before it."),
        (partial(chances, before=False, divide=False), "越过门槛的那一个也被去掉了：看它前面的和，不含它自己。",
         "the one that crosses the line is gone too: look at the sum before it."),
        (partial(chances, line=lambda total, top_p: total > top_p), "和正好等于 top_p 时已经够了：用 >=，不用 >。",
         "a sum of just top_p is enough: >=, not >."),
        (of_those(lambda one, probabilities, top_p: one >= top_p * max(probabilities)),
         "这是 min-p：和最大的概率比；top-p 看的是从头数起的和。",
         "this is min-p, which compares with the largest; top-p looks at the sum from the start."),
        (of_those(lambda one, probabilities, top_p: one >= 1 - top_p), "这是逐个和门槛比；top-p 看的是从头数起的和。",
         "this compares each with the line; top-p looks at the sum from the start."),
        (lambda probabilities, top_p: probabilities, "一个也没有去掉：和够了 top_p 就 break。",
         "nothing was dropped: break as soon as the sum is enough."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 3


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
        (lambda logits, top_p: keep(logits, before(logits) >= top_p), "没有排序就累加了：要从最大的数起。",
         "this adds up without sorting: begin with the largest."),
        (from_the_smallest, "从小到大排了序：要从最大的数起。", "this sorts upwards: begin with the largest."),
        (lambda logits, top_p: keep(logits, logits.softmax(-1) < top_p), *EACH),
        (lambda logits, top_p: keep(logits, logits.softmax(-1) < 1 - top_p), *EACH),
        (lambda logits, top_p: right_top_p(logits, top_p).softmax(-1).log(), *SCORES),
        (lambda logits, top_p: right_top_p(logits, top_p).softmax(-1), *SCORES),
    ],
)  # fmt: skip
