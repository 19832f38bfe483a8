"""Samples with a calculator that can be called: the call of it, and the answer after its response."""

import json
import random

from helpers.lessons.arithmetic import Problem, held_out
from helpers.lessons.lA1.problems import ask
from helpers.lessons.lA1.samples import Sample, user


def tool(name: str, description: str, **parameters: str) -> dict:
    """A function in the form of the OpenAI API; ``parameters`` maps each name to its description, "" for none."""
    properties = {key: {"type": "string"} | ({"description": text} if text else {}) for key, text in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


CALCULATOR = tool("calculator", "Computes an arithmetic expression.", expression="for example 37*46")


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
    return _call_of(rng, test)[1]


def _call_of(rng: random.Random, test: bool) -> tuple[str, Sample]:
    """An expression, and the sample whose answer is a call with it."""
    while True:
        operation, digits = rng.choice("×+-"), [rng.randint(1, 4), rng.randint(1, 4)]
        problem = Problem(operation, tuple(rng.randint(10 ** (n - 1), 10**n - 1) for n in digits))
        if held_out(*problem.operands) == test:
            break
    form = rng.choice(["formula", "zh", "en"])
    question, answer = ask(problem, form, rng)
    expression = problem.expression.replace("×", "*")
    call = json.dumps({"name": "calculator", "arguments": {"expression": expression}})
    return expression, Sample(
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
    expression, sample = _call_of(rng, test)
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
