"""Tests of the prediction of expression by calls of the library."""

import itertools
import json
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from modeling_proformer import (
    InvalidSequenceError,
    ProformerConfig,
    ProformerForPreTraining,
    ProformerForSequenceClassification,
    PromoterExpressionPipeline,
    predict,
    saturation_mutagenesis,
    variant_effects,
)
from modeling_proformer.data.tables import InputError
from modeling_proformer.loading import load_checkpoint
from modeling_proformer.prediction import predict_batches, predict_file


@pytest.fixture
def model(tiny_config) -> ProformerForPreTraining:
    torch.manual_seed(0)
    return ProformerForPreTraining(tiny_config)


@pytest.fixture
def sequences() -> list[str]:
    """Return sequences of all lengths that fit the construct."""
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list("ACGTN"), 1 + row % 12)) for row in range(50)]


@torch.no_grad()
def direct(model, tokenizer, sequences) -> np.ndarray:
    return model.eval()(**tokenizer(sequences, return_tensors="pt")).logits.numpy()


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("model_class", [ProformerForPreTraining, ProformerForSequenceClassification])
def test_predictions_are_the_outputs_of_the_model(tiny_config, tiny_tokenizer, sequences, model_class, outputs):
    tiny_config.num_labels = outputs
    model = model_class(tiny_config)
    predicted = predict(model, tiny_tokenizer, sequences, batch_size=8)
    assert isinstance(predicted, np.ndarray)
    assert predicted.dtype == np.float32
    assert predicted.shape == (50, outputs)
    assert len(np.unique(predicted)) > 40 * outputs
    np.testing.assert_allclose(predicted, direct(model, tiny_tokenizer, sequences), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 49, 50, 1000])
def test_predictions_do_not_depend_on_the_batch_size(model, tiny_tokenizer, sequences, batch_size):
    batches = list(predict_batches(model, tiny_tokenizer, iter(sequences), batch_size=batch_size))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    np.testing.assert_allclose(np.concatenate(batches), predict(model, tiny_tokenizer, sequences), atol=1e-5)


def test_predictions_are_in_the_assays_units(tiny_config, tiny_tokenizer, model, sequences):
    standardised = predict(model, tiny_tokenizer, sequences)
    tiny_config.label_mean, tiny_config.label_std = [11.0], [2.5]
    in_units = ProformerForPreTraining(tiny_config)
    in_units.load_state_dict(model.state_dict())
    np.testing.assert_allclose(predict(in_units, tiny_tokenizer, sequences), 11 + 2.5 * standardised, atol=1e-4)


def test_a_model_in_training_mode_predicts_without_dropout(tiny_config, tiny_tokenizer, sequences):
    tiny_config.hidden_dropout = 0.5
    model = ProformerForPreTraining(tiny_config).train()
    predicted = predict(model, tiny_tokenizer, sequences)
    np.testing.assert_allclose(predicted, direct(model, tiny_tokenizer, sequences), atol=1e-5)


def test_a_model_that_returns_tuples_predicts_the_same(model, tiny_tokenizer, sequences):
    expected = predict(model, tiny_tokenizer, sequences)
    model.config.return_dict = False
    np.testing.assert_array_equal(predict(model, tiny_tokenizer, sequences), expected)
    result = PromoterExpressionPipeline(model, tiny_tokenizer, device="cpu")(sequences[0])
    assert result["LABEL_0"]["value"] == pytest.approx(float(expected[0, 0]), rel=1e-4)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_wrapped_model_predicts_the_same(model, tiny_tokenizer, sequences, process_group):
    """A training loop has its model in such a wrapper, which was refused as a model without an expression head."""
    expected = predict(model, tiny_tokenizer, sequences)
    for wrap in (
        torch.nn.DataParallel,
        torch.nn.parallel.DistributedDataParallel,
        AveragedModel,
        lambda model: AveragedModel(torch.nn.DataParallel(model)),
    ):
        wrapped = wrap(model).train()
        np.testing.assert_array_equal(predict(wrapped, tiny_tokenizer, sequences), expected)
        assert wrapped.training and wrapped.module.training
    pipe = PromoterExpressionPipeline(wrapped, tiny_tokenizer, device="cpu")
    assert pipe(sequences[0])["LABEL_0"]["value"] == pytest.approx(float(expected[0, 0]), rel=1e-4)
    assert len(list(saturation_mutagenesis(wrapped, tiny_tokenizer, ["ACGT"]))) == 1


def test_no_sequences_give_no_predictions(model, tiny_tokenizer):
    assert predict(model, tiny_tokenizer, []).shape == (0, 1)


def test_whole_constructs_are_predicted_like_their_inserts(shared, yeast_tokenizer):
    model = ProformerForPreTraining(ProformerConfig(hidden_size=16, head_dim=8, num_hidden_layers=1))
    constructs = pd.read_csv(shared / "data" / "yeast" / "dream_public.tsv", sep="\t", nrows=40)["sequence"].tolist()
    inserts = [construct[17:-13] for construct in constructs]
    predicted = predict(model, yeast_tokenizer, constructs)
    assert len(np.unique(predicted)) == 40
    np.testing.assert_array_equal(predicted, predict(model, yeast_tokenizer, inserts))


def test_sequences_are_taken_as_they_are_needed(model, tiny_tokenizer):
    taken = []

    def endless():
        for row in itertools.count():
            taken.append(row)
            yield "ACGT"

    batches = predict_batches(model, tiny_tokenizer, endless(), batch_size=16)
    assert taken == []
    for number in (1, 2, 3):
        assert next(batches).shape == (16, 1)
        # At most one batch is read ahead.
        assert 16 * number <= len(taken) <= 16 * (number + 1)
    batches.close()
    assert len(taken) <= 64


def test_the_next_batch_is_read_while_one_is_computed(model, tiny_tokenizer):
    """Both would wait for ever if they did not run at the same time."""
    reading, computing = threading.Event(), threading.Event()

    def sequences():
        yield from ["ACGT"] * 16
        reading.set()
        assert computing.wait(timeout=60)
        yield from ["ACGT"] * 16

    def in_forward(*_):
        assert reading.wait(timeout=60)
        computing.set()

    hook = model.register_forward_pre_hook(in_forward)
    try:
        assert len(predict(model, tiny_tokenizer, sequences(), batch_size=16)) == 32
    finally:
        hook.remove()


def test_batches_on_a_cpu_are_small(model, tiny_tokenizer):
    assert [len(batch) for batch in predict_batches(model, tiny_tokenizer, ["ACGT"] * 130)] == [64, 64, 2]


@pytest.mark.parametrize("row", [0, 15, 16, 35])
@pytest.mark.parametrize(
    ("sequence", "complaint"),
    [("ACXT", "'X' at position 3"), ("", "empty"), ("A" * 13, "13 bases"), (None, "string")],
)
def test_an_error_counts_through_all_the_batches(model, tiny_tokenizer, row, sequence, complaint):
    sequences = ["ACGT"] * 40
    sequences[row] = sequence
    with pytest.raises(InvalidSequenceError, match=f"^Sequence {row + 1}: .*{complaint}") as raised:
        predict(model, tiny_tokenizer, sequences, batch_size=16)
    assert raised.value.row == row


def test_truncation_cuts_what_does_not_fit(model, tiny_tokenizer):
    long = ["ACGTACGTACGTAAAA", "GGGGCCCCTTTTG"]
    predicted = predict(model, tiny_tokenizer, long, truncation=True)
    np.testing.assert_array_equal(predicted, predict(model, tiny_tokenizer, [sequence[:12] for sequence in long]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_shorter_type_is_close_and_leaves_the_weights_alone(model, tiny_tokenizer, sequences, dtype):
    expected = predict(model, tiny_tokenizer, sequences)
    predicted = predict(model, tiny_tokenizer, sequences, dtype=dtype)
    assert predicted.dtype == np.float32
    assert not np.array_equal(predicted, expected)
    np.testing.assert_allclose(predicted, expected, atol=0.05 * np.ptp(expected))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    np.testing.assert_array_equal(predict(model, tiny_tokenizer, sequences), expected)


def test_weights_of_one_short_type_are_not_computed_in_another(model, tiny_tokenizer, sequences):
    model.to(torch.float16)
    assert np.isfinite(predict(model, tiny_tokenizer, sequences, dtype=torch.float16)).all()
    with pytest.raises(
        ValueError, match=r"in torch.float16, which cannot be computed in torch.bfloat16: use `model\.f"
    ):
        predict(model, tiny_tokenizer, sequences, dtype=torch.bfloat16)


def test_a_checkpoint_in_float16_is_computed_in_float32_or_bfloat16(model, tiny_tokenizer, sequences, tmp_path):
    """`--bf16` failed with a message of torch about parameters of mixed types."""
    model.to(torch.float16).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    loaded, tokenizer = load_checkpoint(tmp_path)
    expected = predict(model.float(), tiny_tokenizer, sequences)
    np.testing.assert_array_equal(predict(loaded, tokenizer, sequences), expected)
    short = predict(loaded, tokenizer, sequences, dtype=torch.bfloat16)
    np.testing.assert_allclose(short, expected, atol=0.05 * np.ptp(expected))


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"))],
)
def test_the_model_is_moved_to_the_device(model, tiny_tokenizer, sequences, device):
    expected = predict(model, tiny_tokenizer, sequences)
    np.testing.assert_allclose(predict(model, tiny_tokenizer, sequences, device=device), expected, atol=1e-4)
    assert model.device.type == "cpu"


def test_a_device_that_computes_nothing_leaves_the_model_alone(model, tiny_tokenizer, sequences):
    """Every machine has such a device, so this shows that the device is used."""
    expected = predict(model, tiny_tokenizer, sequences)
    with pytest.raises(RuntimeError):
        predict(model, tiny_tokenizer, sequences, device="meta")
    np.testing.assert_array_equal(predict(model, tiny_tokenizer, sequences), expected)


@pytest.mark.parametrize("device", ["cuda:99", "abacus", "privateuseone"])
def test_a_device_that_is_not_there_is_refused_in_a_sentence(model, tiny_tokenizer, sequences, device):
    with pytest.raises(ValueError, match=f"^`device` '{device}' cannot be used here: [^.]+") as refused:
        predict(model, tiny_tokenizer, sequences, device=device)
    assert len(str(refused.value)) < 300
    with pytest.raises(ValueError, match=f"^`devices` '{device}' cannot be used here: "):
        next(predict_file(model, tiny_tokenizer, "unread.fasta", devices=["cpu", device]))


class TestTheModelIsLeftAsItWas:
    """The model has one submodule in evaluation mode and the others in training mode, a frozen weight and a hook."""

    @pytest.fixture
    def model(self, tiny_config):
        tiny_config.hidden_dropout = 0.5
        torch.manual_seed(0)
        model = ProformerForSequenceClassification(tiny_config).train()
        model.set_attn_implementation("eager")
        model.proformer.layers[1].eval()
        model.expression_head.dense.weight.requires_grad_(False)
        model.register_forward_pre_hook(lambda *_: None)
        return model

    @pytest.fixture(autouse=True)
    def unchanged(self, model):
        def describe():
            modules = [
                (name, module.training, *map(len, (module._forward_hooks, module._forward_pre_hooks)), [*vars(module)])
                for name, module in model.named_modules()
            ]
            weights = [(name, id(weight), weight.requires_grad) for name, weight in model.named_parameters()]
            values = [weight.tolist() for weight in model.state_dict().values()]
            grad = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
            return modules, weights, values, model.device, model.config._attn_implementation, grad

        before = describe()
        yield
        assert describe() == before

    @pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16}, {"device": "cpu"}, {"batch_size": 7}], ids=str)
    def test_by_predictions(self, model, tiny_tokenizer, sequences, options):
        predict(model, tiny_tokenizer, sequences, **options)

    @pytest.mark.parametrize("device", [None, "meta"])
    def test_by_errors(self, model, tiny_tokenizer, device):
        with pytest.raises((InvalidSequenceError, RuntimeError)):
            predict(model, tiny_tokenizer, ["ACGT", "ACXT"], batch_size=1, device=device)

    def test_by_an_error_in_the_model(self, model, tiny_tokenizer, sequences):
        def fail(*_):
            raise KeyError("a hook")

        hook = model.proformer.layers[0].register_forward_hook(fail)
        with pytest.raises(KeyError, match="a hook"):
            predict(model, tiny_tokenizer, sequences)
        hook.remove()

    def test_by_generators_that_are_closed_early(self, model, tiny_tokenizer, sequences, tmp_path):
        path = tmp_path / "in.tsv"
        # A later one is NA, which says in a table that the sequence is missing.
        path.write_text("sequence\n" + "\n".join(sequences[:20]))
        for batches in (
            predict_batches(model, tiny_tokenizer, sequences, batch_size=8),
            predict_file(model, tiny_tokenizer, path, batch_size=8),
            saturation_mutagenesis(model, tiny_tokenizer, sequences),
        ):
            next(batches)
            # Between batches too, so that the caller may go on training.
            assert model.training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            batches.close()

    def test_by_variants(self, model, tiny_tokenizer):
        assert len(list(saturation_mutagenesis(model, tiny_tokenizer, ["ACGT", "GG"]))) == 2
        variant_effects(model, tiny_tokenizer, ["ACGT"], ["ACGA"])

    def test_by_the_pipeline(self, model, tiny_tokenizer, sequences):
        pipe = PromoterExpressionPipeline(model, tiny_tokenizer, device="cpu")
        values = [result["LABEL_0"]["value"] for result in pipe(sequences)]
        np.testing.assert_allclose(values, predict(model, tiny_tokenizer, sequences)[:, 0], rtol=1e-5)


def test_a_compiled_model_predicts_the_same(model, tiny_tokenizer, sequences):
    compiled = torch.compile(model.train(), backend="aot_eager")
    predicted = predict(compiled, tiny_tokenizer, sequences[:12])
    np.testing.assert_allclose(predicted, predict(model, tiny_tokenizer, sequences[:12]), atol=1e-5)
    assert compiled.training and model.training


def test_a_file_is_predicted_row_by_row(model, tiny_tokenizer, tmp_path):
    path = tmp_path / "in.tsv"
    path.write_text("dna\tid\n" + "".join(f"{'ACGT' * (row % 3 + 1)}\t{row}\n" for row in range(7)))
    batches = list(predict_file(model, tiny_tokenizer, path, sequence="dna", batch_size=3))
    assert [[row.cells["id"] for row in rows] for rows, _ in batches] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    expected = predict(model, tiny_tokenizer, [row.cells["dna"] for rows, _ in batches for row in rows])
    np.testing.assert_allclose(np.concatenate([values for _, values in batches]), expected, rtol=1e-4)

    path.write_text(path.read_text() + "ACXT\t7\n")
    # All rows are checked before the first is predicted.
    with pytest.raises(InputError, match=r"in\.tsv, line 9, column 'dna': 'X' at position 3"):
        next(predict_file(model, tiny_tokenizer, path, sequence="dna", batch_size=3))


def test_one_string_is_not_read_as_many_sequences(model, tiny_tokenizer):
    with pytest.raises(TypeError, match="put it in a list"):
        predict(model, tiny_tokenizer, "ACGT")


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_is_not_empty(model, tiny_tokenizer, batch_size):
    with pytest.raises(ValueError, match=f"at least 1, got {batch_size}"):
        predict(model, tiny_tokenizer, ["ACGT"], batch_size=batch_size)


@pytest.mark.parametrize("model_class", [ProformerForPreTraining, ProformerForSequenceClassification])
def test_a_saved_model_predicts_the_same(tiny_config, tiny_tokenizer, sequences, tmp_path, model_class):
    tiny_config.hidden_dropout = 0.5
    model = model_class(tiny_config)
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    loaded, tokenizer = load_checkpoint(tmp_path)
    assert not loaded.training
    assert tokenizer.insert_width == 12
    expected = predict(model, tiny_tokenizer, sequences)
    np.testing.assert_array_equal(predict(loaded, tokenizer, sequences), expected)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers': .*smaller or equal to 1000, got 1000000000"),
        ({"head_dim": 10**9}, "`head_dim` must be at least 1 and at most 1,000,000"),
    ],
)
def test_the_error_names_what_is_wrong_with_a_configuration(tiny_config, tiny_tokenizer, tmp_path, fields, reason):
    tiny_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config.to_dict() | fields))
    with pytest.raises(InputError, match=f"^{tmp_path}: no readable Proformer checkpoint \\(.*{reason}") as error:
        load_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_does_not_exist_is_not_found(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for source in (tmp_path / "none", "nobody/nothing"):
        with pytest.raises(FileNotFoundError, match=f"^{source}: this is neither a folder nor a repository") as error:
            load_checkpoint(source)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=f"^{tmp_path}: no readable Proformer checkpoint"):
        load_checkpoint(tmp_path)
