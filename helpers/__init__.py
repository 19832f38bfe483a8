"""What the lessons share: plumbing, drawing, and the reference model they build up.

Importing this package is cheap: torch, transformers, vllm and modelscope are imported by the functions that use them.
"""


class CourseError(Exception):
    """Something a learner can put right, said in one Chinese and one English sentence that name the remedy.

    In a notebook only the two sentences are shown, without the traceback.
    """

    def __init__(self, zh: str, en: str):
        super().__init__(f"{zh}\n{en}")

    def _render_traceback_(self) -> list[str]:  # IPython calls this in place of its own formatter
        return str(self).splitlines()
