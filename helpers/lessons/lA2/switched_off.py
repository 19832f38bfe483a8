"""Appendix A2: which experts it switches off, and what it says of the harm that this does.

Everywhere here ``traces`` are texts that one model wrote, ``layers`` the layers looked at, ``experts`` those of each
layer, (layers, experts), and ``change`` how much the loss of every written token rises without each of them, (layers,
experts, written tokens).
"""

from helpers.language import say
from helpers.lessons.lA2.statistics import largest, token_class

MOST_LAYERS, MOST_EXPERTS = 4, 8


def experts_to_try(traces):
    """Layers, spread evenly over the model, and the busiest experts of each, in the order of their numbers."""
    import numpy as np

    places = np.unique(np.linspace(0, len(traces[0].layers) - 1, MOST_LAYERS).round().astype(int))
    busiest = np.argsort(-_load(traces)[places], axis=-1)[:, :MOST_EXPERTS]
    return [traces[0].layers[place] for place in places], np.sort(busiest)


def _load(traces):
    from helpers import routing

    return sum(routing.expert_load(trace) for trace in traces)


def written_texts(traces):
    """Every token that the model wrote, as text, in a pair with the few tokens before it."""
    return [
        (trace.texts[place], "".join(trace.texts[max(0, place - 6) : place]))
        for trace in traces
        for place in range(trace.prompt_length, len(trace.texts))
    ]


def written_classes(traces):
    """The class of every token that the model wrote, (written tokens,)."""
    import numpy as np

    return np.array([token_class(text) for text, _ in written_texts(traces)])


def print_harm(traces, layers, experts, change):
    """A line for each layer: its busiest expert and the one whose absence does most harm, with tokens and rise."""
    for place, layer in enumerate(layers):
        tokens = _load(traces)[traces[0].layers.index(layer)][experts[place]]
        harm = change[place].mean(axis=-1)
        busy, worst = (
            f"{experts[place, column]} ({tokens[column]}, {harm[column]:+.2f})"
            for column in (tokens.argmax(), harm.argmax())
        )
        print(
            say(
                f"第 {layer} 层：最忙的专家 {busy}，关掉后伤得最重的 {worst}",
                f"layer {layer}: busiest expert {busy}, most harm without {worst}",
            )
        )


def print_worst(traces, layers, experts, change, rise, classes):
    """A line for each of the three largest of rise, (classes, layers, experts), with the token that suffers most."""
    import numpy as np

    texts, kinds = written_texts(traces), written_classes(traces)
    for index, place, column in largest(rise, 3):
        name, layer, expert = classes[index], layers[place], experts[place, column]
        without = say(f"{name}，没有第 {layer} 层的专家 {expert}", f"{name} without expert {expert} of layer {layer}")
        worst = np.where(kinds == name, change[place, column], -np.inf).argmax()
        text, before = texts[worst]
        print(f"{without}: {rise[index, place, column]:+.2f}", end="; ")
        print(f"{before!r} -> {text!r} {change[place, column, worst]:+.1f}")


def who_predicted(traces, layers, experts):
    """Whether an expert took part in predicting a written token, (layers, experts, written tokens).

    The experts that predict a token are those chosen on reading the token before it.
    """
    import numpy as np

    places = [traces[0].layers.index(layer) for layer in layers]
    before = [trace.expert_ids[places, trace.prompt_length - 1 : -1] for trace in traces]
    chosen = np.concatenate(before, axis=1)  # (layers, written tokens, top_k)
    return (chosen[:, None] == experts[:, :, None, None]).any(axis=-1)


def print_use(traces, layers, experts, change, took, classes, named):
    """A line for each named place: how many predictions of its class used the expert, and how many did not.

    In brackets stands how much the loss of these predictions rises on average.
    """
    kinds = written_classes(traces)
    for number, (index, place, column) in enumerate(named, 1):
        name, layer, expert = classes[index], layers[place], experts[place, column]
        line = say(
            f"{number}，{name}：第 {layer} 层，专家 {expert}", f"{number}, {name}: layer {layer}, expert {expert}"
        )
        used = took[place, column]
        for label, group in ((say("用到", "used"), used), (say("没用", "unused"), ~used)):
            rises = change[place, column][group & (kinds == name)]
            line += f" | {label} {len(rises)}" + (f" ({rises.mean():+.2f})" if len(rises) else "")
        print(line)
