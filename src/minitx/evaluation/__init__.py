"""How well a model knows a text it was not trained on, and what else would know it as well.

`loss` scores a text; the other modules make figures of the losses or give what to compare with.
"""

from minitx.evaluation.scoring import LossChunk, Score, score, token_losses

__all__ = ["LossChunk", "Score", "score", "token_losses"]
