"""One process owns the folder of a run, and a kill leaves nothing half-written."""

import os
import time

import pytest
from processes import process_of
from waiting import wait_for

from modeling_proformer.training.folder import LOCK, move_contents, own_folder, remove_folder, removed_name


def own_for_ten_minutes(folder):
    with own_folder(folder):
        (folder / "owned").touch()
        time.sleep(600)


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    folder = tmp_path / "model"
    with process_of(own_for_ten_minutes, folder) as owner:
        wait_for((folder / "owned").exists)
        refusal = rf"model: another process \({owner.pid} on .+\) is writing this folder\. Wait until it ends"
        with pytest.raises(BlockingIOError, match=refusal), own_folder(folder):
            pass
    (folder / "owned").unlink()
    assert (folder / LOCK).exists()
    with own_folder(folder):
        (folder / "config.json").write_text("{}")
    assert os.listdir(folder) == ["config.json"]


def test_a_folder_is_owned_once_within_a_process_too(tmp_path):
    with own_folder(tmp_path):
        with pytest.raises(BlockingIOError, match="another process"), own_folder(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()


def test_a_new_folder_that_stays_empty_is_removed_again(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("mine", "new"):
        with pytest.raises(KeyError), own_folder(tmp_path / name):
            raise KeyError
    assert os.listdir(tmp_path) == ["mine"]
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="this is a file; name a folder"), own_folder(tmp_path / "file"):
        pass


def test_the_standard_output_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileExistsError, match="name a folder"), own_folder("-"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_is_renamed_before_it_is_removed(tmp_path, monkeypatch):
    def kill(path, **_):
        if path.exists():
            raise KeyboardInterrupt

    folder = tmp_path / "training"
    (folder / "checkpoint-3").mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr("modeling_proformer.training.folder.shutil.rmtree", kill)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(folder)
    assert os.listdir(tmp_path) == [removed_name(folder).name]
    # The next call removes what a kill has left, whether or not there is a new folder.
    remove_folder(folder)
    assert os.listdir(tmp_path) == []


def test_the_last_file_is_moved_last(tmp_path, monkeypatch):
    source, moved = tmp_path / "source", []
    source.mkdir()
    for name in ("zebra", "metrics.json", "a"):
        (source / name).write_text(name)
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda path, target: (moved.append(path.name), replace(path, target)))
    move_contents(source, tmp_path, last="metrics.json")
    assert moved == ["a", "zebra", "metrics.json"]
    assert (tmp_path / "zebra").read_text() == "zebra"
