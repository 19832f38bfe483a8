"""What appendix A2 counts in traces: classes of tokens, how far they tell the expert, unevenness of the load."""

import unicodedata
from dataclasses import replace
from typing import NamedTuple

from helpers import CourseError

TOKEN_CLASSES = ("digit", "operator", "CJK", "Latin", "special", "space", "other")
KEPT = 0.9  # of the running average of the load in each step of the recorded trainings
STEPS = 5  # from one record to the next; before the first there is one step


def coefficient_of_variation(load):
    """Standard deviation over mean of an array, over its last axis: 0 in perfect balance."""
    return load.std(-1) / load.mean(-1)


def never_used(load):
    """Share of the experts that got no token, over the last axis of an array."""
    return (load == 0).mean(-1)


def concatenate(traces):
    """One trace of several texts through one model, for statistics over all of them; every token counts as given.

    Raises CourseError for traces of different models.
    """
    import numpy as np

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
    return replace(
        first,
        token_ids=np.concatenate([trace.token_ids for trace in traces]),
        pieces=sum((trace.pieces for trace in traces), ()),
        prompt_length=sum(len(trace.token_ids) for trace in traces),
        **{"weights": None, "entropy": None} | joined,
    )


class Agreement(NamedTuple):
    """Two traces of the same tokens compared."""

    same_sets: float  # share of (layer, token) at which both took the same experts
    weight_difference: float | None  # the largest |difference| there, or None where weights are missing


def agreement(a, b) -> Agreement:
    """Compare two traces of the same tokens through the same layers. CourseError if they are not."""
    import numpy as np

    require_same_tokens(a, b)
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


def require_same_tokens(a, b):
    if a.token_ids.tolist() != b.token_ids.tolist():
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


def normalized_mutual_information(a, b) -> float:
    """Mutual information of two labelings of the same tokens over their mean entropy: 0 independent, 1 equal.

    ``a`` and ``b`` are integer arrays of shape (tokens,). Symmetric; the same as scikit-learn's default.
    """
    import numpy as np

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


def class_association(trace, untrained=(), permutations=200, seed=0):
    """How far the class of a token tells its heaviest expert, as normalised mutual information per layer.

    Returns a dict: ``trained`` (layers,); ``permuted`` (permutations, layers), with the classes dealt out anew to the
    distinct tokens, every occurrence of a token keeping one class, which is what chance gives on so few of them; and
    ``untrained`` (traces, layers) for traces of the same text through random weights: a router that knows nothing
    still sends equal tokens to equal experts. At most what exceeds both was learned. Raises CourseError for other text.
    """
    import numpy as np

    classes = np.array([TOKEN_CLASSES.index(token_class(text)) for text in trace.texts])
    _, first, occurrence = np.unique(trace.token_ids, return_index=True, return_inverse=True)
    draw = np.random.default_rng(seed)
    shuffled = [draw.permutation(classes[first])[occurrence] for _ in range(permutations)]

    def per_layer(labels, routing):
        return np.array([normalized_mutual_information(labels, layer) for layer in routing.expert_ids[:, :, 0]])

    found = {"trained": per_layer(classes, trace), "permuted": np.array([per_layer(row, trace) for row in shuffled])}
    for other in untrained:
        require_same_tokens(trace, other)
    if untrained:
        found["untrained"] = np.array([per_layer(classes, other) for other in untrained])
    return found


def largest(values, count):
    """The places of the ``count`` largest values of an array, the largest first, each as a tuple of ints."""
    import numpy as np

    order = np.argsort(-values, axis=None)[:count]
    return [tuple(map(int, place)) for place in zip(*np.unravel_index(order, values.shape), strict=True)]


def shares(average):
    """The shares of experts between one record and the next, recovered from the running average that was kept.

    average: (records, layers, experts), a fraction of all (token, slot) pairs; the result has the same shape. Each
    token counts ``top_k`` times, so an expert has at most one part in ``top_k``.
    """
    import numpy as np

    average = average.astype(float)
    average = np.concatenate([np.full_like(average[:1], 1 / average.shape[-1]), average])
    kept = np.full((len(average) - 1, 1, 1), KEPT**STEPS)
    kept[0] = KEPT
    return ((average[1:] - kept * average[:-1]) / (1 - kept)).clip(0)
