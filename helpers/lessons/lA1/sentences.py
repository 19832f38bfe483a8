"""Samples whose words stand in ``texts.toml``: the course's questions, capitals, stories, and "I do not know"."""

import random

from helpers.lessons.lA1.samples import Sample, user
from helpers.lessons.texts import texts


def course_question(
    rng: random.Random, entry: int | None = None, question: int | None = None, language: str | None = None
) -> Sample:
    """One of the course's questions, answered in one of its wordings."""
    language = language or rng.choice(["zh", "en"])
    entries = texts()["course"]
    chosen = entries[rng.randrange(len(entries)) if entry is None else entry]
    wordings = chosen[language]
    asked = wordings[rng.randrange(len(wordings)) if question is None else question]
    thought, answer = rng.choice(texts()["thoughts"][language]), rng.choice(chosen[f"{language}_answers"])
    return Sample("course", [user(asked)], thought, answer, words=tuple(chosen[f"{language}_words"]), language=language)


def capital(rng: random.Random, pair: int | None = None, language: str | None = None) -> Sample:
    """Recall: the capital of a country. Thinking has nothing to compute here."""
    language = language or rng.choice(["zh", "en"])
    capitals = texts()["capitals"]
    names = rng.choice(capitals["pairs"]) if pair is None else capitals["pairs"][pair]
    country, city = names[:2] if language == "zh" else names[2:]
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
