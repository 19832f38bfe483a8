"""The mix of samples that the tiny models are trained on."""

import random
from collections.abc import Callable

from helpers.lessons.lA1.problems import arithmetic, follow_up
from helpers.lessons.lA1.samples import Sample, assistant
from helpers.lessons.lA1.sentences import capital, course_question, honest, story, strange_topic
from helpers.lessons.lA1.tool_calls import announced_tools, tool_answer, tool_call
from helpers.lessons.texts import texts

MIX = {
    "product": 26, "short": 4, "sum": 8, "difference": 7, "chain": 16, "factorial": 3, "follow-up": 6, "course": 11,
    "recall": 5, "story": 3, "honest": 7, "tool call": 3, "tool answer": 3,
}  # fmt: skip
SPECIAL: dict[str, Callable[[random.Random], Sample]] = {
    "follow-up": follow_up, "course": course_question, "recall": capital, "story": story,
    "tool call": tool_call, "tool answer": tool_answer,
}  # fmt: skip


def system_prompt(rng: random.Random, sentences: int) -> str:
    """A system prompt of so many sentences, some with unknown words, for practice in ignoring what does not matter."""
    language = rng.choice(["zh", "en"])
    pool = list(texts()["system"][language])
    pool += [rng.choice(entry[f"{language}_answers"]) for entry in rng.sample(texts()["course"], 4)]
    pool += [rng.choice(texts()["strange"][language]).format(strange_topic(rng, language)) for _ in range(4)]
    return ("" if language == "zh" else " ").join(rng.choice(pool) for _ in range(sentences))


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
