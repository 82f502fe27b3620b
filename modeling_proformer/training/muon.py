"""The optimizer Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) beside AdamW."""

from collections.abc import Callable

import torch
from torch import nn


MOMENTUM = 0.95
# Five rounds of this polynomial bring the singular values of almost every matrix to between 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


class Muon(torch.optim.AdamW):
    """
    Trains the matrices of a model's blocks with orthogonal steps, and everything else with AdamW.

    An orthogonal step changes a matrix by the same amount in all directions, while the gradient is large in a few. It
    is scaled to the usual size of AdamW's steps (Liu et al. 2025, arXiv 2502.16982), so that both share a learning
    rate. It is computed in float32: `torch.optim.Muon` computes in bfloat16, and nearly doubles the time of a small
    model's training where the CPU lacks it.

    Args:
        model: the Proformer whose trainable parameters are trained. Each process must hold whole matrices, so it is
            not for FSDP.
        lr: learning rate of all parameters.
        weight_decay: decoupled weight decay of all parameters, biases among them.
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        parameters: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameters["layers" in name.split(".") and parameter.ndim == 2].append(parameter)
        groups = [{"params": group, "orthogonal": orthogonal} for orthogonal, group in parameters.items()]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """
        Change the parameters by one step, and return the loss if a `closure` computes it.

        The matrices have no gradient afterwards.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["orthogonal"]:
                for matrix in group["params"]:
                    self._change(matrix, group["lr"], group["weight_decay"])
        super().step()
        return loss

    def _change(self, matrix: nn.Parameter, lr: float, weight_decay: float):
        gradient, matrix.grad = matrix.grad, None  # AdamW leaves out what has no gradient.
        if gradient is None:
            return
        state = self.state[matrix]
        if not state:
            # AdamW looks for `step` when a state is loaded.
            state.update(step=torch.zeros(()), momentum=torch.zeros_like(matrix))
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        step = orthogonalized(gradient.lerp(state["momentum"], MOMENTUM))  # Nesterov's momentum
        matrix.mul_(1 - lr * weight_decay)
        matrix.add_(step, alpha=-lr * 0.2 * max(matrix.shape) ** 0.5)


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """Return the matrix with all of its singular values near 1, in float32."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.float().T if tall else matrix.float()
    wide = wide / wide.norm().clamp(min=1e-7)
    first, third, fifth = COEFFICIENTS
    for _ in range(ROUNDS):
        squares = wide @ wide.T
        wide = first * wide + (third * squares + fifth * squares @ squares) @ wide
    return wide.T if tall else wide


__all__ = ["Muon", "orthogonalized"]
