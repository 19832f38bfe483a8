"""What the lessons share: plumbing, drawing, and the reference model they build up.

Importing this package is cheap: torch, transformers, vllm and modelscope are imported by the functions that use them.
"""

from pathlib import Path

from helpers.language import say

ROOT = Path(__file__).resolve().parent.parent  # of the course
GIB = 2**30


class CourseError(Exception):
    """Something a learner can put right: ``zh`` and ``en`` hold one sentence each that names the remedy.

    Its text is in the page's language. In a notebook only that is shown, without the traceback.
    """

    def __init__(self, zh: str, en: str):
        super().__init__(zh, en)
        self.zh, self.en = zh, en

    def __str__(self) -> str:
        return say(self.zh, self.en)

    def _render_traceback_(self) -> list[str]:  # IPython calls this in place of its own formatter
        return str(self).splitlines()
