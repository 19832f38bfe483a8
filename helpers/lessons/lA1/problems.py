"""Samples that compute: an arithmetic problem put in words, and a question that needs the previous answer.

Also :data:`PAIRS`, all products of two digits each, and the :func:`kinds` of them.
"""

import random
from functools import cache
from itertools import product

from helpers.lessons.arithmetic import Problem, draw_problem, held_out
from helpers.lessons.lA1.samples import Sample, assistant, user

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


def arithmetic(kind: str, rng: random.Random, test: bool = False, form: str | None = None) -> Sample:
    """One arithmetic question in a random or given form."""
    problem = draw_problem(kind, rng, test)
    form = form or rng.choice(["formula", "formula", "zh", "en"])
    question, answer = ask(problem, form, rng)
    language = form if form != "formula" else "zh"
    return Sample(kind, [user(question)], problem.thought, answer, expected=str(problem.result), language=language)


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


PAIRS = [(a, b) for a in range(10, 100) for b in range(a, 100)]


@cache
def kinds() -> dict[tuple, list[tuple[int, int]]]:
    """The pairs of a kind, by what they have in common: a number, or a remainder."""
    found: dict[tuple, list[tuple[int, int]]] = {("number", n): [p for p in PAIRS if n in p] for n in range(10, 100)}
    for (a, b), modulus in product(PAIRS, range(2, 11)):
        for name, value in (("a+b", a + b), ("a×b", a * b), ("a-b", b - a)):
            found.setdefault((name, modulus, value % modulus), []).append((a, b))
    return found
