"""The conversations that the tiny models are trained and measured on. Pure Python; every text is made here or stands in
``tiny_texts.toml``, nothing is downloaded.

A :class:`Sample` is a chat up to the assistant's last turn, and that turn as thought and answer. Numbers are held out
by their unordered operands before any phrasing (:func:`held_out`): a test question never occurred in other words.
"""

import hashlib
import json
import math
import random
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


def tool(name: str, description: str, **parameters: str) -> dict:
    """A function in the form of the OpenAI API; ``parameters`` maps each name to its description, "" for none."""
    properties = {key: {"type": "string"} | ({"description": text} if text else {}) for key, text in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


CALCULATOR = tool("calculator", "Computes an arithmetic expression.", expression="for example 37*46")


@dataclass
class Sample:
    """One training or test case: ``messages`` ask, ``thought`` and ``answer`` are what the assistant should write."""

    task: str
    messages: list[dict]
    thought: str
    answer: str
    tools: list[dict] = field(default_factory=list)
    expected: str | None = None  # the number an arithmetic answer must end with
    words: tuple[str, ...] = ()  # keyword rule: every entry must occur; "a|b" means either
    language: str = "zh"


@cache
def texts() -> dict:
    """``tiny_texts.toml`` as a dictionary."""
    return tomllib.loads(Path(__file__).with_name("tiny_texts.toml").read_text(encoding="utf-8"))


def held_out(*operands: int) -> bool:
    """Whether a problem with these operands, in any order, is kept from training: one in eight, by SHA-256."""
    digest = hashlib.sha256(" ".join(map(str, sorted(operands))).encode()).digest()
    return digest[0] % 8 == 0


# ---- arithmetic: thought (the steps) and result -------------------------------------------------------------------


def think_product(a: int, b: int) -> str:
    """Partial products with the digits of ``b``: ``46=40+6``, ``37×40=1480``, ``37×6=222``, ``1480+222=1702``."""
    parts = [int(digit) * 10**place for place, digit in reversed(list(enumerate(reversed(str(b))))) if digit != "0"]
    if len(parts) < 2:
        return f"{a}×{b}={a * b}"
    lines = [f"{b}=" + "+".join(map(str, parts))]
    lines += [f"{a}×{part}={a * part}" for part in parts]
    return "\n".join([*lines, f"{a * parts[0]}+{a * parts[1]}={a * b}"])


def think_sum(a: int, b: int) -> str:
    """Column addition from the ones upwards, the carry as a third term: ``7+8=15``, ``2+5+1=8``, ``4+0=4``."""
    width, carry, lines = max(len(str(a)), len(str(b))), 0, []
    for x, y in zip(reversed(str(a).zfill(width)), reversed(str(b).zfill(width)), strict=True):
        total = int(x) + int(y) + carry
        lines.append(f"{x}+{y}" + ("+1" if carry else "") + f"={total}")
        carry = total // 10
    return "\n".join(lines)


def think_difference(a: int, b: int) -> str:
    """Column subtraction for ``a >= b``, borrowing ten where needed: ``3-6+10=7``, ``2-5-1+10=6``, ``9-4-1=4``."""
    borrow, lines = 0, []
    for x, y in zip(reversed(str(a)), reversed(str(b).zfill(len(str(a)))), strict=True):
        digit = int(x) - int(y) - borrow
        step = f"{x}-{y}" + ("-1" if borrow else "") + ("+10" if digit < 0 else "")
        borrow = int(digit < 0)
        lines.append(f"{step}={digit % 10}")
    return "\n".join(lines)


def think_chain(terms: list[int]) -> str:
    """Running totals of a sum of several numbers: ``17+25=42``, ``42+8=50``."""
    totals = [sum(terms[: count + 1]) for count in range(len(terms))]
    return "\n".join(f"{totals[i]}+{terms[i + 1]}={totals[i + 1]}" for i in range(len(terms) - 1))


def think_factorial(n: int) -> str:
    """``n!`` from below: ``1×2=2``, ``2×3=6``, ``6×4=24``."""
    return "\n".join(f"{math.factorial(k - 1)}×{k}={math.factorial(k)}" for k in range(2, n + 1)) or "1!=1"


@dataclass(frozen=True)
class Problem:
    """An arithmetic problem: operation (``×``, ``+``, ``-``, ``!``, ``chain``), operands, thought and result."""

    operation: str
    operands: tuple[int, ...]

    @property
    def result(self) -> int:
        a = self.operands
        return {
            "×": math.prod,
            "+": sum,
            "chain": sum,
            "-": lambda v: v[0] - v[1],
            "!": lambda v: math.factorial(v[0]),
        }[self.operation](a)

    @property
    def thought(self) -> str:
        think = {"×": think_product, "+": think_sum, "-": think_difference, "!": think_factorial}
        return think_chain(list(self.operands)) if self.operation == "chain" else think[self.operation](*self.operands)

    @property
    def expression(self) -> str:
        """``37×46``, ``5!`` or ``17+25+8``."""
        if self.operation == "!":
            return f"{self.operands[0]}!"
        return ("+" if self.operation == "chain" else self.operation).join(map(str, self.operands))


PHRASES = {
    "zh": {
        "×": ["{0} 乘以 {1} 等于多少？", "{0}乘{1}是多少？", "{0}×{1}等于几？"],
        "+": ["{0} 加 {1} 等于多少？", "{0}加{1}是多少？", "{0}+{1}等于几？"],
        "-": ["{0} 减 {1} 等于多少？", "{0}减{1}是多少？", "{0}-{1}等于几？"],
        "!": ["{0}的阶乘是多少？", "{0} 的阶乘等于多少？", "我想问你，{0}的阶乘是多少？", "求{0}的阶乘。"],
        "chain": ["{e} 等于多少？", "计算 {e}。"],
    },
    "en": {
        "×": ["What is {0} times {1}?", "Multiply {0} by {1}.", "What is {0}×{1}?"],
        "+": ["What is {0} plus {1}?", "Add {0} and {1}.", "What is {0}+{1}?"],
        "-": ["What is {0} minus {1}?", "Subtract {1} from {0}.", "What is {0}-{1}?"],
        "!": ["What is the factorial of {0}?", "What is {0} factorial?", "What is {0}!?"],
        "chain": ["What is {e}?", "Compute {e}."],
    },
}
FORMULAS = ["{e}=?", "{e}=?", "{e}=", "{e}", "{spaced} = ?", "{e}=？", "计算 {e}", "请计算 {e}。", "Compute {e}."]
ANSWERS = {"zh": "{e} 等于 {r}。", "en": "{e} is {r}.", "formula": "{e}={r}"}


def ask(problem: Problem, form: str, rng: random.Random) -> tuple[str, str]:
    """Question and answer for ``form`` ``zh``, ``en`` or ``formula``."""
    expression = problem.expression
    if form == "formula":
        spaced = expression
        for sign in "×+-":
            spaced = spaced.replace(sign, f" {sign} ")
        question = rng.choice(FORMULAS).format(e=expression, spaced=spaced)
        if "×" in question and rng.random() < 0.25:
            question = question.replace("×", rng.choice("*x"))
    else:
        question = rng.choice(PHRASES[form][problem.operation]).format(*problem.operands, e=expression)
    return question, ANSWERS[form].format(e=expression, r=problem.result)


def draw_problem(kind: str, rng: random.Random, test: bool) -> Problem:
    """A problem of ``kind`` (``product``, ``short``, ``sum``, ``difference``, ``chain``, ``factorial``).

    Held out (``test``) or not by its operands; factorials 1 to 10 are all of them, so none can be held out.
    """
    while True:
        if kind == "product":
            problem = Problem("×", (rng.randint(10, 99), rng.randint(10, 99)))
        elif kind == "short":
            problem = Problem("×", tuple(rng.sample([rng.randint(2, 9), rng.randint(2, 99)], 2)))
        elif kind == "sum":
            other = rng.randint(100, 999) if test or rng.random() < 0.8 else rng.randint(1, 99)
            problem = Problem("+", tuple(rng.sample([rng.randint(100, 999), other], 2)))
        elif kind == "difference":
            problem = Problem("-", tuple(sorted((rng.randint(100, 999), rng.randint(1, 999)), reverse=True)))
        elif kind == "chain":
            problem = Problem("chain", tuple(rng.randint(1, 99) for _ in range(rng.randint(2, 10))))
        else:
            return Problem("!", (rng.randint(1, 10),))
        if held_out(*problem.operands) == test:
            return problem


def arithmetic(kind: str, rng: random.Random, test: bool = False, form: str | None = None) -> Sample:
    """One arithmetic question in a random or given form."""
    problem = draw_problem(kind, rng, test)
    form = form or rng.choice(["formula", "formula", "zh", "en"])
    question, answer = ask(problem, form, rng)
    language = form if form != "formula" else "zh"
    return Sample(kind, [user(question)], problem.thought, answer, expected=str(problem.result), language=language)


def user(content: str) -> dict:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict:
    return {"role": "assistant", "content": content}


FOLLOW_UPS = {
    "zh": {
        "+": ["再加 {} 呢？", "再加{}呢？", "再加上 {} 是多少？"],
        "-": ["再减 {} 呢？", "再减{}呢？", "再减去 {} 是多少？"],
    },
    "en": {
        "+": ["And plus {}?", "Now add {}.", "What if I add {}?"],
        "-": ["And minus {}?", "Now subtract {}.", "What if I subtract {}?"],
    },
}


def follow_up(rng: random.Random, test: bool = False) -> Sample:
    """A question that needs the previous answer: ``再加 10 呢？`` after ``23×31=713`` or a bare ``713``."""
    while True:
        first = draw_problem(rng.choice(["product", "short", "sum", "chain"]), rng, test)
        sign = rng.choice("++-")
        number = rng.choice([rng.randint(1, 99), 10, 5, 100])
        if (sign == "+" or first.result >= number) and held_out(first.result, number) == test:
            break
    form = rng.choice(["formula", "zh", "en"])
    question, answer = ask(first, form, rng)
    answer = rng.choice([answer, str(first.result)])
    language = form if form != "formula" else rng.choice(["zh", "en"])
    second = Problem(sign, (first.result, number))
    step = f"{second.expression}={second.result}"
    thought = f"{second.expression}\n{second.thought}"
    turns = [user(question), assistant(answer), user(rng.choice(FOLLOW_UPS[language][sign]).format(number))]
    return Sample("follow-up", turns, thought, step, expected=str(second.result), language=language)


# ---- language ------------------------------------------------------------------------------------------------------


def course_question(
    rng: random.Random, entry: int | None = None, question: int | None = None, language: str | None = None
) -> Sample:
    """One of the course's questions, answered in one of its wordings."""
    language = language or rng.choice(["zh", "en"])
    entry = texts()["course"][rng.randrange(len(texts()["course"])) if entry is None else entry]
    asked = entry[language][rng.randrange(len(entry[language])) if question is None else question]
    thought, answer = rng.choice(texts()["thoughts"][language]), rng.choice(entry[f"{language}_answers"])
    return Sample("course", [user(asked)], thought, answer, words=tuple(entry[f"{language}_words"]), language=language)


def capital(rng: random.Random, pair: int | None = None, language: str | None = None) -> Sample:
    """Recall: the capital of a country. Thinking has nothing to compute here."""
    language = language or rng.choice(["zh", "en"])
    capitals = texts()["capitals"]
    pair = rng.choice(capitals["pairs"]) if pair is None else capitals["pairs"][pair]
    country, city = pair[:2] if language == "zh" else pair[2:]
    question = rng.choice(capitals[f"ask_{language}"]).format(country)
    answer = capitals[f"answer_{language}"].format(country, city)
    thought = rng.choice(texts()["thoughts"][f"recall_{language}"])
    return Sample("recall", [user(question)], thought, answer, words=(city,), language=language)


def story(rng: random.Random, language: str | None = None) -> Sample:
    """A story of two sentences: at each slot every option is equally likely, so sampling has something to choose."""
    language = language or rng.choice(["zh", "en"])
    stories = texts()["stories"]
    answer = "".join(rng.choice(options) for options in stories[language])
    thought = rng.choice(texts()["thoughts"][f"story_{language}"])
    return Sample("story", [user(rng.choice(stories[f"ask_{language}"]))], thought, answer, language=language)


def strange_topic(rng: random.Random, language: str) -> str:
    """A topic that the course says nothing of: a known word, an invented word, or random characters."""
    known = rng.choice(texts()["strange"][f"topics_{language}"])
    if rng.random() < 0.4:
        return known
    if language == "zh":
        return "".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(rng.randint(1, 4)))
    syllables = [
        "".join((rng.choice("bcdfghjklmnprstvwz"), rng.choice("aeiou"), rng.choice(["", "n", "r", "s", "l", "t"])))
        for _ in range(rng.randint(2, 4))
    ]
    word = "".join(syllables)
    return rng.choice([word, word.capitalize(), f"the {word}", f"{word} {known}"])


STORY_REQUESTS = {
    "zh": ["讲讲{}的来历。", "我想听{}的传说。", "给我讲讲{}的故事好吗？", "{}有什么故事？"],
    "en": ["Tell me the history of {}.", "I want to hear a legend about {}.", "Tell me a story about {}."],
}


def honest(rng: random.Random, refinement: bool = False, language: str | None = None) -> Sample:
    """A question outside the course: the honest answer is that this small model does not know.

    ``refinement`` adds requests that sound like those for a story but name a topic.
    """
    language = language or rng.choice(["zh", "en"])
    strange, answers = texts()["strange"], texts()["honest"]
    templates = STORY_REQUESTS if refinement and rng.random() < 0.4 else strange
    question = rng.choice(templates[language]).format(strange_topic(rng, language))
    if rng.random() < 0.3:  # a jumble of words, so that unknown wording is refused too
        words = [strange_topic(rng, language) for _ in range(rng.randint(2, 4))]
        question = ("" if language == "zh" else " ").join(words) + rng.choice(
            ["？", "。"] if language == "zh" else ["?", "."]
        )
    thought = rng.choice(answers[f"{language}_thoughts"])
    return Sample(
        "honest",
        [user(question)],
        thought,
        rng.choice(answers[language]),
        words=tuple(answers[f"{language}_words"]),
        language=language,
    )


# ---- tools, system prompts, switches -----------------------------------------------------------------------------


def announced_tools(rng: random.Random) -> list[dict]:
    """The calculator, described in one of several ways, among none to two tools that do not matter."""
    description = rng.choice(
        ["Computes an arithmetic expression.", "Computes an expression.", "计算一个算式。", "A calculator for + - *."]
    )
    hint = rng.choice(["", "for example 37*46", "算式，例如 3+4"])
    others = [
        tool("get_weather", "Tells the weather of a city.", city=rng.choice(["", "name of the city"])),
        tool("search", "在网上搜索。", query="", language="zh or en"),
        tool("get_time", "Tells the time.", zone=""),
    ]
    chosen = [tool("calculator", description, expression=hint), *rng.sample(others, rng.choice([0, 0, 0, 0, 1, 2]))]
    rng.shuffle(chosen)
    return chosen


def tool_call(rng: random.Random, test: bool = False) -> Sample:
    """The calculator is announced: the answer is a call of it, with the expression copied, for numbers of any size."""
    while True:
        operation, digits = rng.choice("×+-"), [rng.randint(1, 4), rng.randint(1, 4)]
        problem = Problem(operation, tuple(rng.randint(10 ** (n - 1), 10**n - 1) for n in digits))
        if held_out(*problem.operands) == test:
            break
    form = rng.choice(["formula", "zh", "en"])
    question, answer = ask(problem, form, rng)
    expression = problem.expression.replace("×", "*")
    call = json.dumps({"name": "calculator", "arguments": {"expression": expression}})
    return Sample(
        "tool call",
        [user(question)],
        {"zh": f"用计算器算 {expression}。"}.get(form, f"Use the calculator: {expression}."),
        f"<tool_call>\n{call}\n</tool_call>",
        tools=announced_tools(rng),
        expected=expression,
        language=form if form != "formula" else "en",
    )


def tool_answer(rng: random.Random, test: bool = False) -> Sample:
    """The turn after a tool's response: the result, taken from the response."""
    sample = tool_call(rng, test)
    expression = sample.expected
    operator = next(sign for sign in "*+-" if sign in expression)
    a, b = map(int, expression.split(operator))
    result = str({"*": a * b, "+": a + b, "-": a - b}[operator])
    call = {"function": {"name": "calculator", "arguments": {"expression": expression}}}
    turns = [
        *sample.messages,
        {"role": "assistant", "content": "", "reasoning_content": sample.thought, "tool_calls": [call]},
        {"role": "tool", "content": result},
    ]
    if rng.random() < 0.3:  # clients that do not send the thought back
        del turns[1]["reasoning_content"]
    shown = expression.replace("*", "×")
    return Sample(
        "tool answer",
        turns,
        f"{shown}={result}",
        f"{shown}={result}",
        tools=sample.tools,
        expected=result,
        language=sample.language,
    )


def system_prompt(rng: random.Random, sentences: int) -> str:
    """A system prompt of so many sentences, some with unknown words, for practice in ignoring what does not matter."""
    language = rng.choice(["zh", "en"])
    pool = list(texts()["system"][language])
    pool += [rng.choice(entry[f"{language}_answers"]) for entry in rng.sample(texts()["course"], 4)]
    pool += [rng.choice(texts()["strange"][language]).format(strange_topic(rng, language)) for _ in range(4)]
    return ("" if language == "zh" else " ").join(rng.choice(pool) for _ in range(sentences))


MIX = {
    "product": 26, "short": 4, "sum": 8, "difference": 7, "chain": 16, "factorial": 3, "follow-up": 6, "course": 11,
    "recall": 5, "story": 3, "honest": 7, "tool call": 3, "tool answer": 3,
}  # fmt: skip
SPECIAL = {
    "follow-up": follow_up, "course": course_question, "recall": capital, "story": story,
    "tool call": tool_call, "tool answer": tool_answer,
}  # fmt: skip


def draw(rng: random.Random, long_prompts: bool = False, refinement: bool = False) -> Sample:
    """One training sample from the mix, now and then under a system prompt or after turns that do not matter.

    With ``long_prompts`` system prompts are more frequent and reach about 500 tokens. ``refinement`` doubles the honest
    refusals and makes them harder.
    """
    mix = MIX | {"honest": 2 * MIX["honest"]} if refinement else MIX
    task = rng.choices(list(mix), list(mix.values()))[0]
    if task == "honest":
        sample = honest(rng, refinement)
    else:
        sample = SPECIAL[task](rng) if task in SPECIAL else arithmetic(task, rng)
    if task not in ("follow-up", "tool answer") and rng.random() < 0.06:  # earlier turns that do not matter
        other = arithmetic("short", rng) if rng.random() < 0.5 else course_question(rng)
        sample.messages = [*other.messages, assistant(other.answer), *sample.messages]
    share, sentences = (0.08, 45) if long_prompts else (0.04, 26)
    if rng.random() < share:
        sample.messages.insert(0, {"role": "system", "content": system_prompt(rng, rng.randint(1, sentences))})
    if task in ("course", "recall", "honest") and rng.random() < 0.05:  # tools are no use here
        sample.tools = announced_tools(rng)
    return sample
