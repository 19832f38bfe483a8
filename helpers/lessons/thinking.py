"""What the lessons on thinking ask of a model."""

from pathlib import Path

from helpers import CourseError
from helpers.checkpoint import Checkpoint


def require_thinking(folder: str | Path) -> str:
    """How the checkpoint thinks, "switch" or "always". Raises CourseError, before any engine starts, for one that
    never does."""
    thinking = Checkpoint(folder).capabilities.thinking
    if thinking == "never":
        name = Path(folder).name
        raise CourseError(
            f"{name} 的对话模板里没有思考，这一课量的就是思考：换一个会思考的模型，例如 COURSE_MODEL=qwen3-tiny。",
            f"{name} never thinks, by its chat template, and thinking is what this lesson measures: "
            "choose a model that does, such as COURSE_MODEL=qwen3-tiny.",
        )
    return thinking
