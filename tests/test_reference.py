"""Tests against outputs, losses, gradients and optimizer steps of the authors' TensorFlow code."""

import json

import numpy as np
import pytest
import torch

from modeling_proformer import ProformerConfig, ProformerForPreTraining, ProformerTokenizer
from modeling_proformer.convert_keras import convert_weight, is_weight, load_keras_weights
from modeling_proformer.modeling_proformer import expression_loss, masked_nucleotide_loss
from modeling_proformer.training.published import clip_gradients_as_published, published_optimization


# A vector added to all keys shifts all attention logits of a query equally, so its true gradient is 0. The computed
# gradient is rounding noise, which Adam turns into full steps.
WITHOUT_EFFECT = "self_attn.k_proj.bias"


def greatest_difference(ours: torch.Tensor, theirs: np.ndarray) -> float:
    return float((ours.detach() - torch.from_numpy(np.asarray(theirs))).abs().max())


def inputs_of(file: np.lib.npyio.NpzFile, codes: str) -> dict[str, torch.Tensor]:
    """Return the tokens of bases whose codes are those of the reference: A C G T N M from 0."""
    arguments = json.loads(str(file["config_json"]))
    tokenizer = ProformerTokenizer(
        kmer_size=arguments["kmer"],
        kmer_stride=arguments["strides"],
        insert_width=arguments["n_positions"] // 2,
    )
    constructs = file[codes].astype(np.uint8) + 1
    return {
        "input_ids": torch.from_numpy(tokenizer.encode_kmers(constructs)),
        "token_type_ids": torch.from_numpy(tokenizer.token_type_ids(len(constructs))),
    }


def test_published_parameter_count():
    model = ProformerForPreTraining(ProformerConfig())
    assert model.num_parameters() == 47_425_543


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", "abcde")
def test_forward_pass(shared, name, attention):
    path = shared / "reference" / f"forward_{name}.npz"
    file = np.load(path)
    model = load_keras_weights(path)
    model.set_attn_implementation(attention)
    with torch.no_grad():
        outputs = model(**inputs_of(file, "in/codes"), output_hidden_states=True)

    blocks = ["mid/embed", *(f"mid/block_{block}" for block in range(model.config.num_hidden_layers))]
    differences = {
        "expression": greatest_difference(outputs.logits, file["out/expression"]),
        "nucleotide logits": greatest_difference(outputs.nucleotide_logits, file["out/logits"]),
    } | {
        block: greatest_difference(hidden_states, file[block])
        for hidden_states, block in zip(outputs.hidden_states, blocks, strict=True)
    }
    print(f"\nforward_{name}, {attention}:", ", ".join(f"{part} {value:.1e}" for part, value in differences.items()))
    assert differences.pop("expression") < 1e-5
    assert max(differences.values()) < 5e-5


def test_data_preparation(shared, yeast_tokenizer):
    file = np.load(shared / "reference" / "encoding.npz")
    codes = yeast_tokenizer.encode_letters([str(sequence) for sequence in file["full"]])
    np.testing.assert_array_equal(codes - 1, file["codes"])


@pytest.fixture
def training_step(shared):
    """Return the model, the batch and the reference of one step of the published training."""
    start = np.load(shared / "reference" / "forward_a.npz")
    file = np.load(shared / "reference" / "train_a.npz")
    model = load_keras_weights(shared / "reference" / "forward_a.npz")
    batch = inputs_of({"config_json": start["config_json"], "codes": file["in/masked_seq"]}, "codes")
    batch["labels"] = torch.from_numpy(file["in/expression"])
    targets = np.where(file["in/mask"] == 1, file["in/seq"].astype(np.int64), -100)
    batch["masked_nucleotides"] = torch.from_numpy(targets)
    return model, batch, file


def test_losses(training_step):
    model, batch, file = training_step
    outputs = model(**batch)
    assert greatest_difference(outputs.logits, file["out/expression"]) < 1e-5
    assert greatest_difference(outputs.nucleotide_logits, file["out/logits"]) < 5e-5
    expression = expression_loss(outputs.logits, batch["labels"], model.config)
    nucleotides = masked_nucleotide_loss(outputs.nucleotide_logits, batch["masked_nucleotides"])
    assert expression.item() == pytest.approx(float(file["out/loss_expression"]), rel=1e-5)
    assert nucleotides.item() == pytest.approx(float(file["out/loss_seq"]), rel=1e-5)
    assert outputs.loss.item() == pytest.approx(float(file["out/loss"]), rel=1e-5)


def reference_weights(file, prefix: str) -> dict[str, torch.Tensor]:
    names = [name for name in file.files if name.startswith(prefix) and is_weight(name.removeprefix(prefix))]
    return dict(convert_weight(name.removeprefix(prefix), file[name]) for name in names)


def test_gradients_and_their_clipping(training_step):
    model, batch, file = training_step
    model(**batch).loss.backward()
    expected = reference_weights(file, "grad/")
    assert expected.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        scale = max(1.0, float(expected[name].abs().max()))
        assert float((parameter.grad - expected[name]).abs().max()) < 2e-5 * scale, name

    clip_gradients_as_published(model)
    expected = reference_weights(file, "grad_clipped/")
    for name, parameter in model.named_parameters():
        assert float((parameter.grad - expected[name]).abs().max()) < 2e-5, name


@pytest.mark.parametrize(
    ("run", "steps"), [("adam_const_noclip", (1, 3)), ("adam_const_clip", (1, 3)), ("adam_sched_clip", (1, 2, 3))]
)
def test_optimizer_steps(training_step, run, steps):
    model, batch, file = training_step
    if run == "adam_sched_clip":
        optimizer, schedule = published_optimization(model, hidden_size=16, warmup_steps=4)
    else:
        optimizer, schedule = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-9), None
    greatest_rate = 0.0
    for step in range(1, 4):
        greatest_rate = max(greatest_rate, optimizer.param_groups[0]["lr"])
        if schedule is not None:
            assert optimizer.param_groups[0]["lr"] == pytest.approx(float(file[f"{run}/lr_used"][step - 1]), rel=1e-6)
        loss = model(**batch).loss
        assert loss.item() == pytest.approx(float(file[f"{run}/log"][step - 1][0]), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        if run != "adam_const_noclip":
            clip_gradients_as_published(model)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        if step in steps:
            expected = reference_weights(file, f"{run}/step{step}/")
            assert len(expected) == len(list(model.parameters()))
            # 1 % of the greatest step so far, because Adam makes full steps of small gradients and of rounding noise.
            tolerance = max(1e-7, 0.01 * greatest_rate)
            for name, parameter in model.named_parameters():
                if not name.endswith(WITHOUT_EFFECT):
                    assert float((parameter.detach() - expected[name]).abs().max()) < tolerance, (step, name)


def test_published_schedule(shared):
    file = np.load(shared / "reference" / "train_a.npz")
    _, schedule = published_optimization(torch.nn.Linear(1, 1), hidden_size=512)
    rates = [schedule.lr_lambdas[0](int(step)) for step in file["schedule/iterations"]]
    np.testing.assert_allclose(rates, file["schedule/lr_512_12500"], rtol=1e-6)
