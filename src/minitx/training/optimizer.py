"""Which parameter is learned by which optimizer, and the step they take together."""

from __future__ import annotations

import torch
from torch import Tensor

from minitx.config import TrainConfig
from minitx.config.checks import require_one_of
from minitx.model import Transformer
from minitx.training import native_update
from minitx.training.adamw import AdamW
from minitx.training.muon import Muon


class Optimizer:
    """Muon for the blocks' matrices and AdamW for embeddings, head, norms and biases; or AdamW
    for everything.

    Args:
        model: its parameters are updated in place.
        config: `optimizer`, `weight_decay`, `beta1`, `beta2`, `momentum`, `grad_clip`, and the
            two peak rates.
        product_dtype: of Muon's matrix products.
    """

    def __init__(
        self, model: Transformer, config: TrainConfig, product_dtype: torch.dtype = torch.float32
    ) -> None:
        require_one_of("optimizer", config.optimizer, ("muon", "adamw"))
        self.config = config
        self._all = list(model.parameters())
        matrices = list(model.matrix_parameters()) if config.optimizer == "muon" else []
        by_muon = {name for name, _, _ in matrices}
        self.muon = (
            Muon(
                matrices,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                dtype=product_dtype,
            )
            if matrices
            else None
        )
        self.adamw = AdamW(
            [(name, p) for name, p in model.named_parameters() if name not in by_muon],
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )

    def step(self, rate_factor: float) -> Tensor:
        """Clip the gradients, update, and clear them.

        Args:
            rate_factor: fraction of the peak rates, from the schedule.

        Returns:
            Scalar: the global gradient norm before clipping.
        """
        norm, _ = self.clip_gradients()
        self.update(rate_factor)
        return norm

    def clip_gradients(self) -> tuple[Tensor, Tensor]:
        """Scale all gradients down together if their norm exceeds `grad_clip`.

        Returns:
            Before clipping: the global gradient norm, a scalar, and the norm of each parameter's
            gradient, `(parameters,)`.
        """
        gradients = [p.grad for p in self._all if p.grad is not None]
        if native_update.can_update(gradients):
            return self._clip_compiled(gradients)
        norms = torch.stack(torch._foreach_norm(gradients))
        norm = torch.linalg.vector_norm(norms)
        if self.config.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(self._all, self.config.grad_clip, norm)
        return norm, norms

    def _clip_compiled(self, gradients: list[Tensor]) -> tuple[Tensor, Tensor]:
        norms = native_update.norms(gradients)
        norm = torch.linalg.vector_norm(norms)
        if self.config.grad_clip:
            factor = self.config.grad_clip / (float(norm) + 1e-6)
            if not factor >= 1:  # also if it is no number
                native_update.scale(gradients, factor)
        return norm, norms

    def update(self, rate_factor: float) -> None:
        """Take the step, and clear the gradients."""
        self.adamw.step(rate_factor * self.config.learning_rate)
        if self.muon is not None:
            self.muon.step(rate_factor * self.config.muon_learning_rate)
        self.clear_gradients()

    def clear_gradients(self) -> None:
        """Forget the gradients."""
        for parameter in self._all:
            parameter.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything the optimizers remember, by name."""
        tensors = {f"adamw.{k}": v for k, v in self.adamw.state_tensors().items()}
        if self.muon is not None:
            tensors |= {f"muon.{k}": v for k, v in self.muon.state_tensors().items()}
        return tensors

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Copy saved state in.

        Raises:
            KeyError: a tensor is missing.
            RuntimeError: a tensor has another shape.
        """
        for prefix, part in (("adamw.", self.adamw), ("muon.", self.muon)):
            if part is not None:
                part.load_state_tensors(
                    {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
                )
