"""Which experts each token took: the trace of a text, its file, and what can be counted in it.

    trace = capture_reference(model, tokenizer, "3 + 4 = ", max_new_tokens=8)  # the room of A2 has all four
    trace.save("trace.npz")
    expert_load(trace)                                                         # (layers, num_experts)

A trace covers every token that the model read. The last token that it writes is never fed back, so no router saw it.

`python -m helpers.routing MODEL` records one conversation with a model: `assets/traces/` holds that of the bundled one.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from helpers import CourseError, moved
from helpers.files import parse_json, replacing
from helpers.tokens import utf8_state

FILE_VERSION = 1
ARRAYS = (
    "version", "token_ids", "piece_bytes", "piece_lengths", "prompt_length", "layers", "expert_ids", "num_experts",
    "provenance", "weights", "entropy",
)  # fmt: skip
MOST_BYTES = 2**30  # in all arrays of a file: a long text through Qwen3-235B-A22B takes a tenth of it
TOO_LARGE = "its arrays are too large"
MOST_EXPERTS = MOST_LAYERS = 10_000  # Qwen3-235B-A22B has 128 in each of 94 layers


# The captures and the statistics have rooms of their own; these are the names that people copy.
ROOM = "helpers.lessons.lA2"
__getattr__ = moved.to(
    "helpers.tokens", "helpers.capture", "helpers.experts", ROOM, f"{ROOM}.vllm_routing", "helpers.lessons.l04.record"
)


# ---------------------------------------------------------------------------------------------- the trace


@dataclass(frozen=True, eq=False)
class RoutingTrace:
    """The routing of one text through all sparse layers of a model. Raises CourseError if its parts do not fit.

    Expert 3 of one layer has nothing to do with expert 3 of another one. ``weights`` are those that the block used:
    they add up to 1 if the model renormalises them (``norm_topk_prob``). Engines that report ids alone leave
    ``weights`` and ``entropy`` None.
    """

    token_ids: np.ndarray  # (tokens,)
    pieces: tuple[bytes, ...]  # UTF-8 of every token; a character may be spread over several
    prompt_length: int  # the first tokens, which the model was given; it wrote the others
    layers: tuple[int, ...]  # index in the model of every layer that has experts
    expert_ids: np.ndarray  # (layers, tokens, top_k), the heaviest first
    weights: np.ndarray | None  # (layers, tokens, top_k), float16
    entropy: np.ndarray | None  # (layers, tokens), float16: of the softmax over all experts, in nats
    num_experts: int
    provenance: dict[str, str] = field(default_factory=dict)  # model, captured_with, dtype, trained, date

    def __post_init__(self):
        if fault := self._fault():
            raise CourseError(
                f"路由轨迹的内容不合理（{fault[0]}）：请重新采集。",
                f"The routing trace makes no sense ({fault[1]}): capture it again.",
            )

    def _fault(self) -> tuple[str, str] | None:
        ids, layers, tokens = self.expert_ids, len(self.layers), len(self.token_ids)
        if not 0 < self.num_experts <= MOST_EXPERTS:
            return f"有 {self.num_experts} 个专家", f"it has {self.num_experts} experts"
        if not all(isinstance(layer, int | np.integer) and 0 <= layer < MOST_LAYERS for layer in self.layers):
            return "层的编号不对", "a layer's number is wrong"
        kinds = self.token_ids.dtype.kind + ids.dtype.kind
        floats = [values for values in (self.weights, self.entropy) if values is not None]
        if not set(kinds) <= set("iu") or any(values.dtype.kind != "f" for values in floats):
            return "数据类型不对", "wrong kinds of numbers"
        shapes = [self.token_ids.shape == (tokens,), ids.ndim == 3 and ids.shape[:2] == (layers, tokens) and ids.size]
        shapes.append(len(self.pieces) == tokens and 0 <= self.prompt_length <= tokens)
        shapes.append(self.weights is None or self.weights.shape == ids.shape)
        shapes.append(self.entropy is None or self.entropy.shape == (layers, tokens))
        if not all(shapes):
            return "各部分的长度不一致", "its parts differ in length"
        if ids.min() < 0 or ids.max() >= self.num_experts or self.token_ids.min() < 0:
            return f"有编号不在 0 到 {self.num_experts - 1} 之间", f"an id is not within 0 and {self.num_experts - 1}"
        if (np.diff(np.sort(ids.astype(int))) == 0).any():
            return "同一个词元两次选了同一个专家", "a token took the same expert twice"
        if any(not (np.isfinite(values).all() and (values >= 0).all()) for values in floats):
            return "有数值是负数或不是数", "a number is negative or not a number"
        if self.weights is not None and self.weights.sum(-1, dtype=float).max() > 1.01:
            return "路由权重之和大于 1", "the weights of a token add up to more than 1"
        return None

    @property
    def top_k(self) -> int:
        return self.expert_ids.shape[-1]

    @property
    def texts(self) -> list[str]:
        """Text of every token, with U+FFFD for the bytes of a character that the token holds only a part of."""
        return [piece.decode("utf-8", "replace") for piece in self.pieces]

    @property
    def characters(self) -> list[tuple[int, int]]:
        """Tokens from ``start`` up to ``stop`` that only together are whole characters; mostly one token each."""
        spans, start, held = [], 0, b""
        for index, piece in enumerate(self.pieces):
            state = utf8_state(held + piece)
            if state == "broken":  # what waited for the rest of its character waited in vain
                spans += [(alone, alone + 1) for alone in range(start, index)]
                start, held, state = index, b"", utf8_state(piece)
            held += piece
            if state != "unfinished":
                spans.append((start, index + 1))
                start, held = index + 1, b""
        return spans + [(alone, alone + 1) for alone in range(start, len(self.pieces))]

    @property
    def renormalised(self) -> bool | None:
        """Whether the weights of a token add up to 1, or None where they were not recorded."""
        if self.weights is None:
            return None
        return bool(np.abs(self.weights.sum(-1, dtype=float) - 1).max() < 0.01)

    def save(self, path: str | Path) -> None:
        """Write the trace as a compressed ``.npz`` of numbers; a file of that name is replaced once all is written."""
        arrays = {
            "version": np.array(FILE_VERSION),
            "token_ids": self.token_ids,
            "piece_bytes": np.frombuffer(b"".join(self.pieces), np.uint8),
            "piece_lengths": np.array([len(piece) for piece in self.pieces]),
            "prompt_length": np.array(self.prompt_length),
            "layers": np.array(self.layers),
            "expert_ids": self.expert_ids,
            "num_experts": np.array(self.num_experts),
            "provenance": np.frombuffer(json.dumps(self.provenance).encode(), np.uint8),
        }
        optional = {"weights": self.weights, "entropy": self.entropy}
        arrays |= {name: values for name, values in optional.items() if values is not None}
        with replacing(path) as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "RoutingTrace":
        """Read a trace. Raises CourseError if the file is missing, damaged, of another version or makes no sense."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = _read_arrays(file)
            version = int(arrays["version"].item())
            if version == FILE_VERSION:
                return cls._from_arrays(arrays)
        except FileNotFoundError:
            raise CourseError(
                f"没有路由轨迹 {path}：请检查文件名。", f"There is no trace {path}: check its name."
            ) from None
        except CourseError as error:
            raise CourseError(f"{path}: {error.zh}", f"{path}: {error.en}") from None
        except Exception as error:  # a damaged archive makes zipfile, zlib and numpy raise a dozen different kinds
            raise CourseError(
                f"{path} 不是完整的路由轨迹（{_reason(error)}）：请重新采集或重新下载。",
                f"{path} is no complete routing trace ({_reason(error)}): capture or download it again.",
            ) from None
        raise CourseError(
            f"{path} 是第 {version} 版的路由轨迹，这里读第 {FILE_VERSION} 版：请重新采集。",
            f"{path} is a trace of version {version}, and this reads version {FILE_VERSION}: capture it again.",
        )

    @classmethod
    def _from_arrays(cls, arrays):
        lengths, piece_bytes = arrays["piece_lengths"], arrays["piece_bytes"].tobytes()
        if lengths.min(initial=0) < 0 or lengths.sum() != len(piece_bytes):
            raise ValueError("lengths of the pieces")
        ends = lengths.cumsum().tolist()
        provenance = parse_json(arrays["provenance"].tobytes())
        return cls(
            token_ids=arrays["token_ids"],
            pieces=tuple(piece_bytes[end - length : end] for length, end in zip(lengths.tolist(), ends, strict=True)),
            prompt_length=int(arrays["prompt_length"].item()),
            layers=tuple(arrays["layers"].tolist()),
            expert_ids=arrays["expert_ids"],
            weights=arrays.get("weights"),
            entropy=arrays.get("entropy"),
            num_experts=int(arrays["num_experts"].item()),
            provenance={str(key): str(value) for key, value in provenance.items()},
        )


def _reason(error: Exception) -> str:
    return str(error) if str(error) == TOO_LARGE else type(error).__name__


def _read_arrays(file) -> dict[str, np.ndarray]:
    """The arrays of a trace in a ``.npz`` file; what else lies in it is not read. ValueError if they are too large."""
    names = [name for name in ARRAYS if name in file.files]
    if sum(file.zip.getinfo(f"{name}.npy").file_size for name in names) > MOST_BYTES:
        raise ValueError(TOO_LARGE)
    return {name: file[name] for name in names}


# ---------------------------------------------------------------------------------------------- what it shows


def expert_load(trace: RoutingTrace) -> np.ndarray:
    """How many tokens each expert got, (layers, num_experts). Perfect balance: tokens * top_k / num_experts."""
    ids = trace.expert_ids.reshape(len(trace.layers), -1)
    return np.stack([np.bincount(layer, minlength=trace.num_experts) for layer in ids])


def gini(load: np.ndarray) -> np.ndarray:
    """Gini coefficient over the last axis: 0 if all experts get the same, (n - 1) / n if one gets everything."""
    ordered, n = np.sort(load, axis=-1), load.shape[-1]
    ranks = 2 * np.arange(1, n + 1) - n - 1
    return (ordered * ranks).sum(-1) / (n * ordered.sum(-1))


if __name__ == "__main__":
    raise SystemExit(__getattr__("main")())  # of helpers/lessons/l04/record.py
