"""The files and folders on which lesson 02 tries a solution."""

import json
import tempfile
from pathlib import Path

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
NAMES = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
WEIGHT_MAP = {f"layer.{number}.{part}": NAMES[-number % 4] for number in range(8) for part in ("up", "down")}
TENSORS = {"a": ("BF16", [6, 4], 48), "b": ("F32", [1], 4), "c": ("F32", [], 4), "d": ("F32", [4], 16)}
ORDER = "bdca"  # of the header, another one than that of the bytes, as allowed


def safetensors(extra: int = 0) -> bytes:
    """A file of four tensors, 30 parameters, with this many bytes too many at its end, or too few."""
    entries, end = {}, 0
    for name, (dtype, shape, size) in TENSORS.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = {name: entries[name] for name in ORDER} | {"__metadata__": {"format": "pt"}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end + extra)


WHOLE = safetensors()


def on_file(solution, content):
    """What a solution says of a file: its bytes, or the path of one that is there."""
    if isinstance(content, Path):
        return solution(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, SINGLE)
        path.write_bytes(content)
        return solution(path)


def in_folder(solution, *files):
    """What a solution says of a folder with these files."""
    with tempfile.TemporaryDirectory() as folder:
        for name in files:
            content = json.dumps({"metadata": {"total_size": 1}, "weight_map": WEIGHT_MAP}) if name == INDEX else "x"
            Path(folder, name).write_text(content)
        answer = solution(Path(folder))
    return set(answer) if isinstance(answer, tuple) else answer  # neither is a list
