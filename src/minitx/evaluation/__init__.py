"""How well a model knows a text it was not trained on, and what else would know it as well.

`loss` scores a text; the other modules make figures of the losses or give what to compare with.
"""

from minitx.evaluation.scoring import LossChunk, Score, score, token_losses
from minitx.evaluation.scoring_windows import Windows, count_targets, windows_for

__all__ = ["LossChunk", "Score", "Windows", "count_targets", "score", "token_losses", "windows_for"]
