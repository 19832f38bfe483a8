"""What a model makes of the text of a trace."""


def written_losses(model, traces):
    """Cross-entropy in nats of a model of ``helpers/qwen.py`` on every token after the traces' prompts.

    Returns a numpy array (tokens,). The text itself is given: each token is predicted from the true ones before it.
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
