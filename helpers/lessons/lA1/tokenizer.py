"""The tokenizer of the tiny models: byte-level BPE like Qwen3's, trained on the texts of ``texts.toml``.

Digits and Chinese characters are single tokens, every other byte sequence round-trips, and Qwen3's special tokens keep
their names. A character that the texts lack (麟, on purpose) is spelt in bytes.
"""

from pathlib import Path

from helpers.lessons.lA1 import problems
from helpers.lessons.texts import texts

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKUP_TOKENS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
VOCABULARY = 2560
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
# The template as it was when the tokenizer was trained: part of its text, and the weights know this tokenizer only.
TRAINED_WITH = Path(__file__).with_name("tokenizer_text.jinja")


def strings(value) -> list[str]:
    """All strings inside nested lists and dictionaries."""
    if isinstance(value, str):
        return [value]
    return [text for item in (value.values() if isinstance(value, dict) else value) for text in strings(item)]


def build_tokenizer(max_length: int):
    """Train the tokenizer and return it as a ``PreTrainedTokenizerFast`` with the chat template. Deterministic."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}|\p{N}"), "isolated"),
            pre_tokenizers.Split(Regex(r" ?\p{L}+| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    sources = [texts(), problems.PHRASES, problems.FOLLOW_UPS, problems.FORMULAS, problems.ANSWERS]
    written = [*strings(sources), TRAINED_WITH.read_text(encoding="utf-8"), "\n\n"] + [
        "0123456789×+-*/=?!？。，、\n"
    ] * 9
    characters = sorted({character for text in written for character in text if ord(character) > 127})
    words = texts()["tokenizer"]["words"].split()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS) - len(MARKUP_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Characters and words are repeated so that each wins its merges before the rarest words of the texts do.
    tokenizer.train_from_iterator([*written, *characters * 60, *(f"{word} {word}" for word in words * 2)], trainer)
    # Qwen3 counts the first three as special (skipped when decoding), the tags as plain added tokens.
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in MARKUP_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
