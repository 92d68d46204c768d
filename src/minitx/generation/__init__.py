"""Text from a model: read `generate_text`, then `batch`, `text_reader`, `chooser`, `filters`."""

from minitx.generation.batch import TextBatch
from minitx.generation.generate_text import generate, stream
from minitx.generation.row import Chosen, Generation, Row

__all__ = ["Chosen", "Generation", "Row", "TextBatch", "generate", "stream"]
