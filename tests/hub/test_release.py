"""The release folder of a checkpoint, and its card."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from releases import RECORD, RELEASE, REPO, append, contents, edit, in_card, make_checkpoint, with_own_card
from safetensors.torch import load_file, save_file

from modeling_proformer import ProformerForPreTraining
from modeling_proformer.data.tables import InputError
from modeling_proformer.evaluation.cards import digest_card, render_card
from modeling_proformer.hub.checks import check_release
from modeling_proformer.hub.publish import _files_left_out
from modeling_proformer.hub.release import encode_pixels, release_card, write_release


@pytest.fixture
def folder(checkpoint, tmp_path) -> Path:
    """A copy of the checkpoint, to change."""
    return shutil.copytree(checkpoint, tmp_path / "leaf")


def test_a_release_holds_what_others_need_and_nothing_else(good_release):
    assert contents(good_release).keys() == RELEASE
    assert {tensor.dtype for tensor in load_file(good_release / "model.safetensors").values()} == {torch.float32}


def test_the_same_checkpoint_makes_the_same_release_to_the_byte(checkpoint, good_release, tmp_path):
    """This is how publishing again finds that nothing has changed."""
    write_release(checkpoint, tmp_path / "again", REPO, "cc-by-4.0")
    assert contents(tmp_path / "again") == contents(good_release)


class TestCard:
    @pytest.mark.parametrize("written", [True, False])
    def test_it_is_rendered_from_the_record_unless_its_owner_edited_it(self, folder, written):
        if not written:
            (folder / "README.md").unlink()
        text = release_card(folder, REPO, "cc-by-4.0")
        assert text == str(render_card(folder, REPO, "cc-by-4.0"))
        assert "No licence" not in text and "\n\n## How to use it\n" in text
        assert text.count(f'model="{REPO}"') == 2
        assert f"proformer predict sequences.fasta --model {REPO} -o predicted.tsv\n" in text
        # Only code calls the model by its repository.
        assert "# leaf\n\nThis model predicts `leaf`" in text and "\nleaf value " in text
        assert ModelCard(text).data.license == "cc-by-4.0"

    def test_a_renamed_folder_and_a_new_template_are_no_edit(self, folder):
        """Neither of them changes the file, only what would be rendered for the folder now."""
        renamed = folder.rename(folder.with_name("branch"))
        append("README.md", "A sentence of an earlier template.\n")(renamed)
        record = json.loads((renamed / "metrics.json").read_text()) | {"card_digest": digest_card(renamed)}
        (renamed / "metrics.json").write_text(json.dumps(record))
        text = release_card(renamed, REPO, "mit")
        assert text == str(render_card(renamed, REPO, "mit"))
        assert "\n# branch\n" in text and "earlier" not in text

    def test_an_edited_card_is_published_as_it_is(self, folder, tmp_path, caplog):
        caplog.set_level(logging.INFO, logger="modeling_proformer")
        append("README.md", "Grown on leaves of ACCOUNT/NAME.\n")(folder)
        edited = (folder / "README.md").read_text()
        assert release_card(folder, REPO) == edited.replace("ACCOUNT/NAME", REPO)
        licensed = ModelCard(release_card(folder, REPO, "mit"))
        assert licensed.data.license == "mit"
        assert licensed.text == ModelCard(edited).text.replace("ACCOUNT/NAME", REPO)
        # The checks report what else has to change.
        write_release(folder, tmp_path / "release", REPO, "mit")
        faults = check_release(tmp_path / "release", REPO)
        assert [fault.partition(": ")[2][:26] for fault in faults["card"]] == ["'No licence is stated yet'"]
        start = ModelCard(edited).text.index("No licence")
        end = ModelCard(edited).text.index("## How to use it")
        edit(tmp_path / "release" / "README.md", ModelCard(edited).text[start:end], "")
        faults = check_release(tmp_path / "release", REPO)
        assert not any(faults[name] for name in faults if name != "example")
        assert f"does not open {REPO}. In the code, write ACCOUNT/NAME instead" in faults["example"][0]
        assert faults["example"][0].endswith("Or delete the file, and it is written again.")
        assert "README.md is published as it is, because it was edited." in caplog.messages

    def test_the_card_of_an_earlier_version_is_published_as_it_is(self, folder, tmp_path, caplog):
        """The record of version 0.1.0 has the scores, but not all that a card says."""
        caplog.set_level(logging.INFO, logger="modeling_proformer")
        record = {name: RECORD[name] for name in ("table", "problem_type", "rows", "held_out")}
        (folder / "metrics.json").write_text(json.dumps(record))
        text = (folder / "README.md").read_text()
        assert release_card(folder, REPO) == text
        reason = "README.md is published as it is, because metrics.json is not the full record of the model."
        assert reason in caplog.messages
        start, end = text.index("No licence"), text.index("## How to use it")
        (folder / "README.md").write_text((text[:start] + text[end:]).replace('model="leaf"', 'model="ACCOUNT/NAME"'))
        write_release(folder, tmp_path / "release", REPO, "mit")
        assert not any(check_release(tmp_path / "release", REPO).values())
        (folder / "README.md").unlink()
        with pytest.raises(FileNotFoundError, match="there is no model card"):
            release_card(folder, REPO)

    def test_the_card_of_a_folder_without_a_record_is_published_as_it_is(self, folder, tmp_path):
        with_own_card(folder)
        (folder / "figures" / "notes.txt").write_text("state")
        own = (folder / "README.md").read_text()
        assert release_card(folder, REPO) == own.replace("ACCOUNT/NAME", REPO)
        write_release(folder, tmp_path / "release", REPO, "mit")
        figures = {"figures/draft.png"}
        assert contents(tmp_path / "release").keys() == (RELEASE | figures) - {
            "metrics.json",
            "scatter.png",
            "learning_curve.png",
        }
        assert "figures/notes.txt" in _files_left_out(folder, tmp_path / "release")


@pytest.mark.parametrize(
    ("mode", "shade", "expected"),
    [
        ("RGBA", (10, 20, 30, 40), (10, 20, 30, 40)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("P", 0, (50, 60, 70)),
        ("L", 8, (8, 8, 8)),
        ("LA", (8, 9), (8, 8, 8, 9)),
    ],
)
def test_only_the_pixels_of_a_picture_are_published(tmp_path, mode, shade, expected):
    picture, note, exif = Image.new(mode, (5, 3), shade), PngInfo(), Image.Exif()
    if mode == "P":
        picture.putpalette([50, 60, 70])
    note.add_text("Comment", "/home/jane")
    note.add(b"prVt", b"/home/jane", after_idat=True)
    exif[0x010E] = "/home/jane"
    extra = {"pnginfo": note, "exif": exif, "icc_profile": b"/home/jane", "dpi": (72, 72)}
    picture.save(tmp_path / "scatter.png", **extra)
    with open(tmp_path / "scatter.png", "ab") as file:
        file.write(b"/home/jane\0\0\0\0IEND\xaeB`\x82")
    alone = tmp_path / "alone.png"
    alone.write_bytes(encode_pixels(tmp_path / "scatter.png"))
    assert b"jane" not in alone.read_bytes()
    # Encoding the pixels again makes no difference.
    assert encode_pixels(alone) == alone.read_bytes()
    with Image.open(alone) as image:
        assert (image.size, image.getcolors(), image.info) == ((5, 3), [(15, expected)], {})


def test_pretraining_keeps_its_head_and_half_precision_becomes_float32(tmp_path):
    folder = make_checkpoint(tmp_path / "leaf", ProformerForPreTraining)
    saved = load_file(folder / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in saved.items()}, folder / "model.safetensors", {"format": "pt"})
    write_release(folder, tmp_path / "release", REPO)
    released = load_file(tmp_path / "release" / "model.safetensors")
    assert released.keys() == saved.keys()
    for name, tensor in released.items():
        torch.testing.assert_close(tensor, saved[name].half().float(), rtol=0, atol=0)
    config = json.loads((tmp_path / "release" / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["ProformerForPreTraining"], "float32")


def without_card_and_record(folder: Path):
    (folder / "README.md").unlink()
    (folder / "metrics.json").unlink()


def write_record(text: str) -> Callable[[Path], None]:
    """Replace the record, of a folder whose card its owner deleted to have it written again."""

    def spoil(folder: Path):
        (folder / "README.md").unlink()
        (folder / "metrics.json").write_text(text)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda folder: shutil.rmtree(folder), FileNotFoundError, "there is no such folder"),
        (without_card_and_record, FileNotFoundError, "there is no model card"),
        (write_record("{"), InputError, "metrics.json: this is not JSON that can be read"),
        (write_record("[]"), InputError, "metrics.json: this is not the record of a model"),
        (write_record('{"kind": "trained"}'), InputError, r"metrics.json is not as .* \(KeyError 'rows'\)"),
        (lambda folder: (folder / "config.json").unlink(), InputError, "no readable Proformer checkpoint"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
            InputError,
            "is a 'bert' model",
        ),
        (in_card("tags:", "tags: [a"), InputError, r"README.md, line \d+: the metadata .* not valid"),
        (in_card("type: pearsonr", "kind: x"), InputError, "the metadata .* not valid"),
        (
            lambda folder: (folder / "scatter.png").write_bytes(b"\xff\xd8"),
            InputError,
            "scatter.png: this is not a PNG that can be read",
        ),
        (lambda folder: Image.new("I;16", (4, 4)).save(folder / "scatter.png"), InputError, "save it with 8"),
    ],
)
def test_an_unfit_folder_is_refused(folder, tmp_path, spoil, kind, message):
    spoil(folder)
    with pytest.raises(kind, match=message):
        write_release(folder, tmp_path / "release", REPO, "mit")
    assert not (tmp_path / "release").exists()


def test_an_existing_folder_is_not_overwritten(checkpoint, tmp_path):
    with pytest.raises(FileExistsError, match="name a new folder"):
        write_release(checkpoint, tmp_path, REPO)
