"""Bytes written as printable characters, as byte-level BPE keeps them in its vocabulary.

GPT-2 (Radford et al. 2019, section 2.2) gives each of the 256 bytes a character of its own, so
that a vocabulary of strings can hold any bytes. Bytes that Latin-1 prints stand for themselves;
the others, in order, take the characters from U+0100 on: a space is ``Ġ``, a line feed ``Ċ``.
"""

from __future__ import annotations

_PRINTED = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_MOVED = [byte for byte in range(256) if byte not in _PRINTED]

CHARACTER_OF_BYTE: dict[int, str] = {
    **{byte: chr(byte) for byte in sorted(_PRINTED)},
    **{byte: chr(0x100 + place) for place, byte in enumerate(_MOVED)},
}
BYTE_OF_CHARACTER: dict[str, int] = {
    character: byte for byte, character in CHARACTER_OF_BYTE.items()
}


def to_bytes(token: str) -> bytes:
    """The bytes that a vocabulary entry stands for.

    Raises:
        KeyError: a character stands for no byte.
    """
    return bytes(BYTE_OF_CHARACTER[character] for character in token)
