"""Text from a model: read `loop`, then `batch`, `decoder`, `chooser`, `filters`, `draws`."""

from minitx.generation.batch import Batch, Piece
from minitx.generation.generate_text import generate, stream
from minitx.generation.generated import Chosen, Generation
from minitx.generation.row import Row

__all__ = ["Batch", "Chosen", "Generation", "Piece", "Row", "generate", "stream"]
