"""A checkpoint and its release, and a small Hub to publish it on."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import LocalHub
from huggingface_hub import HfApi
from releases import REPO, make_checkpoint

from modeling_proformer import ProformerForSequenceClassification
from modeling_proformer.hub.release import write_release


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("run") / "leaf", ProformerForSequenceClassification)


@pytest.fixture(scope="session")
def good_release(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "release"
    write_release(checkpoint, folder, REPO, "cc-by-4.0")
    return folder


@pytest.fixture
def release(good_release, tmp_path) -> Path:
    """A copy, to spoil."""
    return shutil.copytree(good_release, tmp_path / "release")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    # Variables of these names would do the same in a process that starts with them.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with LocalHub() as hub:
        yield hub


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(endpoint=hub.url, token="hf_writer")
