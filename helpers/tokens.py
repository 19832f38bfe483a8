"""Tokens as bytes: the text of each one, and a way to write it down that hides nothing."""

import unicodedata


def pieces(tokenizer, token_ids) -> tuple[bytes, ...]:
    """UTF-8 of every token. Byte-level BPE writes a byte as one printable character (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
    added = tokenizer.get_added_vocab()
    tokens = tokenizer.convert_ids_to_tokens(token_ids)
    # The output matrix may have rows for which there is no token: those have no text.
    return tuple(token.encode() if token in added else bytes(byte_of[char] for char in token or "") for token in tokens)


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


def utf8_state(text: bytes) -> str:
    """``whole``, ``unfinished`` if it ends within a character that further bytes may complete, or ``broken``."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        return "unfinished" if error.reason == "unexpected end of data" else "broken"
    return "whole"
