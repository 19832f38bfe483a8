"""What no file that is committed may hold: where on whose machine it was made."""

import re
from pathlib import Path


def without_paths(text: str, root: Path) -> str:
    """The text with the repository's folder and the home folder under short names."""
    for folder, short in ((root.resolve(), "qwen3-in-notebooks"), (Path.home(), "~")):
        text = re.sub(rf"(?<![\w./~-]){re.escape(str(folder))}(?![\w-])", short, text)
    return text
