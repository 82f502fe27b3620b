"""Training on rows that are read as they are needed: each once in an epoch, in the same order whenever it is asked."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from huggingface_hub import constants
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import TINY
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from modeling_proformer import ProformerConfig, ProformerForPreTraining, ProformerTokenizer
from modeling_proformer.data.collator import ProformerCollator
from modeling_proformer.data.streaming import AssayStream, Moments, Shard, stream_assay
from modeling_proformer.data.tables import InputError, Part, content_digest, load_assay
from modeling_proformer.training.trainer import ProformerTrainer


TESTS = Path(__file__).parent
# An example takes as long as the machine is busy.
unhurried = settings(deadline=None, max_examples=50)


def promoters(rows: int, seed: int = 0) -> pd.DataFrame:
    """Random inserts of 12 letters, all different, every seventh of them too long for the construct."""
    generator = np.random.default_rng(seed)
    numbers = generator.choice(4**12, rows, replace=False)
    sequences = ["".join("ACGT"[number >> shift & 3] for shift in range(0, 24, 2)) for number in numbers]
    return pd.DataFrame(
        {
            "sequence": [sequence * 2 if row % 7 == 3 else sequence for row, sequence in enumerate(sequences)],
            "expression": generator.normal(8, 3, rows),
            "activity": [None if row % 5 == 0 else row % 18 for row in range(rows)],
            "reads": generator.integers(0, 4, rows),
        }
    )


def write(table: pd.DataFrame, path: Path, rows_in_group: int = 64) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.table(table), path, row_group_size=rows_in_group)
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, pa.table(table).schema) as writer:
            writer.write_table(pa.table(table), max_chunksize=rows_in_group)
    else:
        table.to_csv(path, sep="\t", index=False)
    return str(path)


@pytest.fixture
def parquet(tmp_path) -> str:
    return write(promoters(500), tmp_path / "promoters.parquet")


def batches(stream: AssayStream, batch_size: int, epoch: int = 0, workers: int = 0) -> list[list[str]]:
    stream.set_epoch(epoch)
    return [
        [row["sequence"] for row in batch]
        for batch in DataLoader(stream, batch_size, num_workers=workers, collate_fn=list)
    ]


def rows_of(batches: list[list[str]]) -> list[str]:
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".tsv"])
def test_a_stream_gives_what_load_assay_gives(tmp_path, monkeypatch, tiny_tokenizer, suffix):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = write(promoters(500), tmp_path / f"promoters{suffix}")
    columns = {"label_columns": ["expression", "activity"], "weight_column": "reads"}
    stream = stream_assay(path, tiny_tokenizer, **columns, batch_size=16)
    loaded = load_assay(path, **columns)
    fitting = loaded.to_pandas()[lambda table: table.sequence.str.len() <= 12]
    streamed = pd.DataFrame(list(stream))
    pd.testing.assert_frame_equal(
        streamed.sort_values("sequence", ignore_index=True), fitting.sort_values("sequence", ignore_index=True)
    )
    assert len(stream) == len(fitting)
    np.testing.assert_allclose(stream.label_mean, fitting[["expression", "activity"]].mean(), rtol=1e-12)
    np.testing.assert_allclose(stream.label_std, fitting[["expression", "activity"]].std(ddof=0), rtol=1e-12)
    assert stream.mean_weight == pytest.approx(fitting.reads.mean())
    (table,) = stream.tables
    assert (table.source, table.times, table.rows, table.left_out) == (path, 1, 500, 500 - len(fitting))
    assert table.digest == content_digest(loaded)


def test_each_epoch_gives_every_row_once_in_an_order_of_its_own(parquet, tiny_tokenizer):
    stream = stream_assay(parquet, tiny_tokenizer, batch_size=16, shuffle_buffer=100, seed=3)
    expected = sorted(sequence for sequence in promoters(500).sequence if len(sequence) <= 12)
    seen = []
    for workers in (0, 1, 2):
        for epoch in (0, 1):
            found = batches(stream, 16, epoch, workers)
            assert sorted(rows_of(found)) == expected
            # As many batches as the Trainer counts on, of which only the last is incomplete.
            assert [len(batch) for batch in found] == [16] * 26 + [13]
            assert len(DataLoader(stream, 16)) == 27
            assert found == batches(stream, 16, epoch, workers)
            seen.append(found)
    # One worker does what none does.
    assert seen[:2] == seen[2:4]
    orders = [rows_of(found) for found in seen[2:]]
    assert len({tuple(order) for order in orders}) == len(orders)
    other = stream_assay(parquet, tiny_tokenizer, batch_size=16, shuffle_buffer=100, seed=4)
    assert batches(other, 16) != seen[0]


def test_workers_that_outlive_an_epoch_learn_of_the_next(parquet, tiny_tokenizer):
    stream = stream_assay(parquet, tiny_tokenizer, batch_size=16)
    loader = DataLoader(stream, 16, num_workers=2, collate_fn=list, persistent_workers=True)
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        found = [[row["sequence"] for row in batch] for batch in loader]
        assert found == batches(stream, 16, epoch, workers=2)


def numbered_stream(sizes: list[int], left_out: set[int] = frozenset(), **arguments) -> AssayStream:
    """Shards of so many rows, numbered throughout, some of which do not fit; `opened` are those that were read."""
    opened = []

    def read(number: int, first: int, size: int) -> Iterator[Part]:
        opened.append(number)
        yield Part(pa.table({"row": pa.array(range(first, first + size), pa.int64())}), str)

    firsts = np.cumsum([0, *sizes]).tolist()
    shards = [
        Shard(
            "numbers",
            partial(read, number, first, size),
            np.array([row not in left_out for row in range(first, first + size)], dtype=bool),
        )
        for number, (first, size) in enumerate(zip(firsts, sizes, strict=False))
    ]
    stream = AssayStream(shards, [], ([0.0], [1.0]), 1.0, {"row": -1}, **arguments)
    stream.opened = opened
    return stream


@unhurried
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=25),
    st.sets(st.integers(0, 200)),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 60),
    st.integers(0, 2**32),
)
def test_however_a_table_is_cut_up_every_row_comes_once(sizes, left_out, batch, processes, workers, buffer, seed):
    stream = numbered_stream(sizes, left_out, batch_size=batch, processes=processes, shuffle_buffer=buffer, seed=seed)
    parts = [[row["row"] for row in stream.rows_of_worker(number, workers)] for number in range(workers)]
    found = [row for part in parts for row in part]
    assert sorted(row for row in found if row >= 0) == sorted(set(range(sum(sizes))) - left_out)
    step = batch * processes
    assert all(len(part) % step == 0 for part in parts[:-1])
    # Only where other processes wait for their part is the last step filled up.
    assert len(found) == (-(-len(stream) // step) * step if processes > 1 else len(stream))
    # The last batch comes from the last worker, which has as many as any.
    assert max(map(len, parts)) <= -(-len(parts[-1]) // step) * step


def test_rows_from_far_apart_meet_in_a_batch():
    """Of a table in order, read in 40 pieces of 50 rows; and pieces of unequal size do not run out one by one."""
    arguments = {"batch_size": 50, "processes": 1, "shuffle_buffer": 200, "seed": 0}
    rows = [row["row"] for row in numbered_stream([50] * 40, **arguments)]
    assert all(len({row // 50 for row in rows[start : start + 50]}) >= 6 for start in range(0, 1800, 50))
    rows = np.array([row["row"] for row in numbered_stream([100, 1900], **arguments)])
    of_the_small_one = [int((rows[start : start + 400] < 100).sum()) for start in range(0, 2000, 400)]
    assert min(of_the_small_one) >= 8


def test_a_table_is_read_as_its_rows_are_needed():
    stream = numbered_stream([50] * 40, batch_size=50, processes=1, shuffle_buffer=200, seed=0)
    assert stream.opened == []
    for number, _ in enumerate(stream):
        assert len(stream.opened) <= number // 50 + 12
    stream.set_epoch(1)
    list(stream)
    first_epoch, second_epoch = stream.opened[:40], stream.opened[40:]
    assert sorted(first_epoch) == sorted(second_epoch) == list(range(40))
    assert first_epoch != second_epoch


def test_two_processes_share_what_one_would_have(tmp_path, tiny_tokenizer):
    """By accelerate's own rules for two processes; the last step is filled up with rows that teach nothing."""
    path = write(promoters(500), tmp_path / "promoters.parquet")
    columns = {"label_columns": ["expression", "activity"], "weight_column": "reads"}
    for workers in (0, 2):
        alone = batches(stream_assay(path, tiny_tokenizer, **columns, batch_size=16), 16, 1, workers)
        stream = stream_assay(path, tiny_tokenizer, **columns, batch_size=8, processes=2)
        parts = []
        for process in (0, 1):
            loader = DataLoader(stream, 8, num_workers=workers, collate_fn=list)
            loader = prepare_data_loader(loader, num_processes=2, process_index=process, dispatch_batches=False)
            loader.set_epoch(1)
            assert len(loader) == len(alone)
            parts.append(list(loader))
        together = [first + second for first, second in zip(*parts, strict=True)]
        fillers = together[-1][13:]
        del together[-1][13:]
        assert [[row["sequence"] for row in batch] for batch in together] == alone
        collate = ProformerCollator(tiny_tokenizer, **columns, mean_weight=stream.mean_weight, mask_probability=0.9)
        batch = collate(fillers)
        assert len(fillers) == 3
        for name, value in {"labels": -100, "masked_nucleotides": -100, "sample_weights": 0}.items():
            assert (batch[name] == value).all(), name


def test_the_last_step_is_filled_up_whatever_the_tokenizer_does_with_flanks(tmp_path):
    path = write(pd.DataFrame({"sequence": ["GGACGTCC"] * 3, "expression": range(3)}), tmp_path / "table.tsv")
    for missing_flanks in ("keep", "cut", "refuse"):
        tokenizer = ProformerTokenizer(3, 1, 12, "GG", "CC", missing_flanks)
        *rows, filler = stream_assay(path, tokenizer, batch_size=2, processes=2)
        assert len(rows) == 3
        assert tokenizer.insert_lengths([filler["sequence"]]) == [1]


def train(folder: Path, stream: AssayStream, resume_from: Path | None = None, **arguments) -> ProformerTrainer:
    tokenizer = ProformerTokenizer(kmer_size=3, insert_width=12)
    torch.manual_seed(0)
    config = ProformerConfig(**TINY, label_mean=stream.label_mean, label_std=stream.label_std)
    trainer = ProformerTrainer(
        model=ProformerForPreTraining(config),
        args=TrainingArguments(
            output_dir=folder,
            learning_rate=1e-2,
            remove_unused_columns=False,
            use_cpu=True,
            disable_tqdm=True,
            accelerator_config={"dispatch_batches": False},
            **arguments,
        ),
        data_collator=ProformerCollator(tokenizer),
        eval_data_collator=ProformerCollator(tokenizer),
        train_dataset=stream,
    )
    trainer.train(resume_from_checkpoint=resume_from)
    return trainer


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_resumed_in_its_second_epoch_ends_with_the_same_weights(tmp_path, parquet, tiny_tokenizer, workers):
    arguments = {"num_train_epochs": 3, "per_device_train_batch_size": 32, "dataloader_num_workers": workers}
    stream = stream_assay(parquet, tiny_tokenizer, batch_size=32)
    whole = train(tmp_path / "whole", stream, save_steps=20, **arguments)
    # 429 rows are 14 steps: step 20 lies in the second epoch.
    assert whole.state.global_step == 42
    assert whole.state.epoch == 3
    stream = stream_assay(parquet, tiny_tokenizer, batch_size=32)
    resumed = train(
        tmp_path / "resumed", stream, tmp_path / "whole" / "checkpoint-20", save_strategy="no", **arguments
    )
    assert resumed.state.global_step == 42
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


TWO_PROCESSES = """
import sys
from test_streaming import *

tokenizer = ProformerTokenizer(kmer_size=3, insert_width=12)
stream = stream_assay(sys.argv[1], tokenizer, batch_size=16, processes=2)
arguments = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "dataloader_num_workers": 1, "optim": "sgd"}
trainer = train(Path(sys.argv[2]), stream, save_strategy="no", **arguments)
trainer.save_model()
trainer.end_processes()
threads = [name.read_text() for name in Path("/proc/self/task").glob("*/comm")]
assert not any("gloo" in name for name in threads), threads
"""


def test_two_processes_train_what_one_trains(tmp_path, parquet, tiny_tokenizer):
    """429 rows do not divide evenly: neither do the processes wait for each other, nor does a row count twice."""
    stream = stream_assay(parquet, tiny_tokenizer, batch_size=32)
    arguments = {"num_train_epochs": 1, "per_device_train_batch_size": 32, "optim": "sgd"}
    alone = train(tmp_path, stream, save_strategy="no", **arguments).model.state_dict()
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run(
        [sys.executable, *launcher, script, parquet, tmp_path / "two"],
        check=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
        },
        timeout=300,
    )
    together = load_file(tmp_path / "two" / "model.safetensors")
    for name, weight in together.items():
        torch.testing.assert_close(weight, alone[name], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("suffix", "column", "value", "complaint"),
    [
        (".parquet", "sequence", "ACXT", r"row 151, column 'sequence': 'X' at position 3"),
        (".tsv", "sequence", "ACXT", r"line 152, column 'sequence': 'X' at position 3"),
        (".parquet", "sequence", None, r"row 151, column 'sequence': the sequence is empty"),
        (".parquet", "expression", np.inf, r"row 151, column 'expression': inf is not a finite number"),
        (".parquet", "expression", np.nan, r"row 151: no measurement in 'expression'"),
        (".parquet", "reads", -1, r"row 151, column 'reads': the weight is -1, which is below 0"),
        (".parquet", "reads", np.nan, r"row 151, column 'reads': the weight is missing"),
    ],
)
def test_a_stream_says_where_its_table_is_wrong(tmp_path, tiny_tokenizer, suffix, column, value, complaint):
    table = promoters(300)
    table[column] = table[column].astype(object if column == "sequence" else float)
    table.loc[150, column] = value
    path = write(table, tmp_path / f"promoters{suffix}")
    with pytest.raises(InputError, match=rf"promoters\{suffix}, {complaint}"):
        stream_assay(path, tiny_tokenizer, weight_column="reads", batch_size=16)


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"label_columns": ["missing"]}, r"promoters\.parquet: there is no column 'missing'; there are 'sequence', "),
        ({"label_columns": ["constant"]}, "In the training rows, the column 'constant' has no two different values"),
        ({"weight_column": "nothing"}, r"promoters\.parquet, column 'nothing': every weight is 0"),
        ({"sequence_column": "long"}, r"promoters\.parquet: no insert fits the construct's 12 letters\. Are there"),
    ],
)
def test_a_stream_of_a_table_that_cannot_be_trained_on(tmp_path, tiny_tokenizer, columns, complaint):
    table = promoters(20).assign(constant=0.1, nothing=0, long="A" * 13, expression=1.5 * np.arange(20))
    path = write(table, tmp_path / "promoters.parquet")
    with pytest.raises(InputError, match=complaint):
        stream_assay(path, tiny_tokenizer, **columns, batch_size=16)


def test_a_table_that_changes_under_way_is_noticed(tmp_path, tiny_tokenizer):
    path = write(promoters(100), tmp_path / "promoters.tsv")
    stream = stream_assay(path, tiny_tokenizer, batch_size=16)
    for rows in (99, 101):
        write(promoters(rows), tmp_path / "promoters.tsv")
        with pytest.raises(InputError, match=r"promoters\.tsv: it has changed since"):
            list(stream)


def test_a_source_given_twice_counts_twice(tmp_path, tiny_tokenizer):
    first, second = (write(promoters(rows, seed=rows), tmp_path / f"{rows}.parquet") for rows in (70, 140))
    stream = stream_assay([first, second, first], tiny_tokenizer, batch_size=16)
    assert len(stream) == 240
    assert [(table.source, table.times) for table in stream.tables] == [(first, 2), (second, 1)]
    rows = pd.DataFrame(list(stream))
    assert sorted(rows.sequence.value_counts().value_counts().items()) == [(1, 120), (2, 60)]
    assert stream.label_mean == pytest.approx([rows.expression.mean()])
    assert stream.label_std == pytest.approx([rows.expression.std(ddof=0)])


@unhurried
@given(st.lists(st.lists(st.floats(-1, 1), max_size=20), min_size=1, max_size=5), st.sampled_from([0.0, 1e6]))
@example([[0.0, 0.03125]], 1e6)
def test_moments_of_pieces_are_those_of_the_whole(pieces, offset):
    whole = np.concatenate([np.array(piece) + offset for piece in pieces])
    moments = Moments.of(np.empty((0, 1)))
    for piece in pieces:
        moments = moments.merged(Moments.of(np.array(piece)[:, None] + offset))
    if len(whole) == 0 or np.float32(whole.min()) == np.float32(whole.max()):
        with pytest.raises(InputError, match="'expression' has no two different values"):
            moments.scale(["expression"])
    else:
        mean, std = moments.scale(["expression"])
        assert mean == pytest.approx([whole.mean()], rel=1e-12)
        assert std == pytest.approx([whole.std()], rel=1e-6, abs=1e-9)


def repository(folder: Path, rows: int = 300) -> pd.DataFrame:
    """Two Parquet files of two row groups each, as the Hub has them."""
    (folder / "data").mkdir(parents=True)
    table = promoters(rows)
    for part, piece in enumerate(np.array_split(np.arange(rows), 2)):
        write(table.iloc[piece], folder / "data" / f"train-0000{part}-of-00002.parquet", rows_in_group=75)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Promoters\n")
    return table


def test_a_dataset_repository_in_a_folder(tmp_path, monkeypatch, tiny_tokenizer):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table = repository(tmp_path / "repository")
    source = str(tmp_path / "repository")
    stream = stream_assay(source, tiny_tokenizer, weight_column="reads", batch_size=16)
    loaded = load_assay(source, weight_column="reads")
    assert loaded["sequence"][:] == table.sequence.tolist()
    np.testing.assert_array_equal(loaded["expression"][:], table.expression)
    assert stream.tables[0].digest == content_digest(loaded)
    for workers in (0, 2):
        found = batches(stream, 16, 0, workers)
        assert sorted(rows_of(found)) == sorted(table.sequence[table.sequence.str.len() <= 12])
        assert [len(batch) for batch in found] == [16] * 16 + [1]
    for read in (partial(stream_assay, tokenizer=tiny_tokenizer, batch_size=16), load_assay):
        with pytest.raises(InputError, match=r"repository: there is no column 'glucose'; there are 'sequence'"):
            read(source, label_columns=["glucose"])
        with pytest.raises(InputError, match="neither a table nor a dataset on the Hub"):
            read(str(tmp_path / "nowhere"))


def test_a_wrong_row_of_a_hub_dataset_is_named(tmp_path, monkeypatch, tiny_tokenizer):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "repository"
    folder.mkdir()
    promoters(100).to_csv(folder / "train.csv", index=False)
    promoters(100).assign(sequence=["ACGT"] * 60 + [None] + ["ACGT"] * 39).to_csv(folder / "train2.csv", index=False)
    for read in (partial(stream_assay, tokenizer=tiny_tokenizer, batch_size=16), load_assay):
        with pytest.raises(InputError, match=r"repository, row 161, column 'sequence': the sequence is empty"):
            read(str(folder))


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a public dataset needs: what is in it, and its files whole and in ranges."""

    repository: Path
    protocol_version = "HTTP/1.1"
    revision = "0123456789" * 4

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        files = {file.relative_to(self.repository).as_posix(): file for file in sorted(self.repository.rglob("*"))}
        if path.startswith(f"/api/datasets/me/promoters/tree/{self.revision}"):
            folder = path.partition(self.revision)[2].strip("/")
            inside = [name for name in files if name.startswith(folder)] if folder else list(files)
            self.answer(json.dumps([self.entry(name, files[name]) for name in inside]).encode())
        elif path.startswith("/api/datasets/me/promoters") and "/tree/" not in path:
            self.answer(json.dumps({"id": "me/promoters", "sha": self.revision, "siblings": []}).encode())
        elif path.startswith("/datasets/me/promoters/resolve/"):
            file = files.get(path.partition("/resolve/")[2].partition("/")[2])
            self.answer_file(file) if file else self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
        else:
            self.answer(b"", 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        there = [name for name in asked if (self.repository / name).exists()]
        self.answer(json.dumps([self.entry(name, self.repository / name) for name in there]).encode())

    def entry(self, name: str, file: Path) -> dict:
        kind = {"type": "directory"} if file.is_dir() else {"type": "file", "size": file.stat().st_size}
        return {"path": name, "oid": self.revision, **kind}

    def answer_file(self, file: Path):
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": self.revision}
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            piece = content[int(first) : int(last) + 1 if last else None]
            end = int(first) + len(piece) - 1
            self.answer(piece, 206, headers | {"Content-Range": f"bytes {first}-{end}/{len(content)}"})
        else:
            self.answer(content, 200, headers)

    def answer(self, body: bytes, status: int = 200, headers: dict | None = None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> pd.DataFrame:
    """A Hub of this machine's own, whose only dataset is `me/promoters`; the rows in it."""
    table = repository(tmp_path / "repository")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Repository", (Hub,), {"repository": tmp_path / "repository"}))
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    for settings_of_a_library in (constants, datasets.config):
        monkeypatch.setattr(settings_of_a_library, "HF_HUB_OFFLINE", False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield table
    server.shutdown()
    server.server_close()


def test_from_the_hub(tmp_path, hub, tiny_tokenizer):
    stream = stream_assay("me/promoters", tiny_tokenizer, batch_size=16)
    for workers in (0, 2):
        assert sorted(rows_of(batches(stream, 16, 0, workers))) == sorted(hub.sequence[hub.sequence.str.len() <= 12])
    assert not list(tmp_path.glob("hub/**/*.parquet")), "streamed, not downloaded"
    loaded = load_assay("me/promoters")
    assert list(tmp_path.glob("hub/**/*.parquet"))
    assert loaded["sequence"][:] == hub.sequence.tolist()
    assert content_digest(loaded) == stream.tables[0].digest
    for read in (partial(stream_assay, tokenizer=tiny_tokenizer, batch_size=16), load_assay):
        with pytest.raises(InputError, match="you/promoters: neither a table nor a dataset on the Hub"):
            read("you/promoters")
