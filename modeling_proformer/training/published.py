"""The published optimization to the letter: optimizer, schedule and gradient clipping."""

import math

import torch
from torch import nn
from transformers import TrainerCallback


@torch.no_grad()
def clip_gradients_as_published(model: nn.Module, clip_value: float = 0.5, clip_norm: float = 1.0):
    """
    Clip the gradients as the published optimizer does, which is Keras 2.6's with both `clipvalue` and `clipnorm`.

    Each variable is clipped on its own, first its elements, then its norm. A global norm would shrink all other
    gradients about 5,000-fold at the start, because the expression tokens are zero vectors then.

    Quirk: Keras clips an embedding's gradient before it sums it over the positions that share a row. For the strand
    embedding that is the clipped gradient of the position embedding, summed over each strand (as long as inputs fill
    all positions, as published).
    """
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.clamp_(-clip_value, clip_value)
            parameter.grad.mul_((clip_norm / parameter.grad.norm().clamp(min=1e-12)).clamp(max=1.0))
    embeddings = getattr(model, model.base_model_prefix, model).embeddings
    strand, position = embeddings.strand_embeddings.weight, embeddings.position_embeddings.weight
    if strand.grad is not None and position.grad is not None:
        strand.grad.copy_(torch.stack([half.sum(dim=0) for half in position.grad.chunk(2)]))


class PublishedGradientClipping(TrainerCallback):
    """
    Calls `clip_gradients_as_published` before each step; set `max_grad_norm=0` with it.

    The published run clipped the sum of the gradients of four replicas' mean losses, at 0.5 and 1. Here the gradient
    is that of the mean over the whole step, which is a quarter of that sum, and so are the thresholds. Adam does not
    depend on such a factor.
    """

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        model = model.module if hasattr(model, "module") else model
        clip_gradients_as_published(model, clip_value=0.5 / 4, clip_norm=1 / 4)


def published_optimization(
    model: nn.Module, hidden_size: int, warmup_steps: int = 12_500, steps_at_once: float = 1.0
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """
    Return the published optimizer and schedule, for `Trainer(optimizers=…)` with `PublishedGradientClipping`.

    They are Adam and the schedule of Vaswani et al. 2017 (betas 0.9 and 0.98, epsilon 1e-9). Steps are counted from 0,
    so that the first changes no weight.

    Args:
        model: whose parameters are trained.
        hidden_size: width of the model, on which the learning rate depends.
        warmup_steps: number of steps up to the highest rate.
        steps_at_once: steps of the schedule that each step takes, for runs that are shorter than the published one
            and still pass through the same rates.
    """

    def learning_rate(step: int) -> float:
        scheduled = step * steps_at_once
        if scheduled == 0:
            return 0.0
        return min(1 / math.sqrt(scheduled), scheduled * warmup_steps**-1.5) / math.sqrt(hidden_size)

    optimizer = torch.optim.Adam(model.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate)


__all__ = ["PublishedGradientClipping", "clip_gradients_as_published", "published_optimization"]
