"""The rehearsal hub with faults, a small model to serve, and the real client with its waiting times cut short."""

import json
import os
import random
import time
from pathlib import Path

SHORT = {"MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0", "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1"}
_before = {name: os.environ.get(name) for name in SHORT}
os.environ.update(SHORT)
import modelscope_hub.compat.snapshot_download  # noqa: E402, F401  reads these variables at its import, once
from modelscope_hub import _download  # noqa: E402

from helpers import hub  # noqa: E402

hub.set_environment(_before)
_download.DOWNLOAD_INTEGRITY_RETRY_BACKOFF = 0.01  # no variable sets this one; else 1 + 2 s a wrong file

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SHARD_BYTES = 1_000_000


class FaultyHandler(hub.Handler):
    """Does what the hub's ``faults`` say, see :class:`FaultyHub`."""

    def do_GET(self):
        if self.hub.faults.get("status"):
            return self.send_json(self.hub.faults["status"], hub.NOT_FOUND)
        return super().do_GET()

    def listing(self, files, root):
        changed = {path: entry | self.hub.faults.get("list", {}).get(path, {}) for path, entry in files.items()}
        return super().listing(changed, root)

    def send_file(self, path, file, size):
        if self.hub.faults.get("ignore_range"):
            del self.headers["Range"]
        super().send_file(path, file, size)

    def send_body(self, path, file, start, length):
        faults = self.hub.faults
        if path in faults.get("pause", {}):  # after half of the body, until the event is set
            half = length // 2
            super().send_body(path, file, start, half)
            faults["pause"][path].wait(60)
            super().send_body(path, file, start + half, length - half)
        elif faults.get("drop", {}).get(path):  # a list: the next connection ends after this many bytes
            super().send_body(path, file, start, min(faults["drop"][path].pop(0), length))
            self.close_connection = True
        elif path in faults.get("flip", ()):
            body = bytearray(file.read_bytes()[start : start + length])
            body[-1] ^= 1
            self.wfile.write(body)
        else:
            if "slow" in faults:
                time.sleep(faults["slow"])
            super().send_body(path, file, start, length)


class FaultyHub(hub.Hub):
    """A hub whose ``faults`` may be changed at any time.

    status: answer everything with it. list: path -> fields to change in the listing. pause: path -> event to wait for
    in the middle of the body. drop: path -> numbers of bytes after which the next connections break. flip: paths whose
    last byte is wrong. ignore_range: send whole files always. slow: seconds to wait before each file.
    """

    handler = FaultyHandler

    def __init__(self, models, cache=None):
        super().__init__(models, cache)
        self.faults = {}


def write_model(folder: Path) -> Path:
    """A checkpoint with two shards of 1 MB, real in every file's format, with random weights."""
    folder.mkdir(parents=True)
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 64,
        "max_position_embeddings": 128,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("A model for tests.\n")
    for number, shard in enumerate(SHARDS):
        write_shard(folder / shard, {f"layer.{number}": SHARD_BYTES}, seed=number)
    weight_map = {f"layer.{number}": shard for number, shard in enumerate(SHARDS)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def write_shard(file: Path, tensors: dict[str, int], seed: int = 0) -> None:
    """A safetensors file of uint8 tensors: name -> bytes."""
    header, end = {}, 0
    for name, size in tensors.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + random.Random(seed).randbytes(end))
