"""What several tests share."""

import gc
import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tiny import TINY
from transformers.utils import logging

from modeling_proformer import (
    ProformerConfig,
    ProformerForSequenceClassification,
    ProformerTokenizer,
    load_checkpoint,
)


ROOT = Path(__file__).parents[1]
# Real measurements and numerical fixtures, which the project does not own.
SHARED = Path(os.environ.get("PROFORMER_SHARED", ROOT.parent / "shared"))


# On a busy machine, an example of a property may take any time.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# Without optimization, numba compiles in half of the time. What it compiles is kept apart from what users run.
os.environ |= {"NUMBA_OPT": "0", "NUMBA_CACHE_DIR": str(ROOT / ".pytest_cache" / "numba")}

# The tests' models are so small that sharing their work out costs more than it saves; in processes of their own too.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


# While the tests' modules import the libraries, a million objects are made, and none are given up.
gc.disable()


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_collect():
    """Set the libraries' objects aside: each of Python's collections would go through all of them again."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread():
    """Compute with one thread again: numba, which compiles what some libraries do, chooses one for each core."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def usual_logging():
    """The command line quietens the library for the rest of the process; other tests read what it logs."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(verbosity)
    if bars:
        logging.enable_progress_bar()


@pytest.fixture
def heeds_signals():
    """
    Give signals their usual handlers. In the background SIGINT is ignored, under nohup SIGHUP, and so they would be by
    what the tests start. Ray, which other tests start, leaves a handler of SIGTERM behind.
    """
    usual = dict.fromkeys((signal.SIGHUP, signal.SIGTERM), signal.SIG_DFL)
    usual[signal.SIGINT] = signal.default_int_handler
    before = {each: signal.signal(each, handler) for each, handler in usual.items()}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.fixture
def shared() -> Path:
    """Folder of the real data; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the data in {SHARED} are absent (set PROFORMER_SHARED)")
    return SHARED


@pytest.fixture(scope="module")
def embedded():
    """Return the embedded checkpoint's model and tokenizer."""
    return load_checkpoint()


@pytest.fixture
def yeast_tokenizer() -> ProformerTokenizer:
    return ProformerTokenizer(five_prime_flank="TGCATTTTTTTCACATC", three_prime_flank="GGTTACGGCTGTT")


@pytest.fixture
def tiny_config() -> ProformerConfig:
    return ProformerConfig(**TINY)


@pytest.fixture(scope="module")
def two_outputs() -> ProformerForSequenceClassification:
    """Return a tiny model of two outputs, whose weights are large enough for every base to matter."""
    torch.manual_seed(0)
    model = ProformerForSequenceClassification(ProformerConfig(**TINY, num_labels=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def tiny_tokenizer() -> ProformerTokenizer:
    return ProformerTokenizer(kmer_size=3, insert_width=12)


@pytest.fixture
def batch(tiny_tokenizer):
    return tiny_tokenizer(["ACGTACGTAC", "TTTT", "GATTACAGATTA"], return_tensors="pt")
