"""Muon: orthogonal steps for the blocks' matrices, AdamW for everything else."""

import copy

import pytest
import torch
from tiny import TINY

from modeling_proformer import ProformerConfig, ProformerForSequenceClassification
from modeling_proformer.training.muon import Muon, orthogonalized


@pytest.fixture
def model() -> ProformerForSequenceClassification:
    torch.manual_seed(0)
    return ProformerForSequenceClassification(ProformerConfig(**TINY))


def give_gradients(model, seed: int):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_every_direction_has_its_equal_share(shape):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(drawn, full_matrices=False)
    matrix = left @ torch.logspace(-1, 1, min(shape)).diag() @ right
    found = orthogonalized(matrix)
    shares = torch.linalg.svdvals(found)
    assert shares.min() > 0.6 and shares.max() < 1.3
    cosine = (found * (left @ right)).sum() / shares.norm() / min(shape) ** 0.5
    assert cosine > 0.98


def test_its_steps_are_those_of_torch(model):
    theirs = copy.deepcopy(model)
    ours = Muon(model, lr=0.01, weight_decay=0.1)
    matrices = [each for name, each in theirs.named_parameters() if ".layers." in name and each.ndim == 2]
    others = [each for each in theirs.parameters() if all(each is not matrix for matrix in matrices)]
    assert len(matrices) == 18
    optimizers = [
        torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.01, weight_decay=0.1),
    ]
    before = copy.deepcopy(model)
    for seed in range(3):
        for each in (model, theirs):
            give_gradients(each, seed)
        for optimizer in (ours, *optimizers):
            optimizer.step()
    found, expected, old = (dict(each.named_parameters()) for each in (model, theirs, before))
    for name in found:
        # Torch's matrices are rounded to bfloat16.
        tolerance = 0.03 if ".layers." in name and found[name].ndim == 2 else 1e-6
        assert (found[name] - expected[name]).norm() <= tolerance * (expected[name] - old[name]).norm() + 1e-7, name


def test_it_goes_on_from_what_was_saved(model):
    whole = Muon(model, lr=0.01)
    give_gradients(model, 0)
    whole.step()
    resumed_model = copy.deepcopy(model)
    resumed = Muon(resumed_model, lr=0.01)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for each, optimizer in ((model, whole), (resumed_model, resumed)):
        give_gradients(each, 1)
        optimizer.step()
    for found, expected in zip(resumed_model.parameters(), model.parameters(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("part", ["the whole model", "proformer"])
def test_the_matrices_of_the_blocks_are_found_in_a_bare_encoder_too(model, part):
    optimizer = Muon(model if part == "the whole model" else model.proformer, lr=0.01)
    matrices, others = (group["params"] for group in optimizer.param_groups)
    assert len(matrices) == 18 and all(each.ndim == 2 for each in matrices) and others


def test_what_is_frozen_or_has_no_gradient_stays(model):
    model.proformer.layers[0].requires_grad_(False)
    before = copy.deepcopy(model)
    optimizer = Muon(model, lr=0.01)
    give_gradients(model, 0)
    model.proformer.layers[1].self_attn.q_proj.weight.grad = None
    optimizer.step()
    changed = {
        name
        for (name, found), old in zip(model.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(found, old)
    }
    assert not any(".layers.0." in name for name in changed)
    assert "proformer.layers.1.self_attn.q_proj.weight" not in changed
    assert "proformer.layers.1.self_attn.k_proj.weight" in changed and "expression_head.dense.weight" in changed
