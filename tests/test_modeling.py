"""Tests of the configuration and the four model classes."""

import copy
import json
import math
import os
import re
import time

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from tiny import with_fields
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining
from transformers import AutoModelForSequenceClassification as AutoModelForExpression
from transformers.utils import ModelOutput

from modeling_proformer import (
    ProformerConfig,
    ProformerForMaskedLM,
    ProformerForPreTraining,
    ProformerForSequenceClassification,
    ProformerModel,
    ProformerTokenizer,
)
from modeling_proformer.modeling_proformer import DepthwiseConvolution, construct_of


CLASSES = [ProformerModel, ProformerForSequenceClassification, ProformerForPreTraining, ProformerForMaskedLM]
HEADS = CLASSES[1:]


class TestConfiguration:
    def test_defaults_are_the_published_model(self):
        config = ProformerConfig()
        assert (config.kmer_size, config.kmer_stride, config.max_position_embeddings) == (10, 1, 200)
        assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (512, 4, 8)
        assert (config.head_dim, config.intermediate_size, config.conv_kernel_size) == (512, 1024, 15)
        assert (config.num_expression_tokens, config.alphabet_size, config.hidden_dropout) == (32, 6, 0.0)
        assert (config.num_labels, config.problem_type, config.vocab_size) == (1, "regression", 7**10)

    @pytest.mark.parametrize(
        "field",
        [
            {"hidden_size": "512"},
            {"hidden_size": 0},
            {"kmer_size": 23},
            {"kmer_stride": 0},
            {"alphabet_size": 4},
            {"max_position_embeddings": 0},
            {"num_hidden_layers": 0},
            {"num_attention_heads": 0},
            {"head_dim": 1.5},
            {"conv_kernel_size": -1},
            {"hidden_dropout": 1.5},
            {"layer_norm_eps": "1e-6"},
            {"label_mean": "9"},
            {"problem_type": "ranking"},
            {"pad_token_id": "0"},
            {"tie_word_embeddings": True},
        ],
        ids=str,
    )
    def test_each_field_is_validated(self, field):
        with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(field))):
            ProformerConfig(**field)
        config = ProformerConfig()
        with pytest.raises(StrictDataclassFieldValidationError):
            setattr(config, *next(iter(field.items())))

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"head_dim": 0}, "`head_dim` must be at least 1"),
            ({"intermediate_size": 0}, "`intermediate_size` must be at least 1"),
            ({"layer_norm_eps": 0.0}, "`layer_norm_eps` must be positive"),
            ({"num_expression_tokens": -1}, "`num_expression_tokens` must be at least 0"),
            ({"label_mean": [1.0, 2.0]}, "`label_mean` has 2 values for 1 outputs"),
            ({"label_std": [0.0]}, "`label_std` must be positive"),
            ({"label_mean": [math.nan]}, "`label_mean` must be finite"),
            ({"label_std": [1.0], "problem_type": "multi_label_classification"}, "`label_std` is for regression"),
            ({"expression_bins": [3.0]}, "`expression_bins` must be two or more, ascending and evenly spaced"),
            ({"expression_bins": [0, 1, 3]}, "`expression_bins` must be two or more, ascending and evenly spaced"),
            ({"expression_bins": [1, 0]}, "`expression_bins` must be two or more, ascending and evenly spaced"),
            ({"expression_bins": [0, 1], "label_std": [1.0]}, "leave out `label_mean`, `label_std` and"),
            ({"expression_bins": [0, 1], "label_transform": "log"}, "leave out `label_mean`, `label_std` and"),
            (
                {"label_transform": "log", "problem_type": "multi_label_classification"},
                "`label_transform` is for regression",
            ),
            ({"construct": {"insert_width": 12}}, "`construct` must have insert_width, five_prime_flank,"),
            ({"interval_half_widths": {"90": [1.0]}}, "levels between 0 and 1, got '90'"),
            ({"interval_half_widths": {"0.9": [1.0, 2.0]}}, "one positive number for each of 1 outputs"),
            ({"interval_half_widths": {"0.9": [-1.0]}}, "one positive number for each of 1 outputs"),
            (
                {"expression_bins": [0, 1], "problem_type": "multi_label_classification"},
                "`expression_bins` is for regression",
            ),
        ],
    )
    def test_contradictions_are_refused(self, fields, reason):
        with pytest.raises(StrictDataclassClassValidationError) as error:
            ProformerConfig(**fields)
        assert reason in str(error.value.__cause__ or error.value)

    @pytest.mark.parametrize(
        ("field", "value", "reason"),
        [
            ("num_hidden_layers", 10**9, "num_hidden_layers.*1000"),
            ("hidden_size", 10**9, "hidden_size.*1000000"),
            ("num_expression_tokens", 10**9, "at most 1,000,000, got 1000000000"),
            ("head_dim", 10**9, "at most 1,000,000, got 1000000000"),
            ("num_labels", 10**9, "`num_labels` is 1,000,000,000, but at most 100,000 are possible"),
            ("expression_bins", list(range(200_000)), "`expression_bins` has 200,000 entries, but at most 10,000"),
            (
                "interval_half_widths",
                {f"0.{number}": [1.0] for number in range(200_000)},
                "`interval_half_widths` has 200,000 entries, but at most 1,000",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) and " " not in value else "",
    )
    def test_sizes_beyond_any_model_are_refused_at_once(self, tmp_path, tiny_config, field, value, reason):
        """Building such a model computed for over 100 seconds, or until the memory was full."""
        tiny_config.save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        saved = json.loads(path.read_text())
        if field == "num_labels":
            del saved["id2label"], saved["label2id"]
        path.write_text(json.dumps(saved | {field: value}))
        started = time.perf_counter()
        with pytest.raises(
            (ValueError, StrictDataclassFieldValidationError, StrictDataclassClassValidationError)
        ) as error:
            AutoConfig.from_pretrained(tmp_path)
        assert time.perf_counter() - started < 5
        assert re.search(reason, " ".join(f"{error.value} {error.value.__cause__}".split()))

    def test_a_saved_configuration_loads_unchanged(self, tmp_path, tiny_config):
        config = with_fields(tiny_config, num_labels=2, label_mean=[9, 1], label_std=[4, 2.5])
        config.save_pretrained(tmp_path)
        loaded = AutoConfig.from_pretrained(tmp_path)
        assert isinstance(loaded, ProformerConfig)
        assert loaded.num_labels == 2  # the library's default, which the library does not save
        assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()

    def test_another_number_of_outputs_drops_the_label_scale(self, tmp_path, tiny_config):
        with_fields(
            tiny_config, label_mean=[9.0], label_std=[4.0], interval_half_widths={"0.9": [1.5]}
        ).save_pretrained(tmp_path)
        assert ProformerConfig.from_pretrained(tmp_path, num_labels=3).label_mean is None
        assert ProformerConfig.from_pretrained(tmp_path, num_labels=3).interval_half_widths is None
        assert ProformerConfig.from_pretrained(tmp_path, num_labels=1).label_mean == [9.0]
        classes = ProformerConfig.from_pretrained(tmp_path, problem_type="multi_label_classification")
        assert classes.label_mean is None and classes.label_std is None
        config = ProformerConfig.from_pretrained(tmp_path)
        config.num_labels = 3
        with pytest.raises(ValueError, match="`label_mean` has 1 values for 3 outputs"):
            ProformerForSequenceClassification(config)


class TestForward:
    def test_shapes(self, tiny_config, batch):
        config = with_fields(tiny_config, num_labels=2)
        assert ProformerModel(config)(**batch).last_hidden_state.shape == (3, 4 + 24, 16)
        outputs = ProformerForPreTraining(config)(**batch, output_hidden_states=True)
        assert outputs.loss is None
        assert outputs.logits.shape == (3, 2)
        assert outputs.position_logits.shape == (3, 4, 2)
        assert outputs.nucleotide_logits.shape == (3, 24, 6)
        assert len(outputs.hidden_states) == 3
        torch.testing.assert_close(outputs.position_logits.mean(dim=1), outputs.logits)
        assert ProformerForMaskedLM(config)(**batch).logits.shape == (3, 24, 6)

    def test_without_expression_tokens_the_mean_over_kmers_predicts(self, tiny_config, batch):
        """Padding is not a k-mer, so it changes nothing."""
        model = ProformerForPreTraining(with_fields(tiny_config, num_expression_tokens=0)).eval()
        assert not any("expression_projection" in name for name, _ in model.named_parameters())
        outputs = model(**batch)
        assert outputs.position_logits.shape == (3, 24, 1)
        assert outputs.nucleotide_logits.shape == (3, 24, 6)
        torch.testing.assert_close(outputs.position_logits.mean(dim=1), outputs.logits)
        short = {name: values[:, :10] for name, values in batch.items()}
        mask = (torch.arange(24) < 10).long().expand(3, 24)
        padded = {**batch, "input_ids": batch["input_ids"] * mask, "attention_mask": mask}
        torch.testing.assert_close(model(**padded).logits, model(**short).logits)

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_expression_needs_only_its_tokens_of_the_last_block(self, tiny_config, batch, attention):
        model = ProformerForSequenceClassification(tiny_config).eval()
        model.set_attn_implementation(attention)
        computed = []
        model.proformer.layers[-1].feed_forward2.register_forward_hook(
            lambda module, inputs, output: computed.append(output.shape)
        )
        padded = {"attention_mask": (torch.arange(24) < torch.tensor([[24], [20], [9]])).long()}
        for inputs in (batch, batch | padded):
            whole, part = model(**inputs, output_hidden_states=True), model(**inputs)
            assert [states.shape for states in whole.hidden_states] == [(3, 28, 16)] * 3
            torch.testing.assert_close(part.position_logits, whole.position_logits)
            encoded = model.proformer(**inputs, expression_tokens_only=True).last_hidden_state
            torch.testing.assert_close(encoded, whole.hidden_states[-1][:, :4])
        assert computed == [(3, 28, 16), (3, 4, 16), (3, 4, 16)] * 2

    @pytest.mark.parametrize("kernel_size", [1, 4, 15])
    def test_a_depthwise_convolution_is_conv1d(self, kernel_size):
        arguments = {"padding": "same", "groups": 6, "bias": False}
        ours, plain = (made(6, 6, kernel_size, **arguments) for made in (DepthwiseConvolution, torch.nn.Conv1d))
        plain.load_state_dict(ours.state_dict())
        for inputs in (torch.randn(2, 20, 6).transpose(1, 2), torch.randn(2, 6, 20)):
            for convolve in (ours, plain):
                convolve(inputs).square().sum().backward()
            expected = plain(inputs)
            torch.testing.assert_close(ours(inputs), expected)
            torch.testing.assert_close(ours.weight.grad, plain.weight.grad)
            # oneDNN's convolution of so few channels in bfloat16 does not end where AVX-512 has bfloat16.
            with torch.autocast("cpu", torch.bfloat16):
                torch.testing.assert_close(ours(inputs), expected)
            found = copy.deepcopy(ours).bfloat16()(inputs.bfloat16())
            torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)

    def test_attention_weights_are_returned_by_eager_attention(self, tiny_config, batch):
        model = ProformerForSequenceClassification(tiny_config)
        assert model.config._attn_implementation == "sdpa"
        expected = model(**batch).logits
        model.set_attn_implementation("eager")
        outputs = model(**batch, output_attentions=True)
        assert [weights.shape for weights in outputs.attentions] == [(3, 2, 28, 28)] * 2
        torch.testing.assert_close(outputs.attentions[0].sum(dim=-1), torch.ones(3, 2, 28))
        torch.testing.assert_close(outputs.logits, expected)

    def test_strands_default_to_halves(self, tiny_config, batch):
        model = ProformerModel(tiny_config).eval()
        torch.testing.assert_close(
            model(**batch).last_hidden_state, model(input_ids=batch["input_ids"]).last_hidden_state
        )
        swapped = model(input_ids=batch["input_ids"], token_type_ids=1 - batch["token_type_ids"])
        assert not torch.allclose(swapped.last_hidden_state, model(**batch).last_hidden_state)

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_padding_changes_nothing(self, tiny_config, tiny_tokenizer, attention):
        """In a batch padded by the library, each sequence has the outputs that it has alone."""
        config = with_fields(tiny_config, max_position_embeddings=30)
        model = ProformerForPreTraining(config).eval()
        model.set_attn_implementation(attention)
        alone = tiny_tokenizer(["ACGTACGTAC"], return_tensors="pt")
        padded = tiny_tokenizer.pad(
            tiny_tokenizer(["ACGTACGTAC"]), padding="max_length", max_length=30, return_tensors="pt"
        )
        assert padded["input_ids"].shape == (1, 30)
        expected, found = model(**alone), model(**padded)
        torch.testing.assert_close(found.logits, expected.logits)
        torch.testing.assert_close(found.nucleotide_logits[:, :24], expected.nucleotide_logits)
        unmasked = model(padded["input_ids"], padded["token_type_ids"])
        assert not torch.allclose(unmasked.logits, expected.logits)

    @pytest.mark.parametrize("model_class", HEADS)
    def test_tuples_have_the_same_values(self, tiny_config, batch, model_class):
        """With `return_dict=False` in the configuration, every head failed."""
        model = model_class(tiny_config).eval()
        expected = model(**batch, output_hidden_states=True)
        assert isinstance(expected, ModelOutput)
        model.config.return_dict = False
        found = model(**batch, output_hidden_states=True)
        assert type(found) is tuple
        torch.testing.assert_close(found, expected.to_tuple())
        torch.testing.assert_close(model(**batch, return_dict=True).logits, expected.logits)
        # After training in bfloat16, accelerate leaves a model without the decorators of its `forward`.
        model.forward = model_class.forward.__wrapped__.__get__(model)
        torch.testing.assert_close(model(**batch, return_dict=True).logits, expected.logits)

    def test_more_kmers_than_positions_are_refused(self, tiny_config):
        with pytest.raises(ValueError, match="25 k-mers, but the model has 24 positions"):
            ProformerModel(tiny_config)(torch.zeros(1, 25, dtype=torch.long))

    def test_fewer_kmers_than_the_construct_has_are_refused(self, tiny_config, tiny_tokenizer, batch):
        """100 of the embedded model's 168 k-mers gave 1.88 instead of 1.57."""
        config = with_fields(tiny_config, construct=construct_of(tiny_tokenizer))
        model = ProformerForSequenceClassification(config).eval()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits)
        fewer = {name: values[:, :20] for name, values in batch.items()}
        with pytest.raises(ValueError, match="20 k-mers, but the model has 24 positions"):
            model(**fewer)
        # The other positions may never have been trained.
        model.config.construct = None
        model(**fewer)

    def test_label_scale_gives_assay_units(self, tiny_config, batch):
        model = ProformerForSequenceClassification(tiny_config).eval()
        standardised = model(**batch).logits
        model.config.label_mean, model.config.label_std = [9.0], [4.0]
        labels = torch.tensor([[3.0], [10.0], [12.0]])
        outputs = model(**batch, labels=labels)
        torch.testing.assert_close(outputs.logits, standardised * 4 + 9)
        torch.testing.assert_close(outputs.position_logits.mean(dim=1), outputs.logits)
        torch.testing.assert_close(outputs.loss, ((standardised - (labels - 9) / 4) ** 2).mean())
        halved = model.to(torch.bfloat16)(**batch).logits
        assert halved.dtype == torch.float32
        torch.testing.assert_close(halved, outputs.logits, atol=0.2, rtol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.bool])
    def test_ids_that_are_not_integers_are_refused(self, tiny_config, batch, dtype):
        """In float32, ids of 10-mers are rounded: 12.68 became 11.03."""
        with pytest.raises(TypeError, match=f"`input_ids` must be integers, got {dtype}"):
            ProformerModel(tiny_config)(batch["input_ids"].to(dtype))

    @pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16])
    @pytest.mark.parametrize("wrong", [-1, -343, 7**3, 2**15 - 1])
    def test_numbers_that_are_no_kmers_are_refused(self, tiny_config, batch, wrong, dtype):
        """They were computed with, as the k-mer of their last digits."""
        model = ProformerModel(tiny_config).eval()
        ids = batch["input_ids"].clamp(max=7**3 - 1).to(dtype)
        ids[0, :2] = torch.tensor([0, 7**3 - 1])
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        expected = model(ids).last_hidden_state
        torch.testing.assert_close(compiled(ids).last_hidden_state, expected)
        ids[2, 5] = wrong
        with pytest.raises(ValueError, match="not the id of a 3-mer: ids go from 0 to 342"):
            model(ids)
        with pytest.raises(RuntimeError, match="not the id of a 3-mer"):
            compiled(ids)

    def test_ids_of_the_largest_kmers_are_read(self, tiny_config):
        model = ProformerModel(with_fields(tiny_config, kmer_size=22))
        model(torch.tensor([[0, 7**22 - 1]]))
        with pytest.raises(ValueError, match="not the id of a 22-mer"):
            model(torch.tensor([[0, 7**22]]))

    @pytest.mark.parametrize("model_class", HEADS)
    def test_compiles_without_graph_breaks(self, tiny_config, batch, model_class):
        model = model_class(with_fields(tiny_config, label_mean=[9.0], label_std=[4.0])).eval()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits)

    def test_compiled_training_step(self, tiny_config, batch):
        model = ProformerForPreTraining(tiny_config)
        targets = torch.full_like(batch["input_ids"], -100)
        targets[:, ::5] = 2
        labels = torch.tensor([1.0, float("nan"), 3.0])
        inputs = {**batch, "labels": labels, "masked_nucleotides": targets}
        model(**inputs).loss.backward()
        expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        model.zero_grad()
        torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs).loss.backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], msg=name)

    def test_activation_checkpointing_gives_the_same_gradients(self, tiny_config, batch):
        model = ProformerForSequenceClassification(tiny_config).train()
        labels = torch.tensor([1.0, 2.0, 3.0])
        model(**batch, labels=labels).loss.backward()
        expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        model.zero_grad()
        model.gradient_checkpointing_enable()
        calls = 0

        def count(*_):
            nonlocal calls
            calls += 1

        model.proformer.layers[0].feed_forward1.register_forward_hook(count)
        model(**batch, labels=labels).loss.backward()
        assert calls == 2  # once forward, once again for the gradient
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], msg=name)

    def test_dropout_acts_in_training_only(self, tiny_config, batch):
        model = ProformerForSequenceClassification(with_fields(tiny_config, hidden_dropout=0.5))
        model.eval()
        torch.testing.assert_close(model(**batch).logits, model(**batch).logits)
        model.train()
        assert not torch.allclose(model(**batch).logits, model(**batch).logits)


class TestInitialisation:
    def test_scales_are_those_of_keras(self):
        """The limits are those of the reference, section 2, at width 512: a wrong fan shows as a factor."""
        torch.manual_seed(0)
        model = ProformerForPreTraining(ProformerConfig(num_hidden_layers=1))
        limits = {
            "self_attn.q_proj": 0.00475,
            "self_attn.k_proj": 0.00475,
            "self_attn.v_proj": 0.00475,
            "self_attn.o_proj": 0.0271,
            "convolution.depthwise": 0.0279,
            "convolution.pointwise": 0.0765,
            "feed_forward1.dense_in": 0.0484,
            "feed_forward2.dense_out": 0.0625,
            "kmer_projection": 0.1024,
            "expression_head.dense": 0.1081,
            "nucleotide_head": 0.1076,
            "expression_projection": 0.1081,
            "position_embeddings": 0.05,
            "strand_embeddings": 0.05,
        }
        weights = {name: parameter for name, parameter in model.named_parameters() if name.endswith("weight")}
        for part, limit in limits.items():
            (weight,) = [weight for name, weight in weights.items() if part in name]
            assert float(weight.detach().abs().max()) == pytest.approx(limit, rel=0.03), part
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any(), name
            if "layer_norm.weight" in name:
                assert (parameter == 1).all(), name


class TestCheckpoints:
    @pytest.mark.parametrize("saved_class", CLASSES)
    def test_one_checkpoint_loads_into_all_classes(self, tmp_path, tiny_config, batch, saved_class):
        saved = saved_class(tiny_config).eval()
        saved.save_pretrained(tmp_path)
        expected = saved(**batch, output_hidden_states=True).hidden_states[-1]
        automatic = [AutoModel, AutoModelForExpression, AutoModelForPreTraining, AutoModelForMaskedLM]
        for auto_class, model_class in zip(automatic, CLASSES, strict=True):
            model, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
            assert type(model) is model_class
            found = model(**batch, output_hidden_states=True).hidden_states[-1]
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
            heads = {name for name, _ in model.named_parameters() if "head" in name}
            assert report["missing_keys"] == heads - {name for name, _ in saved.named_parameters()}

    @pytest.mark.parametrize("max_shard_size", ["1GB", "20kB"])
    def test_who_may_read_a_saved_folder_may_read_its_weights(self, tmp_path, tiny_config, max_shard_size):
        """Only the owner could, whatever the umask."""
        umask = os.umask(0o027)
        try:
            ProformerModel(tiny_config).save_pretrained(tmp_path / "saved", max_shard_size=max_shard_size)
        finally:
            os.umask(umask)
        # Files of code keep the permissions that they have here.
        modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "saved").glob("model*safetensors*")]
        assert len(modes) >= 1
        assert set(modes) == {0o640}

    @pytest.mark.parametrize("model_class", [ProformerForSequenceClassification, ProformerForPreTraining])
    def test_another_number_of_outputs(self, tmp_path, tiny_config, batch, model_class):
        config = with_fields(tiny_config, label_mean=[9.0], label_std=[4.0])
        saved = ProformerForPreTraining(config)
        saved.save_pretrained(tmp_path)
        model = model_class.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
        assert model(**batch).logits.shape == (3, 3)
        torch.testing.assert_close(
            model.proformer.layers[1].self_attn.q_proj.weight, saved.proformer.layers[1].self_attn.q_proj.weight
        )

    def test_bfloat16_checkpoint_predicts_in_float32(self, tmp_path, tiny_config, batch):
        config = with_fields(tiny_config, label_mean=[9.0], label_std=[4.0])
        ProformerForSequenceClassification(config).save_pretrained(tmp_path)
        model = ProformerForSequenceClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert model.dtype == torch.bfloat16
        assert model(**batch).logits.dtype == torch.float32


class TestPositions:
    """`resize_position_embeddings` interpolates the positions of each strand."""

    @pytest.mark.parametrize("model_class", CLASSES)
    def test_a_resized_model_reads_longer_constructs_and_is_saved_and_loaded(
        self, tmp_path, tiny_config, tiny_tokenizer, model_class
    ):
        model = model_class(with_fields(tiny_config, construct=construct_of(tiny_tokenizer))).eval()
        positions = model.get_position_embeddings()
        old = positions.weight.detach().clone()
        model.resize_position_embeddings(72)
        assert model.get_position_embeddings() is positions
        assert model.config.max_position_embeddings == model.base_model.config.max_position_embeddings == 72
        assert model.config.construct is None
        # There are three positions for each old one: the middle one of them is the old one.
        torch.testing.assert_close(positions.weight[1::3], old)
        for strand in (0, 12):
            torch.testing.assert_close(positions.weight[3 * strand + 2], (2 * old[strand] + old[strand + 1]) / 3)
        torch.testing.assert_close(positions.weight[[0, 35, 36, 71]], old[[0, 11, 12, 23]])

        batch = ProformerTokenizer(kmer_size=3, insert_width=36)(["ACGTACGTAC" * 3], return_tensors="pt")
        expected = model(**batch)[0]
        model.save_pretrained(tmp_path)
        loaded = model_class.from_pretrained(tmp_path)
        assert loaded.config.max_position_embeddings == 72
        torch.testing.assert_close(loaded(**batch)[0], expected, rtol=0, atol=0)

    def test_the_same_number_changes_nothing(self, tiny_config, batch):
        model = ProformerForSequenceClassification(tiny_config).eval()
        expected = model(**batch).logits
        model.resize_position_embeddings(24)
        torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=0)

    def test_the_forward_strand_alone(self, tmp_path, tiny_config):
        models = [ProformerModel(tiny_config)]
        models.append(copy.deepcopy(models[0]))
        models[0].resize_position_embeddings(72)
        models[1].resize_position_embeddings(36, new_num_strands=1)
        both, forward = (model.get_position_embeddings().weight for model in models)
        torch.testing.assert_close(forward, both[:36], rtol=0, atol=0)
        # From here on, there is one strand to resize.
        models[1].resize_position_embeddings(12, num_strands=1)
        torch.testing.assert_close(models[1].get_position_embeddings().weight, forward[1::3])
        models[1].save_pretrained(tmp_path)

    def test_positions_that_no_token_uses_are_dropped(self, tiny_config):
        model = ProformerModel(with_fields(tiny_config, max_position_embeddings=30))
        old = model.get_position_embeddings().weight.detach().clone()
        model.resize_position_embeddings(72, num_position_embeddings=24)
        torch.testing.assert_close(model.get_position_embeddings().weight[1::3], old[:24])

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_dtype_device_and_whether_it_is_trained_stay(self, tiny_config, dtype):
        model = ProformerModel(tiny_config).to(dtype)
        model.get_position_embeddings().weight.requires_grad = False
        model.resize_position_embeddings(12)
        weight = model.get_position_embeddings().weight
        assert (weight.dtype, weight.device, weight.requires_grad) == (dtype, model.device, False)

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ({"new_num_position_embeddings": 0}, "`new_num_position_embeddings` must be a positive multiple of the 2"),
            ({"new_num_position_embeddings": 25}, "must be a positive multiple of the 2 strands, got 25"),
            ({"new_num_position_embeddings": 24, "num_position_embeddings": 26}, "but the model has only 24"),
            ({"new_num_position_embeddings": 24, "num_position_embeddings": 23}, "`num_position_embeddings` must be"),
            ({"new_num_position_embeddings": 24, "num_strands": 1, "new_num_strands": 2}, "must be 1 to 1"),
        ],
    )
    def test_what_cannot_be_resized_is_refused(self, tiny_config, arguments, reason):
        model = ProformerModel(tiny_config)
        before = model.get_position_embeddings().weight
        with pytest.raises(ValueError, match=reason):
            model.resize_position_embeddings(**arguments)
        assert model.get_position_embeddings().weight is before
        assert model.config.max_position_embeddings == 24
