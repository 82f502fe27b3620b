"""Losses of the models: measurements, bins, classes, missing labels and weights."""

import pytest
import torch
from tiny import with_fields
from transformers import AutoConfig

from modeling_proformer import (
    ProformerForMaskedLM,
    ProformerForPreTraining,
    ProformerForSequenceClassification,
)
from modeling_proformer.modeling_proformer import bin_probabilities, expression_loss, masked_nucleotide_loss


class TestLosses:
    @pytest.mark.parametrize("shape", [(3,), (3, 1)])
    @pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
    def test_integers_for_several_outputs_are_classes(self, tiny_config, batch, tmp_path, dtype, shape):
        """As with the library's own models; the labels were refused because of their shape."""
        model = ProformerForSequenceClassification(with_fields(tiny_config, num_labels=2))
        labels = torch.tensor([0, 1, 1])
        outputs = model(**batch, labels=labels.to(dtype).reshape(shape))
        torch.testing.assert_close(outputs.loss, torch.nn.functional.cross_entropy(outputs.logits, labels))
        model.save_pretrained(tmp_path)
        assert AutoConfig.from_pretrained(tmp_path).problem_type == "single_label_classification"

    def test_other_labels_stay_measurements(self, tiny_config, batch):
        labels = torch.tensor([0, 1, 1])
        one = ProformerForSequenceClassification(tiny_config)
        two = ProformerForSequenceClassification(with_fields(tiny_config, num_labels=2))
        for model, measured in ((one, labels), (one, labels.float()), (two, torch.stack([labels, 1 - labels], dim=1))):
            outputs = model(**batch, labels=measured)
            expected = torch.nn.functional.mse_loss(outputs.logits, measured.reshape(outputs.logits.shape).float())
            torch.testing.assert_close(outputs.loss, expected)
            assert model.config.problem_type == "regression"
        scaled = with_fields(tiny_config, num_labels=2, label_mean=[9.0, 1.0])
        for config, refused in ((tiny_config, labels.float()), (scaled, labels)):
            config.num_labels = 2
            with pytest.raises(ValueError, match=r"Labels of shape \(3,\) for predictions of shape \(3, 2\)"):
                ProformerForSequenceClassification(config)(**batch, labels=refused)

    def test_missing_labels_are_left_out(self, tiny_config, batch):
        config = with_fields(tiny_config, num_labels=2)
        model = ProformerForSequenceClassification(config)
        labels = torch.tensor([[1.0, float("nan")], [-100.0, 2.0], [3.0, 4.0]])
        outputs = model(**batch, labels=labels)
        errors = outputs.logits - labels
        expected = (errors[0, 0] ** 2 + errors[1, 1] ** 2 + errors[2, 0] ** 2 + errors[2, 1] ** 2) / 4
        torch.testing.assert_close(outputs.loss, expected)
        outputs.loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

        only_first = model(**batch, labels=torch.tensor([[1.0, float("nan")]] * 3)).loss
        gradient = torch.autograd.grad(only_first, model.expression_head.dense.weight)[0]
        assert gradient[0].any() and not gradient[1].any()

    def test_all_labels_missing_gives_zero(self, tiny_config, batch):
        outputs = ProformerForSequenceClassification(tiny_config)(**batch, labels=torch.full((3,), float("nan")))
        assert outputs.loss == 0

    def test_weights_scale_each_sequence_s_loss(self, tiny_config, batch):
        model = ProformerForPreTraining(with_fields(tiny_config, num_labels=2))
        labels = torch.tensor([[1.0, float("nan")], [3.0, 2.0], [3.0, 4.0]])
        outputs = model(**batch, labels=labels, sample_weights=torch.tensor([2.0, 0.5, 0.0]))
        errors = (outputs.logits - labels) ** 2
        torch.testing.assert_close(outputs.loss, (2 * errors[0, 0] + 0.5 * errors[1].sum()) / 5)
        with pytest.raises(ValueError, match=r"Weights of shape \(2,\) for 3 sequences"):
            model(**batch, labels=labels, sample_weights=torch.ones(2))

    def test_soft_labels_are_a_normal_distribution_half_a_bin_wide(self):
        soft = bin_probabilities(torch.tensor([2.0, 3.5, -7.0]), [0.0, 1.0, 2.0, 3.0, 4.0])
        torch.testing.assert_close(soft.sum(dim=-1), torch.ones(3))
        one, two = 0.682689, 0.954500  # shares of a normal distribution within one and two standard deviations
        expected = torch.tensor([0.0, (1 - one) / 2, one, (1 - one) / 2, 0.0])
        torch.testing.assert_close(soft[0], expected, atol=2e-3, rtol=0)
        torch.testing.assert_close(soft[1, 3:], torch.tensor([two / 2, 0.5]), atol=1e-4, rtol=0)
        torch.testing.assert_close(soft[2], torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]))

    def test_expression_bins(self, tmp_path, tiny_config, batch):
        """A model trained on soft labels predicts in the assay's units, and more finely than the bins."""
        torch.manual_seed(0)
        config = with_fields(tiny_config, num_labels=2, expression_bins=[float(bin) for bin in range(18)])
        model = ProformerForSequenceClassification(config)
        labels = torch.tensor([[2.25, 9.0], [16.8, float("nan")], [0.1, 12.5]])
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
        for _ in range(100):
            optimizer.zero_grad()
            model(**batch, labels=labels).loss.backward()
            optimizer.step()
        model.eval().save_pretrained(tmp_path)
        outputs = model(**batch, labels=labels)
        assert outputs.position_logits.shape == (3, 4, 2, 18)
        present = ~labels.isnan()
        torch.testing.assert_close(outputs.logits[present], labels[present], atol=0.15, rtol=0)
        loaded = ProformerForSequenceClassification.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(**batch).logits, outputs.logits)

    def test_reads_counted_in_bins_are_soft_labels(self, tiny_config, batch):
        model = ProformerForSequenceClassification(with_fields(tiny_config, expression_bins=[0.0, 1.0, 2.0]))
        counts = torch.tensor([[6.0, 3.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
        outputs = model(**batch, labels=counts)
        scores = outputs.position_logits.mean(dim=1).squeeze(1).log_softmax(dim=-1)
        expected = -((counts[0] / 10 * scores[0]).sum() + scores[2, 2]) / 2  # a row without reads does not count
        torch.testing.assert_close(outputs.loss, expected)
        # The Trainer counts every number in the labels of a step; here, of twice as many rows.
        torch.testing.assert_close(model(**batch, labels=counts, num_items_in_batch=18).loss, expected / 2)

    @pytest.mark.parametrize(("transform", "logarithm"), [("log", torch.log), ("log1p", torch.log1p)])
    def test_a_model_trained_on_logarithms_predicts_in_assay_units(self, tiny_config, batch, transform, logarithm):
        config = with_fields(tiny_config, label_transform=transform, label_mean=[2.0], label_std=[0.5])
        model = ProformerForSequenceClassification(config)
        labels = torch.tensor([3.0, 20.0, float("nan")])
        outputs = model(**batch, labels=labels)
        predicted = outputs.position_logits.mean(dim=1).squeeze(1)
        torch.testing.assert_close(logarithm(outputs.logits.squeeze(1)), predicted)
        torch.testing.assert_close(outputs.loss, (((predicted - logarithm(labels)) / 0.5) ** 2)[:2].mean())
        outputs.loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_the_mean_of_the_bins_is_exact_under_autocast(self, tiny_config, batch):
        model = ProformerForSequenceClassification(with_fields(tiny_config, expression_bins=[0.0, 100.0, 200.0]))
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(**batch)
        shares = outputs.position_logits.mean(dim=1).softmax(dim=-1)
        torch.testing.assert_close(outputs.logits, shares @ torch.tensor([0.0, 100.0, 200.0]), rtol=1e-5, atol=0)

    def test_labels_that_do_not_fit_are_refused(self, tiny_config, batch):
        with pytest.raises(ValueError, match=r"Labels of shape \(3, 2\) for predictions of shape \(3, 1\)"):
            ProformerForSequenceClassification(tiny_config)(**batch, labels=torch.zeros(3, 2))

    def test_published_losses_are_added(self, tiny_config, batch):
        model = ProformerForPreTraining(tiny_config)
        labels = torch.tensor([1.0, 2.0, 3.0])
        targets = torch.full_like(batch["input_ids"], -100)
        targets[0, 3], targets[2, 5] = 1, 3
        both = model(**batch, labels=labels, masked_nucleotides=targets)
        expression = expression_loss(both.logits, labels, model.config)
        scores = both.nucleotide_logits.log_softmax(dim=-1)
        nucleotides = -(scores[0, 3, 1] + scores[2, 5, 3]) / 3  # one more than are masked
        torch.testing.assert_close(both.loss, expression + nucleotides)
        torch.testing.assert_close(model(**batch, labels=labels).loss, expression)
        torch.testing.assert_close(model(**batch, masked_nucleotides=targets).loss, nucleotides)
        masked = ProformerForMaskedLM(tiny_config)
        masked.load_state_dict(model.state_dict(), strict=False)
        torch.testing.assert_close(masked(**batch, labels=targets).loss, nucleotides)
        assert masked_nucleotide_loss(both.nucleotide_logits, torch.full_like(targets, -100)) == 0

    @pytest.mark.parametrize(
        "fields", [{}, {"expression_bins": [0.0, 1.0]}, {"problem_type": "multi_label_classification"}]
    )
    def test_a_nan_that_the_trainer_counts_does_not_make_the_loss_smaller(self, tiny_config, batch, fields):
        """`Trainer` counts the labels of a step that are not -100, so it counts those that are NaN."""
        model = ProformerForSequenceClassification(with_fields(tiny_config, num_labels=2, **fields))
        nan = float("nan")
        labels = torch.tensor([[1.0, nan], [nan, -100.0], [-100.0, 0.0]])
        expected = model(**batch, labels=labels).loss
        torch.testing.assert_close(model(**batch, labels=labels, num_items_in_batch=torch.tensor(4)).loss, expected)
        marked = labels.nan_to_num(nan=-100.0)
        assert model(**batch, labels=marked, num_items_in_batch=torch.tensor(2)).loss == expected
        nothing = model(**batch, labels=torch.full((3, 2), nan), num_items_in_batch=torch.tensor(6)).loss
        assert nothing == 0

    @pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
    def test_classification(self, tiny_config, batch, problem_type):
        config = with_fields(tiny_config, num_labels=3, problem_type=problem_type)
        model = ProformerForSequenceClassification(config)
        if problem_type == "single_label_classification":
            labels = torch.tensor([0, 2, -100])
            outputs = model(**batch, labels=labels)
            expected = torch.nn.functional.cross_entropy(outputs.logits[:2], labels[:2])
            as_collated = torch.tensor([[0.0], [2.0], [float("nan")]])
            torch.testing.assert_close(model(**batch, labels=as_collated).loss, expected)
            with pytest.raises(ValueError, match=r"Labels of shape \(3, 3\)"):
                model(**batch, labels=torch.zeros(3, 3))
        else:
            labels = torch.tensor([[0.0, 1.0, 1.0], [1.0, float("nan"), 0.0], [-100.0, 0.0, 0.0]])
            outputs = model(**batch, labels=labels)
            present = ~labels.isnan() & (labels != -100)
            expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs.logits[present], labels[present])
        torch.testing.assert_close(outputs.loss, expected)
