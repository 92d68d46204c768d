"""Text to token ids and back: byte-level BPE, characters, or words.

tokenizer = train_tokenizer(text, "bpe", 1024)
ids = tokenizer.encode("To be or not to be")
assert tokenizer.decode(ids) == "To be or not to be"
"""

from minitx.tokenizer.base import Tokenizer
from minitx.tokenizer.kinds import (
    load_tokenizer,
    train_tokenizer,
    with_end_of_text,
    with_roles,
)

__all__ = ["Tokenizer", "load_tokenizer", "train_tokenizer", "with_end_of_text", "with_roles"]
