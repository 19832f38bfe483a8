"""Lesson 05, exercises 1 and 2: a prompt without thinking, written by hand; top-p of a list."""

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


def written(
    system,
    question,
    think=BLOCK,
    last=TURN,
    end=END,
    user_end=None,
    first="<|im_start|>system\n",
    default=None,
    after="",
):
    """default: in place of a system message that is not there; after: what follows everything; user_end: replaces end
    behind the question."""
    system = default if system is None else system
    start = "" if system is None else f"{first}{system}{end}"
    return f"{start}<|im_start|>user\n{question}{end if user_end is None else user_end}{last}{think}{after}"


def user_first(system, question):
    start = "" if system is None else f"<|im_start|>system\n{system}{END}"
    return f"<|im_start|>user\n{question}{END}{start}{TURN}{BLOCK}"


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
        (lambda system, question: written(None, f"{system or ''}{question}"),
         "系统消息写进了用户的一轮：它自成一轮，在最前面。",
         "the system message is in the user's turn: it is a turn of its own, the first."),
        (user_first, "次序反了：系统消息在最前面，然后才是用户的问题。",
         "the order is wrong: the system message comes first, then the user's question."),
        *[(partial(written, user_end=end), "用户的一轮没有结束：问题之后是 <|im_end|> 和换行。",
           "the user's turn does not end: behind the question comes <|im_end|>, and a newline.") for end in ("\n", "")],
        (lambda system, question: written(system, "{question}"), "花括号没有填进去：字符串的引号前面要写 f。",
         "the braces were not filled in: put an f in front of the string's quotes."),
        (partial(written, last=BLOCK, think=TURN),
         "思考块写在了 assistant 的一轮前面：先开这一轮，思考块在里面。",
         "the think block comes before the assistant's turn: begin that turn first, the block is in it."),
        (partial(written, think="</think>\n\n"), "思考块没有开头：先 <think>，再 </think>。",
         "the think block has no beginning: first <think>, then </think>."),
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


def until_one_is_enough(probabilities, top_p):
    kept = []
    for probability in probabilities:
        kept.append(probability)
        if probability >= top_p:
            break
    return [one / sum(kept) for one in kept]


def shorter(probabilities, top_p, own_sum):
    """Without the one that reaches top_p; own_sum: divided by the sum of those that stay, not by a larger one."""
    kept, total = [], 0
    for probability in probabilities:
        total += probability
        if total >= top_p:
            break
        kept.append(probability)
    return [one / (sum(kept) if own_sum else total) for one in kept]


CROSSES = ("越过门槛的那一个也被去掉了：看它前面的和，不含它自己。",
           "the one that crosses the line is gone too: look at the sum before it.")  # fmt: skip

ex2 = Exercise(
    right=chances,
    cases=[([0.5, 0.25, 0.25], 0.6), ([0.5, 0.25, 0.125, 0.125], 0.5), ([0.5, 0.25, 0.125, 0.125], 0.8),
           ([0.75, 0.25], 0.1), ([0.5, 0.5], 1.0), ([0.25, 0.25, 0.25, 0.25], 0.5)],
    start=("从一个空列表和 0 开始，for 循环一个一个收下，和够了就 break。",
           "begin with an empty list and 0; a for loop takes one after another, and breaks when the sum is enough."),
    mistakes=[
        (partial(chances, divide=False), "留下的对了，还差一步：各除以它们的和。",
         "the right ones stay; one step is missing: divide each by their sum."),
        (partial(chances, before=False), *CROSSES),
        (partial(chances, before=False, divide=False), *CROSSES),
        (partial(chances, line=lambda total, top_p: total > top_p), "和正好等于 top_p 时已经够了：用 >=，不用 >。",
         "a sum of just top_p is enough: >=, not >."),
        (of_those(lambda one, probabilities, top_p: one >= top_p * max(probabilities)),
         "这是 min-p：和最大的概率比；top-p 看的是从头数起的和。",
         "this is min-p, which compares with the largest; top-p looks at the sum from the start."),
        (of_those(lambda one, probabilities, top_p: one >= 1 - top_p), "这是逐个和门槛比；top-p 看的是从头数起的和。",
         "this compares each with the line; top-p looks at the sum from the start."),
        *[(wrong, "这是逐个和门槛比；top-p 看的是从头数起的和。",
           "this compares each with the line; top-p looks at the sum from the start.")
          for wrong in (of_those(lambda one, probabilities, top_p: one >= top_p), until_one_is_enough)],
        (lambda probabilities, top_p: [one / top_p for one in chances(probabilities, top_p, divide=False)],
         "留下的对了，但要除以它们的和，不是除以 top_p。",
         "the right ones stay, but divide by their sum, not by top_p."),
        *[(partial(shorter, own_sum=own_sum), *CROSSES) for own_sum in (True, False)],
        (lambda probabilities, top_p: chances(probabilities[:round(len(probabilities) * top_p)], 1),
         "top_p 是概率的和，不是个数的比例：从头加起，够了就停。",
         "top_p is a sum of probabilities, not a share of their number: add up from the start until it is enough."),
        (lambda probabilities, top_p: probabilities, "一个也没有去掉：和够了 top_p 就 break。",
         "nothing was dropped: break as soon as the sum is enough."),
    ],
)  # fmt: skip
