"""What a training sample is: a chat up to the assistant's last turn, and that turn as thought and answer.

Every text is made by a rule or stands in helpers/lessons/texts.toml; nothing is downloaded.
"""

from dataclasses import dataclass, field


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


def user(content: str) -> dict:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict:
    return {"role": "assistant", "content": content}
