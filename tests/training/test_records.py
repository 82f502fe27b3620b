"""A run resumes on the same tables with the same options, or not at all."""

import pytest

from modeling_proformer.data.sources import SourceTable
from modeling_proformer.data.tables import InputError
from modeling_proformer.training.records import checkpoint_to_resume, record_run


FIRST = SourceTable("first.csv", 1, 20, 0, "a1")
SECOND = SourceTable("second.csv", 1, 20, 2, "b2")
SETTINGS = {"seed": 1, "targets": ["expression"]}


@pytest.fixture
def run(tmp_path):
    """Return a folder with a checkpoint that was written to its end, and one that was not."""
    for step, state in ((10, "{}"), (20, '{"global_step": 2')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    return tmp_path


def test_without_a_checkpoint_training_starts(tmp_path):
    assert checkpoint_to_resume(tmp_path / "nowhere", [FIRST], SETTINGS) is None
    record_run(tmp_path / "new", [FIRST], SETTINGS)
    assert checkpoint_to_resume(tmp_path / "new", [SECOND], {}) is None


def test_the_same_run_resumes_from_its_last_whole_checkpoint(run):
    record_run(run, [FIRST, SECOND], SETTINGS)
    assert checkpoint_to_resume(run, [FIRST, SECOND], SETTINGS) == str(run / "checkpoint-10")
    # Files may be moved, and tuples become lists in JSON.
    moved = [FIRST, SECOND._replace(name="moved.csv")]
    assert checkpoint_to_resume(run, moved, {**SETTINGS, "targets": ("expression",)})


@pytest.mark.parametrize(
    ("tables", "settings", "complaint"),
    [
        ([FIRST, SECOND], {**SETTINGS, "seed": 2}, r"a training with seed 1, not 2\. Leave it as it was"),
        ([FIRST], SETTINGS, r"on other tables: second\.csv is missing\. Give the tables as they were"),
        ([SECOND, FIRST], SETTINGS, r"on other tables: second\.csv has changed since, or is new"),
        ([FIRST, FIRST, SECOND], SETTINGS, r"first\.csv has changed since"),
        ([FIRST._replace(digest="a2"), SECOND], SETTINGS, r"first\.csv has changed since"),
        ([FIRST._replace(times=2), SECOND], SETTINGS, r"first\.csv has changed since"),
    ],
)
def test_another_run_is_refused(run, tables, settings, complaint):
    record_run(run, [FIRST, SECOND], SETTINGS)
    with pytest.raises(InputError, match=complaint):
        checkpoint_to_resume(run, tables, settings)


def test_a_folder_without_a_record_is_refused(run):
    with pytest.raises(InputError, match=r"training\.json should say what the training in this folder began with"):
        checkpoint_to_resume(run, [FIRST], SETTINGS)
