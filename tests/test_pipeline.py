"""Tests of the pipeline `promoter-expression`: results, errors, and that it travels with a checkpoint."""

import doctest
import inspect
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh_process import make_python_without_package, run
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_proformer import (
    InvalidSequenceError,
    ProformerConfig,
    ProformerForMaskedLM,
    ProformerForPreTraining,
    ProformerForSequenceClassification,
    ProformerTokenizer,
    PromoterExpressionPipeline,
    checkpoint_path,
    pipeline_proformer,
    predict,
    saturation_mutagenesis,
)
from modeling_proformer.intervals import prediction_interval


SEQUENCES = ["ACGTTGCAAGCT", "ttgacanu", "TGCAGGATATTC", "A", "GGGGCCCC"]
# The configuration of the outputs of each assay.
ASSAYS = {
    "one output": {"label_mean": [7.0], "label_std": [2.0]},
    "three outputs": {
        "id2label": {0: "leaf", 1: "root", 2: "stem"},
        "label_mean": [0.0, 1, 2],
        "label_std": [1.0] * 3,
    },
    "logarithms": {
        "id2label": {0: "liver", 1: "blood"},
        "label_transform": "log",
        "interval_half_widths": {"0.5": [0.1, 0.2], "0.9": [0.5, 1.5], "0.95": [0.7, 2.5]},
    },
    "bins": {"expression_bins": [0, 1, 2, 3], "interval_half_widths": {"0.8": [1.0], "0.5": [0.25]}},
    "classes of their own": {"id2label": {0: "active", 1: "silent"}, "problem_type": "multi_label_classification"},
    "exclusive classes": {"num_labels": 3, "problem_type": "single_label_classification"},
}
# The level of the intervals by default.
LEVELS = {"logarithms": 0.9, "bins": 0.8}


def model_of(assay: str, model_class=ProformerForSequenceClassification):
    torch.manual_seed(0)
    model = model_class(ProformerConfig(**TINY, **ASSAYS[assay]))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def pipeline_of(assay: str, **options) -> PromoterExpressionPipeline:
    tokenizer = ProformerTokenizer(kmer_size=3, insert_width=12)
    return PromoterExpressionPipeline(model_of(assay), tokenizer, device="cpu", **options)


@pytest.fixture(scope="module")
def pipe() -> PromoterExpressionPipeline:
    return pipeline_of("logarithms")


def values(results: list[dict], kind: str = "value") -> np.ndarray:
    return np.array([[output[kind] for output in result.values()] for result in results])


def taken_from(taken: list) -> Iterator[str]:
    """Yield sequences without end, and append each to the list."""
    for sequence in itertools.cycle(SEQUENCES):
        taken.append(sequence)
        yield sequence


class TestResults:
    @pytest.mark.parametrize("assay", ASSAYS)
    def test_they_are_predictions_by_the_outputs_names(self, assay):
        pipe = pipeline_of(assay)
        config = pipe.model.config
        results = pipe(SEQUENCES)
        predicted = predict(pipe.model, pipe.tokenizer, SEQUENCES)
        np.testing.assert_allclose(values(results), predicted, rtol=0, atol=1e-6)
        assert len(np.unique(predicted)) == predicted.size
        if assay in LEVELS:
            ends = prediction_interval(predicted, config, LEVELS[assay])
            for kind, end in zip(("low", "high"), ends, strict=True):
                np.testing.assert_allclose(values(results, kind), end, rtol=1e-6)
        for result in results:
            assert list(result) == list(config.id2label.values())
            for output in result.values():
                assert list(output) == (["value", "low", "high"] if assay in LEVELS else ["value"])
                assert {type(number) for number in output.values()} == {float}

    def test_those_of_exclusive_classes_add_up_to_one(self):
        results = pipeline_of("exclusive classes")(SEQUENCES)
        np.testing.assert_allclose(values(results).sum(axis=1), 1, rtol=1e-6)

    @settings(max_examples=25)
    @given(sequences=st.lists(st.text("ACGTNacgtu", min_size=1, max_size=12)), batch_size=st.integers(1, 9))
    def test_they_do_not_depend_on_how_sequences_are_given(self, pipe, sequences, batch_size):
        results = pipe(sequences, batch_size=batch_size)
        assert list(pipe((sequence for sequence in sequences), batch_size=batch_size)) == results
        one_by_one = [pipe(sequence) for sequence in sequences]
        assert [result.keys() for result in one_by_one] == [result.keys() for result in results]
        if sequences:
            np.testing.assert_allclose(values(results), predict(pipe.model, pipe.tokenizer, sequences), rtol=1e-5)
            for kind in ("value", "low", "high"):
                np.testing.assert_allclose(values(one_by_one, kind), values(results, kind), rtol=1e-5)

    def test_a_model_in_training_mode_predicts_without_dropout(self):
        model = model_of("one output")
        tokenizer = ProformerTokenizer(kmer_size=3, insert_width=12)
        expected = predict(model, tokenizer, SEQUENCES)
        dropping = ProformerForSequenceClassification(
            ProformerConfig(**model.config.to_dict() | {"hidden_dropout": 0.5})
        )
        dropping.load_state_dict(model.state_dict())
        results = PromoterExpressionPipeline(dropping.train(), tokenizer, device="cpu")(SEQUENCES)
        np.testing.assert_allclose(values(results), expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_weights_of_a_shorter_type_give_nearly_the_same(self, dtype):
        results, exact = pipeline_of("one output"), pipeline_of("one output")(SEQUENCES)
        results.model.to(dtype)
        np.testing.assert_allclose(values(results(SEQUENCES)), values(exact), atol=0.05 * np.ptp(values(exact)))
        assert values(results(SEQUENCES)).tolist() != values(exact).tolist()

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
    def test_on_a_gpu_they_are_the_same(self):
        tokenizer = ProformerTokenizer(kmer_size=3, insert_width=12)
        results = PromoterExpressionPipeline(model_of("logarithms"), tokenizer, device="cuda")(SEQUENCES)
        np.testing.assert_allclose(values(results), values(pipeline_of("logarithms")(SEQUENCES)), rtol=1e-4)

    def test_a_model_of_the_published_objective_serves(self):
        model = model_of("three outputs", ProformerForPreTraining)
        tokenizer = ProformerTokenizer(kmer_size=3, insert_width=12)
        results = PromoterExpressionPipeline(model, tokenizer, device="cpu")(SEQUENCES)
        np.testing.assert_allclose(values(results), predict(model, tokenizer, SEQUENCES), rtol=0, atol=1e-6)


class TestInput:
    def test_several_in_a_tuple_an_array_or_a_column_are_a_list(self, pipe):
        expected = pipe(SEQUENCES)
        assert pipe(tuple(SEQUENCES)) == pipe(np.array(SEQUENCES)) == expected
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
        table = datasets.Dataset.from_dict({"sequence": SEQUENCES, "name": list("abcde")})
        assert pipe(table["sequence"]) == expected
        streamed = pipe(KeyDataset(table, "sequence"), batch_size=5)
        assert next(streamed) == expected[0]
        assert list(streamed) == expected[1:]

    def test_a_torch_dataset_ends_where_its_length_says(self, pipe):
        """Iteration by `__getitem__` alone went on without end, because the dataset raises no IndexError."""

        class Repeated(Dataset):
            def __len__(self):
                return 7

            def __getitem__(self, row):
                return SEQUENCES[row % 5]

        results = list(pipe(Repeated(), batch_size=3, num_workers=0))
        assert len(results) == 7
        np.testing.assert_allclose(values(results), values(pipe(SEQUENCES + SEQUENCES[:2])), rtol=1e-5)
        with pytest.raises(TypeError, match=r"has no len\(\)"):
            pipe(Dataset())

    def test_no_sequences_give_no_results(self, pipe):
        assert pipe([]) == []
        assert list(pipe(iter([]))) == []

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_a_generator_is_read_one_batch_at_a_time(self, pipe, batch_size):
        taken = []
        results = pipe(taken_from(taken), batch_size=batch_size)
        assert taken == []
        expected = pipe(SEQUENCES)
        for number, result in enumerate(itertools.islice(results, 7)):
            assert len(taken) == (number // batch_size + 1) * batch_size
            np.testing.assert_allclose(values([result]), values([expected[number % 5]]), rtol=1e-5)

    def test_the_batch_size_of_the_pipeline_is_that_of_its_calls(self):
        taken = []
        next(pipeline_of("one output", batch_size=4)(taken_from(taken)))
        assert len(taken) == 4

    @pytest.mark.parametrize("batch_size", [0, -1])
    def test_a_batch_is_not_empty(self, pipe, batch_size):
        with pytest.raises(ValueError, match=f"`batch_size` must be at least 1, got {batch_size}"):
            pipe(SEQUENCES, batch_size=batch_size)

    def test_truncation_cuts_what_does_not_fit(self, pipe):
        long = SEQUENCES[0] + "GATTACA"
        with pytest.raises(InvalidSequenceError, match="its insert has 19 bases, but the construct has room for 12"):
            pipe(long)
        assert pipe(long, truncation=True) == pipe(SEQUENCES[0])
        cutting = pipeline_of("logarithms", truncation=True)
        assert cutting([long]) == pipe(SEQUENCES[:1])
        with pytest.raises(InvalidSequenceError):
            cutting(long, truncation=False)


class TestLevels:
    def test_one_is_chosen_by_call_or_for_all_calls(self, pipe):
        for result in (pipe(SEQUENCES[0], level=0.5), pipeline_of("logarithms", level=0.5)(SEQUENCES[0])):
            for output, half_width in zip(result.values(), [0.1, 0.2], strict=True):
                assert output["high"] / output["value"] == pytest.approx(np.exp(half_width))
                assert output["value"] / output["low"] == pytest.approx(np.exp(half_width))
        wide = pipeline_of("logarithms", level=0.5)(SEQUENCES[0], level=0.9)
        assert wide == pipe(SEQUENCES[0])

    def test_one_that_the_model_does_not_have_is_refused_before_anything_is_computed(self, pipe):
        taken = []
        with pytest.raises(
            ValueError, match=r"no prediction intervals for the level 0\.8, only for 0\.5, 0\.9, 0\.95"
        ):
            pipe(taken_from(taken), level=0.8)
        assert taken == []
        with pytest.raises(ValueError, match=r"no prediction intervals for the level 0\.8"):
            pipeline_of("logarithms", level=0.8)
        with pytest.raises(ValueError, match="has no prediction intervals"):
            pipeline_of("one output")(SEQUENCES, level=0.9)


class TestRefusals:
    @pytest.mark.parametrize("row", [0, 3, 4, 9])
    @pytest.mark.parametrize("as_given", [list, iter])
    @pytest.mark.parametrize(
        ("sequence", "error", "complaint"),
        [
            ("ACXT", InvalidSequenceError, "'X' at position 3"),
            ("", InvalidSequenceError, "empty"),
            ("A" * 13, InvalidSequenceError, "13 bases"),
            (None, TypeError, "expected DNA as a string, got NoneType"),
            (["ACGT"], TypeError, "expected DNA as a string, got list"),
        ],
    )
    def test_a_sequence_is_named_by_its_row_in_the_input(self, pipe, row, as_given, sequence, error, complaint):
        sequences = ["ACGT"] * 10
        sequences[row] = sequence
        with pytest.raises(error, match=f"^Sequence {row + 1}: .*{complaint}") as raised:
            list(pipe(as_given(sequences), batch_size=4))
        assert getattr(raised.value, "row", row) == row

    def test_one_string_too(self, pipe):
        with pytest.raises(InvalidSequenceError, match=r"^Sequence 1: 'X' at position 3"):
            pipe("ACXT")

    @pytest.mark.parametrize("sequences", [None, 5, b"ACGT", {"sequence": "ACGT"}])
    def test_anything_but_sequences(self, pipe, sequences):
        with pytest.raises(TypeError, match=f"string, or several in a list, got {type(sequences).__name__}"):
            pipe(sequences)

    def test_results_before_the_bad_sequence_are_not_lost(self, pipe):
        results = pipe(iter([*SEQUENCES, "ACXT"]), batch_size=5)
        assert [next(results) for _ in SEQUENCES] == pipe(SEQUENCES)
        with pytest.raises(InvalidSequenceError, match=r"^Sequence 6: "):
            next(results)

    @pytest.mark.parametrize("other", [{"kmer_size": 4}, {"kmer_stride": 2}, {"insert_width": 13}])
    def test_a_tokenizer_of_another_model(self, pipe, other):
        """Smaller k-mers and longer strides gave values without a sign."""
        tokenizer = ProformerTokenizer(**{"kmer_size": 3, "insert_width": 12} | other)
        for run_model in (
            lambda: PromoterExpressionPipeline(pipe.model, tokenizer),
            lambda: predict(pipe.model, tokenizer, SEQUENCES),
            lambda: next(saturation_mutagenesis(pipe.model, tokenizer, SEQUENCES)),
        ):
            with pytest.raises(ValueError, match="the model reads at most 24 of 3 bases with a stride of 1"):
                run_model()

    def test_a_tokenizer_of_another_construct(self, embedded):
        """Without the flanks, a construct gave 4.80 instead of 3.40; one long strand has as many k-mers as two."""
        model, tokenizer = embedded
        shape = {"insert_width": 84, "five_prime_flank": "TGCATTTTTTTCACATC", "three_prime_flank": "GGTTACGGCTGTT"}
        for other, reason in (
            ({"five_prime_flank": None, "three_prime_flank": ""}, "five_prime_flank '' and the three_prime_flank ''"),
            ({"five_prime_flank": "ACGT"}, "five_prime_flank 'ACGT', but the model was trained with 'TGCATT"),
            ({"insert_width": 168, "strands": "forward"}, "insert_width 168 and the strands 'forward'"),
        ):
            for run_model in (PromoterExpressionPipeline, lambda *both: predict(*both, SEQUENCES)):
                with pytest.raises(ValueError, match=reason):
                    run_model(model, ProformerTokenizer(**shape | other))
        same = ProformerTokenizer(**shape | {"three_prime_flank": "gguuacggcuguu", "missing_flanks": "refuse"})
        np.testing.assert_array_equal(
            predict(model, same, [f"TGCATTTTTTTCACATC{SEQUENCES[0]}GGTTACGGCTGTT"]),
            predict(model, tokenizer, SEQUENCES[:1]),
        )

    def test_a_tokenizer_of_fewer_tokens_is_not_used_without_a_warning(self, pipe, caplog):
        predict(pipe.model, ProformerTokenizer(kmer_size=3, insert_width=9), ["ACGT"])
        warning = "The tokenizer makes 18 k-mers, but the model has 24 positions. Predictions are wrong unless"
        assert warning in caplog.text

    def test_a_model_that_does_not_predict_expression(self):
        model = ProformerForMaskedLM(ProformerConfig(**TINY))
        with pytest.raises(TypeError, match="ProformerForMaskedLM does not predict expression"):
            PromoterExpressionPipeline(model, ProformerTokenizer(kmer_size=3, insert_width=12))


class TestWithThePackage:
    def test_it_opens_by_its_name(self):
        for pipe in (
            pipeline("promoter-expression", model=checkpoint_path(), device="cpu"),
            pipeline("promoter-expression", device="cpu"),
        ):
            assert type(pipe) is PromoterExpressionPipeline
            sequence = "ACGTTGCAGT" * 8
            expected = predict(pipe.model, pipe.tokenizer, [sequence])
            ends = prediction_interval(expected, pipe.model.config, 0.9)
            value, low, high = (pytest.approx(each.item(), abs=1e-6) for each in (expected, *ends))
            assert pipe(sequence) == {"expression": {"value": value, "low": low, "high": high}}

    def test_a_saved_one_opens_without_trust_in_its_code(self, pipe, tmp_path):
        pipe.save_pretrained(tmp_path / "saved")
        opened = pipeline("promoter-expression", model=tmp_path / "saved", device="cpu", level=0.5, batch_size=2)
        assert type(opened) is PromoterExpressionPipeline
        assert opened(SEQUENCES, batch_size=32) == pipe(SEQUENCES, level=0.5)

    def test_a_model_and_a_tokenizer_saved_by_themselves_are_a_saved_pipeline(self, pipe, tmp_path):
        """As `push_to_hub` and the Trainer save them; the pipeline was an unknown task then."""
        pipe.save_pretrained(tmp_path / "saved")
        opened = pipeline("promoter-expression", model=tmp_path / "saved", device="cpu")
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
        for name, model in {"first": pipe.model, "opened": opened.model, "loaded": loaded}.items():
            model.save_pretrained(tmp_path / name)
            pipe.tokenizer.save_pretrained(tmp_path / name)
            for path in (tmp_path / "saved").iterdir():
                assert (tmp_path / name / path.name).read_bytes() == path.read_bytes()
            assert not hasattr(model.config, "custom_pipelines")

    def test_the_trainer_saves_one(self, tmp_path):
        tokenizer = ProformerTokenizer(kmer_size=3, insert_width=12)
        options = TrainingArguments(tmp_path / "training", use_cpu=True)
        Trainer(model_of("bins"), options, processing_class=tokenizer).save_model(tmp_path / "saved")
        named = json.loads((tmp_path / "saved" / "config.json").read_text())["custom_pipelines"]
        assert named["promoter-expression"]["impl"] == "pipeline_proformer.PromoterExpressionPipeline"
        assert {"pipeline_proformer.py", "intervals.py"} <= {path.name for path in (tmp_path / "saved").iterdir()}

    def test_a_model_without_expression_names_no_pipeline(self, tmp_path):
        ProformerForMaskedLM(ProformerConfig(**TINY)).save_pretrained(tmp_path)
        assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())

    def test_its_example_is_correct(self):
        assert doctest.testmod(pipeline_proformer).attempted > 0
        assert doctest.testmod(pipeline_proformer).failed == 0


def observe(sequences: list, folder: str, again: str) -> dict:
    """
    Return what the stock library computes with a saved pipeline, which is saved again too. The source of this function
    runs in another process, so it has its own imports and takes and returns JSON.
    """
    import transformers

    trust = {"trust_remote_code": True, "device": "cpu"}
    opened = transformers.pipeline("promoter-expression", model=folder, **trust)
    by_itself = transformers.pipeline(model=folder, **trust)
    by_itself.save_pretrained(again)
    pipes = [opened, by_itself, transformers.pipeline(model=again, **trust)]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    model.save_pretrained("model-alone")
    opened.tokenizer.save_pretrained("model-alone")
    pipes.append(transformers.pipeline("promoter-expression", model="model-alone", **trust))
    try:
        opened([*sequences, "ACXT"])
    except ValueError as error:
        complaint = f"{type(error).__name__}: {error}"
    return {
        "module": type(opened).__module__,
        "strings": [pipe(sequences[0]) for pipe in pipes],
        "lists": [pipe(sequences, batch_size=2) for pipe in pipes],
        "generators": [list(pipe(iter(sequences), batch_size=2)) for pipe in pipes],
        "complaint": complaint,
        "configuration": json.loads(opened.model.config.to_json_string(use_diff=False)),
    }


class TestWithoutThePackage:
    @pytest.fixture(scope="class")
    def saved(self, pipe, tmp_path_factory) -> Path:
        # Its name is not a Python identifier.
        folder = tmp_path_factory.mktemp("saved") / "my-model.v1"
        pipe.save_pretrained(folder)
        return folder

    def test_a_saved_one_contains_its_code(self, saved):
        code = Path(pipeline_proformer.__file__).parent
        files = {"intervals.py", "pipeline_proformer.py", "modeling_proformer.py", "configuration_proformer.py"}
        assert {path.name for path in saved.glob("*.py")} == files | {"tokenization_proformer.py"}
        for name in files:
            assert (saved / name).read_bytes() == (code / name).read_bytes()
        assert json.loads((saved / "config.json").read_text())["custom_pipelines"] == {
            "promoter-expression": {
                "impl": "pipeline_proformer.PromoterExpressionPipeline",
                "pt": ["AutoModelForSequenceClassification"],
            }
        }

    def test_it_opens_and_predicts_the_same(self, pipe, saved, tmp_path):
        script = f"""
import importlib.util
import json

assert importlib.util.find_spec("modeling_proformer") is None
{inspect.getsource(observe)}
with open("seen.json", "w") as seen:
    json.dump(observe({SEQUENCES!r}, {str(saved)!r}, {str(tmp_path / "again")!r}), seen)
"""
        python = make_python_without_package(tmp_path)
        process = run(python, script, tmp_path / "work")
        assert process.returncode == 0, process.stderr
        seen = json.loads((tmp_path / "work" / "seen.json").read_text())
        assert seen["module"].startswith("transformers_modules.")
        expected = pipe(SEQUENCES, batch_size=2)
        for kind in ("value", "low", "high"):
            for string, in_list, in_generator in zip(seen["strings"], seen["lists"], seen["generators"], strict=True):
                np.testing.assert_allclose(values([string], kind), values(expected[:1], kind), rtol=1e-6)
                np.testing.assert_allclose(values(in_list, kind), values(expected, kind), rtol=1e-6)
                assert in_generator == in_list
        assert list(seen["strings"][0]) == ["liver", "blood"]
        assert seen["complaint"].startswith("InvalidSequenceError: Sequence 6: 'X' at position 3 ")
        assert "custom_pipelines" not in seen["configuration"]
        first, again, model_alone = (
            {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
            for folder in (saved, tmp_path / "again", tmp_path / "work" / "model-alone")
        )
        assert again == model_alone == first
