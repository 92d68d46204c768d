"""Text from a model: the loop, the filters, the draws."""

from minitx.generation.loop import Chosen, Generation, generate, stream

__all__ = ["Chosen", "Generation", "generate", "stream"]
