"""Which experts each token took: captured from three engines, kept in a small file, and described with numbers.

    trace = capture_reference(model, tokenizer, "3 + 4 = ", max_new_tokens=8)  # or capture_transformers, capture_vllm
    trace.save("trace.npz")
    expert_load(trace)                                                         # (layers, num_experts)

A trace covers every token that the model read. The last token that it writes is never fed back, so no router saw it.

`python -m helpers.routing MODEL` records one conversation with a model: `assets/traces/` holds that of the bundled one.
"""

import argparse
import contextlib
import json
import os
import sys
import unicodedata
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers import CourseError, models
from helpers.language import say

FILE_VERSION = 1
TOKEN_CLASSES = ("digit", "operator", "CJK", "Latin", "special", "space", "other")


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
        if ids.min() < 0 or ids.max() >= self.num_experts or self.token_ids.min() < 0 or min(self.layers) < 0:
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
            state = _utf8_state(held + piece)
            if state == "broken":  # what waited for the rest of its character waited in vain
                spans += [(alone, alone + 1) for alone in range(start, index)]
                start, held, state = index, b"", _utf8_state(piece)
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
        temporary = Path(f"{path}.part")
        try:
            with temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "RoutingTrace":
        """Read a trace. Raises CourseError if the file is missing, damaged, of another version or makes no sense."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            version = int(arrays["version"])
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
                f"{path} 不是完整的路由轨迹（{type(error).__name__}）：请重新采集或重新下载。",
                f"{path} is no complete routing trace ({type(error).__name__}): capture or download it again.",
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
        provenance = json.loads(arrays["provenance"].tobytes())
        return cls(
            token_ids=arrays["token_ids"],
            pieces=tuple(piece_bytes[end - length : end] for length, end in zip(lengths.tolist(), ends, strict=True)),
            prompt_length=int(arrays["prompt_length"]),
            layers=tuple(arrays["layers"].tolist()),
            expert_ids=arrays["expert_ids"],
            weights=arrays.get("weights"),
            entropy=arrays.get("entropy"),
            num_experts=int(arrays["num_experts"]),
            provenance={str(key): str(value) for key, value in provenance.items()},
        )


def _utf8_state(text: bytes) -> str:
    """``whole``, ``unfinished`` if it ends within a character that further bytes may complete, or ``broken``."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        return "unfinished" if error.reason == "unexpected end of data" else "broken"
    return "whole"


def shown(piece: bytes) -> str:
    """A token so that every bit of it can be seen: blanks as signs, code points that are invisible or turn their
    neighbours round as ``<U+200F>``, and bytes that are no character as ``<E4>``.
    """
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<{byte:02X}>" for byte in piece)
    text = text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
    hidden = ("Cc", "Cf", "Co", "Cn", "Zs", "Zl", "Zp")
    return "".join(f"<U+{ord(char):04X}>" if unicodedata.category(char) in hidden else char for char in text)


# ---------------------------------------------------------------------------------------------- capture


def capture_reference(model, tokenizer, prompt, max_new_tokens=0, trained=True) -> RoutingTrace:
    """Routing in a model of ``helpers/qwen.py``, of ``prompt`` and of the greedy answer to it.

    tokenizer: a transformers tokenizer. prompt: a string, in which a chat template is already applied, or token ids.
    max_new_tokens: 0 routes the prompt alone. trained: False marks weights that are random.
    """
    import torch

    routers = {layer: block.mlp.router for layer, block in enumerate(model.layers) if hasattr(block.mlp, "router")}
    _require_experts(routers)
    token_ids = _token_ids(tokenizer, prompt)
    input_ids = torch.tensor([token_ids], device=model.embed_tokens.weight.device)
    with torch.inference_mode(), recording(routers) as outputs:
        if max_new_tokens:
            input_ids = model.generate(input_ids, max_new_tokens=max_new_tokens)[:, :-1]
        else:
            model.last_hidden_states(input_ids)
    logits = {layer: torch.cat([logits for _, _, logits in steps]) for layer, steps in outputs.items()}
    config, dtype = model.config, model.embed_tokens.weight.dtype
    routed = {layer: _routed(rows, config.num_experts_per_tok, config.norm_topk_prob) for layer, rows in logits.items()}
    about = _provenance(tokenizer, f"helpers/qwen.py, torch {torch.__version__}", dtype, trained)
    return _trace(tokenizer, input_ids[0].tolist(), len(token_ids), routed, config.num_experts, about)


def capture_conversation(model, tokenizer, questions, max_new_tokens=256) -> RoutingTrace:
    """Routing of a whole conversation with a model of ``helpers/qwen.py``, which answers each question greedily.

    Thinking, where the chat template has a switch, is on for the last question alone, and all that was said before it
    counts as the prompt. CourseError without a question.
    """
    import torch

    if not questions:
        raise CourseError("没有问题：请至少问一个。", "The model was asked no question: give at least one.")
    messages = []
    for question in questions[:-1]:
        messages.append({"role": "user", "content": question})
        input_ids = torch.tensor([tokenizer.encode(_chat(tokenizer, messages, enable_thinking=False))])
        input_ids = input_ids.to(model.embed_tokens.weight.device)
        written = model.generate(input_ids, max_new_tokens=max_new_tokens)[0, input_ids.shape[1] :]
        answer = tokenizer.decode(written, skip_special_tokens=True).rpartition("</think>")[2].strip()
        messages.append({"role": "assistant", "content": answer})
    messages.append({"role": "user", "content": questions[-1]})
    return capture_reference(model, tokenizer, _chat(tokenizer, messages, enable_thinking=True), max_new_tokens)


def _chat(tokenizer, messages, enable_thinking):
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=enable_thinking
    )


def capture_transformers(model, tokenizer, prompt, max_new_tokens=0, trained=True) -> RoutingTrace:
    """Routing in a Qwen MoE model of transformers 4.57 or 5.x; the arguments are those of :func:`capture_reference`.

    The experts are chosen again from the router logits. RuntimeError if the block used others.
    """
    import torch
    import transformers

    blocks = {layer: block.mlp for layer, block in enumerate(model.model.layers) if hasattr(block.mlp, "gate")}
    _require_experts(blocks)
    token_ids = _token_ids(tokenizer, prompt)
    input_ids = torch.tensor([token_ids], device=model.device)
    gates = {layer: block.gate for layer, block in blocks.items()}
    # Until 5.0 the gate is a linear layer and every expert a module, called with the rows of the tokens that chose it.
    modules = {
        (layer, expert): module
        for layer, block in blocks.items()
        if isinstance(block.gate, torch.nn.Linear)
        for expert, module in enumerate(block.experts)
    }
    with torch.inference_mode(), recording(gates) as outputs, recording(modules) as expert_outputs:
        if max_new_tokens:
            greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
            mask = torch.ones_like(input_ids)
            input_ids = model.generate(input_ids, attention_mask=mask, max_new_tokens=max_new_tokens, **greedy)[:, :-1]
        else:
            model.model(input_ids, use_cache=False)
    config = model.config
    routed = {}
    for layer, steps in outputs.items():
        logits = torch.cat([step[0] if isinstance(step, tuple) else step for step in steps])  # (tokens, num_experts)
        if (logits >= 0).all() and (logits.sum(-1) - 1).abs().max() < 0.05:
            logits = logits.float().log()  # some releases of 5.x return probabilities under this name
        weights, ids, _ = routed[layer] = _routed(logits, config.num_experts_per_tok, config.norm_topk_prob)
        if isinstance(steps[0], tuple):
            used_weights, used_ids = (torch.cat([step[place] for step in steps]) for place in (1, 2))
            close = torch.allclose(weights.to(used_weights.dtype), used_weights, atol=1e-2)
            agrees = close and torch.equal(ids, used_ids)
        else:
            rows = [sum(len(out) for out in expert_outputs[layer, expert]) for expert in range(config.num_experts)]
            agrees = rows == ids.flatten().bincount(minlength=config.num_experts).tolist()
        if not agrees:
            raise RuntimeError(f"layer {layer}: the block of transformers {transformers.__version__} routes otherwise")
    about = _provenance(tokenizer, f"transformers {transformers.__version__}", model.dtype, trained)
    return _trace(tokenizer, input_ids[0].tolist(), len(token_ids), routed, config.num_experts, about)


def capture_vllm(llm, prompt, max_new_tokens=0) -> RoutingTrace:
    """Routing in vLLM on a CPU: hooks on the routers of an engine that runs inside this process.

    llm: ``open_engine(folder, enable_prefix_caching=False)``, since a cached prefix is not routed again. Raises
    CourseError for an engine on which the hooks would not see every token.
    """
    import vllm

    from helpers.engine import on_cpu

    settings = llm.llm_engine.vllm_config
    if settings.cache_config.enable_prefix_caching or not settings.model_config.enforce_eager:
        raise CourseError(
            "要看到每个词元的路由，引擎须以 enforce_eager=True、enable_prefix_caching=False 打开。",
            "To see the routing of every token, open the engine with enforce_eager=True, enable_prefix_caching=False.",
        )
    tokenizer, config = llm.get_tokenizer(), settings.model_config.hf_config
    token_ids = _token_ids(tokenizer, prompt)
    # vLLM writes at least one token; the last one is not fed back, so with 1 exactly the prompt is routed.
    sampling = vllm.SamplingParams(temperature=0, max_tokens=max(1, max_new_tokens))
    llm.apply_model(_hook_vllm)
    try:
        request = llm.generate({"prompt_token_ids": token_ids}, sampling, use_tqdm=False)[0]
    finally:
        logits = llm.apply_model(_unhook_vllm)[0]
    _require_experts(logits)
    routed = {layer: _routed(rows, config.num_experts_per_tok, config.norm_topk_prob) for layer, rows in logits.items()}
    written = list(request.outputs[0].token_ids)
    about = _provenance(
        tokenizer, f"vLLM {vllm.__version__} ({'CPU' if on_cpu() else 'GPU'})", settings.model_config.dtype, True
    )
    return _trace(tokenizer, token_ids + written[:-1], len(token_ids), routed, config.num_experts, about)


def capture_vllm_gpu(llm, prompt, max_new_tokens=0) -> RoutingTrace:
    """Routing in vLLM on a GPU, as the engine itself reports it: expert ids without weights. Not run here.

    llm: ``open_engine(folder, enable_return_routed_experts=True)``. Raises CourseError without that option. Source:
    ``CompletionOutput.routed_experts`` in vLLM 0.32, (tokens, all layers, top_k); dense layers are left out here.
    """
    import vllm

    tokenizer, config = llm.get_tokenizer(), llm.llm_engine.vllm_config.model_config.hf_config
    token_ids = _token_ids(tokenizer, prompt)
    sampling = vllm.SamplingParams(temperature=0, max_tokens=max(1, max_new_tokens))
    output = llm.generate({"prompt_token_ids": token_ids}, sampling, use_tqdm=False)[0].outputs[0]
    if getattr(output, "routed_experts", None) is None:
        raise CourseError(
            "引擎没有返回专家编号：请在 GPU 上用 enable_return_routed_experts=True 重新打开它。",
            "The engine returned no expert ids: open it on a GPU with enable_return_routed_experts=True.",
        )
    step, dense = config.decoder_sparse_step, config.mlp_only_layers
    layers = [i for i in range(config.num_hidden_layers) if (i + 1) % step == 0 and i not in dense]
    _require_experts(layers)
    dtype = llm.llm_engine.vllm_config.model_config.dtype
    about = _provenance(tokenizer, f"vLLM {vllm.__version__} (GPU)", dtype, True)
    ids = np.asarray(output.routed_experts)[:, layers].swapaxes(0, 1)  # (layers, tokens, top_k)
    tokens = token_ids + list(output.token_ids)[:-1]
    return RoutingTrace(
        np.array(tokens), pieces(tokenizer, tokens), len(token_ids), tuple(layers), ids, None, None,
        config.num_experts, about,
    )  # fmt: skip


def concatenate(traces) -> RoutingTrace:
    """One trace of several texts through one model, for statistics over all of them; every token counts as given."""
    first = traces[0]
    if any((t.layers, t.top_k, t.num_experts) != (first.layers, first.top_k, first.num_experts) for t in traces):
        raise CourseError(
            "这些轨迹的层、top-k 或专家数不同，没法合并：请用同一个模型采集。",
            "The traces differ in layers, top-k or experts and cannot be joined: capture them from one model.",
        )
    joined = {
        name: np.concatenate([getattr(trace, name) for trace in traces], axis=1)
        for name in ("expert_ids", "weights", "entropy")
        if all(getattr(trace, name) is not None for trace in traces)
    }
    return RoutingTrace(
        token_ids=np.concatenate([trace.token_ids for trace in traces]),
        pieces=sum((trace.pieces for trace in traces), ()),
        prompt_length=sum(len(trace.token_ids) for trace in traces),
        layers=first.layers,
        num_experts=first.num_experts,
        provenance=first.provenance,
        **{"weights": None, "entropy": None} | joined,
    )


@contextlib.contextmanager
def expert_off(model, layer: int, expert: int):
    """Take one expert of a model of ``helpers/qwen.py`` out of the router's choice while the block runs.

    The tokens that it would get go to the next best expert. CourseError if the model has no such expert.
    """
    from helpers.qwen import route

    config = model.config
    if not (0 <= layer < len(model.layers) and 0 <= expert < config.num_experts):
        raise CourseError(
            f"没有第 {layer} 层的专家 {expert}：层从 0 到 {len(model.layers) - 1}，"
            f"专家从 0 到 {config.num_experts - 1}。",
            f"There is no expert {expert} in layer {layer}: layers go from 0 to {len(model.layers) - 1}, "
            f"experts from 0 to {config.num_experts - 1}.",
        )
    router = getattr(model.layers[layer].mlp, "router", None)
    _require_experts(router)

    def without(module, inputs, output):
        router_logits = output[2].index_fill(-1, output[2].new_tensor([expert], dtype=int), float("-inf"))
        return *route(router_logits, config.num_experts_per_tok, config.norm_topk_prob), router_logits

    hook = router.register_forward_hook(without)
    try:
        yield
    finally:
        hook.remove()


def written_losses(model, traces) -> np.ndarray:
    """Cross-entropy in nats of a model of ``helpers/qwen.py`` on every token after the traces' prompts, (tokens,).

    The text itself is given: each token is predicted from the true ones before it.
    """
    import torch
    import torch.nn.functional as F

    values = []
    with torch.inference_mode():
        for trace in traces:
            ids = torch.tensor(trace.token_ids, dtype=torch.long, device=model.embed_tokens.weight.device)
            logits = model(ids[None])[0, trace.prompt_length - 1 : -1].float()  # (written tokens, vocab)
            values.append(F.cross_entropy(logits, ids[trace.prompt_length :], reduction="none").cpu())
    return torch.cat(values).numpy()


@contextlib.contextmanager
def recording(modules):
    """Outputs of every call of the modules, in lists under the same keys, while the block runs."""
    outputs = {key: [] for key in modules}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, key=key: outputs[key].append(output))
        for key, module in modules.items()
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _hook_vllm(model):
    # The names end in "layers.3.mlp.gate".
    gates = {int(n.split(".")[-3]): module for n, module in model.named_modules() if n.endswith(".mlp.gate")}
    model.routing = {layer: [] for layer in gates}
    model.routing_hooks = [
        gate.register_forward_hook(
            lambda gate, inputs, output, rows=model.routing[layer]: rows.append(output[0].clone())
        )
        for layer, gate in gates.items()
    ]


def _unhook_vllm(model):
    import torch

    for hook in model.routing_hooks:
        hook.remove()
    rows = {layer: torch.cat(steps) for layer, steps in model.routing.items() if steps}
    del model.routing, model.routing_hooks
    return rows


def _routed(router_logits, top_k, norm_topk_prob):
    """Weights and ids, (tokens, top_k), and the entropy of the softmax over all experts, (tokens,)."""
    import torch

    from helpers.qwen import route

    weights, ids = route(router_logits, top_k, norm_topk_prob)
    return weights, ids, torch.special.entr(router_logits.float().softmax(-1)).sum(-1)


def _trace(tokenizer, token_ids, prompt_length, routed, num_experts, provenance):
    weights, ids, entropy = (
        np.stack([np.asarray(layer.cpu()) for layer in kind]) for kind in zip(*routed.values(), strict=True)
    )
    return RoutingTrace(
        token_ids=np.array(token_ids, np.int32),
        pieces=pieces(tokenizer, token_ids),
        prompt_length=prompt_length,
        layers=tuple(routed),
        expert_ids=ids.astype(np.uint8 if num_experts <= 256 else np.uint16),
        weights=weights.astype(np.float16),
        entropy=entropy.clip(0).astype(np.float16),
        num_experts=num_experts,
        provenance=provenance,
    )


def _token_ids(tokenizer, prompt):
    token_ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
    if not token_ids:
        raise CourseError("提示词是空的：请至少写一个字。", "The prompt is empty: write at least one character.")
    return token_ids


def pieces(tokenizer, token_ids) -> tuple[bytes, ...]:
    """UTF-8 of every token. Byte-level BPE writes a byte as one printable character (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
    added = tokenizer.get_added_vocab()
    tokens = tokenizer.convert_ids_to_tokens(token_ids)
    # The output matrix may have rows for which there is no token: those have no text.
    return tuple(token.encode() if token in added else bytes(byte_of[char] for char in token or "") for token in tokens)


def _require_experts(layers):
    if not layers:
        raise CourseError(
            "这个模型没有专家：请换成混合专家模型，如自带的 qwen3-moe-tiny 或 Qwen3-30B-A3B。",
            "This model has no experts: take a mixture of experts, such as qwen3-moe-tiny or Qwen3-30B-A3B.",
        )


def _provenance(tokenizer, captured_with, dtype, trained):
    return {
        "model": Path(tokenizer.name_or_path).name,
        "captured_with": captured_with,
        "dtype": str(dtype).removeprefix("torch."),
        "weights": "trained" if trained else "random",
        "date": date.today().isoformat(),
    }


# ---------------------------------------------------------------------------------------------- statistics


class Agreement(NamedTuple):
    """Two traces of the same tokens compared."""

    same_sets: float  # share of (layer, token) at which both took the same experts
    weight_difference: float | None  # the largest |difference| there, or None where weights are missing


def expert_load(trace: RoutingTrace) -> np.ndarray:
    """How many tokens each expert got, (layers, num_experts). Perfect balance: tokens * top_k / num_experts."""
    ids = trace.expert_ids.reshape(len(trace.layers), -1)
    return np.stack([np.bincount(layer, minlength=trace.num_experts) for layer in ids])


def gini(load: np.ndarray) -> np.ndarray:
    """Gini coefficient over the last axis: 0 if all experts get the same, (n - 1) / n if one gets everything."""
    ordered, n = np.sort(load, axis=-1), load.shape[-1]
    ranks = 2 * np.arange(1, n + 1) - n - 1
    return (ordered * ranks).sum(-1) / (n * ordered.sum(-1))


def coefficient_of_variation(load: np.ndarray) -> np.ndarray:
    """Standard deviation over mean, over the last axis: 0 in perfect balance."""
    return load.std(-1) / load.mean(-1)


def never_used(load: np.ndarray) -> np.ndarray:
    """Share of the experts that got no token, over the last axis."""
    return (load == 0).mean(-1)


def co_activation(trace: RoutingTrace, layer: int) -> np.ndarray:
    """How many tokens took both experts i and j, (num_experts, num_experts); the diagonal is the load.

    ``layer`` counts the rows of the trace.
    """
    chosen = np.zeros((len(trace.token_ids), trace.num_experts), int)
    np.put_along_axis(chosen, trace.expert_ids[layer].astype(int), 1, axis=-1)
    return chosen.T @ chosen


def class_association(trace: RoutingTrace, untrained=(), permutations=200, seed=0):
    """How far the class of a token tells its heaviest expert, as normalised mutual information per layer.

    Returns a dict: ``trained`` (layers,); ``permuted`` (permutations, layers), with the classes dealt out anew to the
    distinct tokens, every occurrence of a token keeping one class, which is what chance gives on so few of them; and
    ``untrained`` (traces, layers) for traces of the same text through random weights: a router that knows nothing
    still sends equal tokens to equal experts. At most what exceeds both was learned.
    """
    classes = np.array([TOKEN_CLASSES.index(token_class(text)) for text in trace.texts])
    _, first, occurrence = np.unique(trace.token_ids, return_index=True, return_inverse=True)
    draw = np.random.default_rng(seed)
    shuffled = [draw.permutation(classes[first])[occurrence] for _ in range(permutations)]

    def per_layer(labels, routing):
        return np.array([normalized_mutual_information(labels, layer) for layer in routing.expert_ids[:, :, 0]])

    found = {"trained": per_layer(classes, trace), "permuted": np.array([per_layer(row, trace) for row in shuffled])}
    for other in untrained:
        _require_same_tokens(trace, other)
    if untrained:
        found["untrained"] = np.array([per_layer(classes, other) for other in untrained])
    return found


def agreement(a: RoutingTrace, b: RoutingTrace) -> Agreement:
    """Compare two traces of the same tokens through the same layers. CourseError if they are not."""
    _require_same_tokens(a, b)
    if a.layers != b.layers or a.top_k != b.top_k:
        raise CourseError(
            "两份轨迹的层或 top-k 不同，没法比较：请用同一个模型采集。",
            "The traces differ in layers or top-k and cannot be compared: capture both from one model.",
        )
    order_a, order_b = a.expert_ids.argsort(-1), b.expert_ids.argsort(-1)
    ids_a, ids_b = (np.take_along_axis(t.expert_ids, o, -1) for t, o in ((a, order_a), (b, order_b)))
    same = (ids_a == ids_b).all(-1)  # (layers, tokens)
    difference = None
    if a.weights is not None and b.weights is not None:
        apart = np.take_along_axis(a.weights, order_a, -1) - np.take_along_axis(b.weights, order_b, -1)
        difference = float(np.abs(apart[same]).max(initial=0))
    return Agreement(float(same.mean()), difference)


def _require_same_tokens(a, b):
    if not np.array_equal(a.token_ids, b.token_ids):
        raise CourseError(
            "两份轨迹的词元不同：请用同一段文字采集。", "The traces are of different tokens: capture the same text."
        )


def token_class(text: str) -> str:
    """Class of a token by its text: one of ``TOKEN_CLASSES``. A piece of a character (U+FFFD) counts as other."""
    bare = text.strip()
    if text.startswith("<") and text.endswith(">") and len(text) > 2:
        return "special"
    if not bare:
        return "space"
    if bare.isdigit():
        return "digit"
    if all(character in "+-*/=×÷!" for character in bare):
        return "operator"
    if all("CJK" in unicodedata.name(character, "") for character in bare):
        return "CJK"
    return "Latin" if bare.isascii() and bare.isalpha() else "other"


def normalized_mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Mutual information of two labelings of the same tokens over their mean entropy: 0 independent, 1 equal.

    ``a`` and ``b`` are integer arrays of shape (tokens,). Symmetric; the same as scikit-learn's default.
    """
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1.0)
    joint /= joint.sum()
    rows, columns = joint.sum(1), joint.sum(0)

    def entropy(p):
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())

    mutual = entropy(rows) + entropy(columns) - entropy(joint)
    mean = (entropy(rows) + entropy(columns)) / 2
    return mutual / mean if mean else 0.0


# ---------------------------------------------------------------------------------------------- the recorded traces

QUESTIONS = ("什么是 MoE？", "What does the router do?", "37×46=?")


def recorded_path(model: str) -> Path:
    """Where the recorded conversation of a model lies: a bundled name, a hub id or a folder."""
    name = Path(model).name
    if (models.BUNDLED / name).is_dir():
        return models.ROOT / "assets" / "traces" / f"routing-{name}.npz"
    return models.ROOT / "assets" / "recorded" / name / "routing.npz"


def record(model: str, questions=QUESTIONS, output: Path | None = None, max_new_tokens=256) -> Path:
    """Record a conversation with ``model`` (as :func:`helpers.models.find_checkpoint` takes it); returns the file.

    A bundled model runs in float32, any other in the dtype of its files, on the GPU if there is one.
    """
    import torch
    from transformers import AutoTokenizer

    from helpers.qwen import load_model

    folder = models.find_checkpoint(model)
    output = Path(output or recorded_path(model))
    dtype = torch.float32 if models.is_bundled(folder) else None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trace = capture_conversation(load_model(folder, dtype), tokenizer, questions, max_new_tokens)
    output.parent.mkdir(parents=True, exist_ok=True)
    # A hub's cache calls the folder "master", so the name comes from what the user typed.
    replace(trace, provenance=trace.provenance | {"model": Path(model).name}).save(output)
    return output


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m helpers.routing", description="Record the routing of a model.")
    parser.add_argument("model", nargs="?", default=models.DEFAULTS[models.MOE_VARIABLE], help="folder, hub id or name")
    parser.add_argument("--questions", nargs="+", default=QUESTIONS, help="asked one after the other")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="of each answer, its thinking included")
    parser.add_argument("--output", type=Path, help="an .npz file; default: in assets, where lesson 04 finds it")
    options = parser.parse_args(arguments)
    try:
        path = record(options.model, options.questions, options.output, options.max_new_tokens)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    trace = RoutingTrace.load(path)
    layers, tokens, size = len(trace.layers), len(trace.token_ids), f"{path.stat().st_size / 1e3:.0f} kB"
    zh, en = f"{layers} 层，{tokens} 个词元，{size}", f"{layers} layers, {tokens} tokens, {size}"
    print(say(f"{path}：{zh}", f"{path}: {en}"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
