"""Tables of every source become the same checked rows, or one error that says where."""

import gzip
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from columnar import write_columns
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from modeling_proformer.data import sources
from modeling_proformer.data.checking import check_rows, refuse_bad_rows
from modeling_proformer.data.config import DataConfig
from modeling_proformer.data.sources import content_digest, load_table
from modeling_proformer.data.streams import EndlessStream, stream_table, version_of
from modeling_proformer.data.tables import InputError, read_rows


# An example takes longer on a busy machine.


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """Return one folder for all the examples of a property."""
    yield tmp_path_factory.mktemp("tables")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Keep the checked copy of every file in this folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 0)
    return tmp_path / "cache"


def promoters(rows: int) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "sequence": ["".join(generator.choice(list("ACGT"), 12)) for _ in range(rows)],
            "expression": generator.normal(8, 3, rows),
            "activity": [None if row % 5 == 0 else row % 18 for row in range(rows)],
            "reads": generator.integers(0, 4, rows),
            "gene": [f"gene {row // 4}" for row in range(rows)],
            "fold": [("train", "Val", "test")[row % 3] for row in range(rows)],
        }
    )


CONFIG = DataConfig(targets=["expression", "activity"], weight="reads", group="gene", split="fold")


def test_every_source_gives_the_same_rows(tmp_path, cache):
    frame = promoters(300)
    frame.to_csv(tmp_path / "table.tsv", sep="\t", index=False)
    for name in ("table.parquet", "table.arrow", "table.stream.arrow"):
        write_columns(tmp_path / name, pa.Table.from_pandas(frame), rows_in_piece=64)
    expected = load_table(frame, CONFIG)
    assert expected.column_names == ["sequence", "labels", "weight", "group", "split", "location", "error"]
    assert expected[4] == {
        "sequence": frame.sequence[4],
        "labels": [frame.expression[4], 4.0],
        "weight": float(frame.reads[4]),
        "group": "gene 1",
        "split": "validation",
        "location": "row 5",
        "error": "",
    }
    given = [pa.Table.from_pandas(frame), datasets.Dataset.from_pandas(frame)]
    given += [tmp_path / name for name in ("table.tsv", "table.parquet", "table.arrow", "table.stream.arrow")]
    for data in given:
        table = load_table(data, CONFIG)
        np.testing.assert_array_equal(np.array(table["labels"][:]), np.array(expected["labels"][:]))
        for column in ("sequence", "weight", "group", "split"):
            assert table[column][:] == expected[column][:]
        assert content_digest(table) == content_digest(expected)
        assert table["location"][4] == ("line 6" if str(data).endswith(".tsv") else "row 5")


def test_a_selection_of_a_dataset_and_a_frame_with_an_index_of_its_own(tmp_path):
    frame = promoters(100)
    chosen = load_table(datasets.Dataset.from_pandas(frame).select([7, 3]), DataConfig())
    assert chosen["sequence"][:] == [frame.sequence[7], frame.sequence[3]]
    chosen = load_table(frame[frame.reads > 1], DataConfig())
    assert chosen["sequence"][:] == frame.sequence[frame.reads > 1].tolist()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"sequence": ["ACGT"]}, "a pandas.DataFrame, a datasets.Dataset or the name of a Hub dataset, got the dict"),
        (datasets.DatasetDict(), "got the DatasetDict"),
    ],
)
def test_other_objects_are_refused(data, complaint):
    with pytest.raises(TypeError, match=complaint):
        load_table(data, DataConfig())


def test_a_frame_of_mixed_types_is_checked_cell_by_cell():
    frame = pd.DataFrame({"sequence": ["ACGT", "ACG", "AC"], "expression": [1.5, "NA", "2"]}, dtype=object)
    assert np.array(load_table(frame, DataConfig())["labels"][:]).ravel().tolist() == pytest.approx(
        [1.5, np.nan, 2], nan_ok=True
    )
    frame.loc[1, "expression"] = "high"
    with pytest.raises(InputError, match="the DataFrame, row 2, column 'expression': 'high' is not a finite number"):
        load_table(frame, DataConfig())


BAD_CELLS = [
    ("expression", 1e300, r"column 'expression': 1e\+300 is too large"),
    ("expression", "high", "column 'expression': 'high' is not a finite number"),
    ("expression", float("inf"), "column 'expression': '?inf'? is not a finite number"),
    ("sequence", "NNNN", "column 'sequence': the sequence has no base but N"),
    ("sequence", "", "column 'sequence': the sequence is empty"),
    ("sequence", None, "column 'sequence': the sequence is empty"),
    ("reads", -1, "column 'reads': the weight is -1, which is below 0"),
    ("reads", None, "column 'reads': the weight is missing"),
    ("reads", 1e300, r"column 'reads': 1e\+300 is too large"),
    ("gene", None, "column 'gene': the group is missing"),
    ("gene", "NA", "column 'gene': the group is missing"),
    ("fold", "north", "column 'fold': 'north' is not a split; expected one of train, validation, test"),
]


def streamed_rows(source: Path | str, config: DataConfig) -> list[dict]:
    return [row for file in stream_table(source, config) for table in file.read() for row in table.to_pylist()]


@pytest.mark.parametrize("kind", ["frame", "dataset", ".tsv", ".parquet", "stream"])
@pytest.mark.parametrize(("column", "value", "complaint"), BAD_CELLS)
def test_a_bad_cell_is_refused_alike_from_every_source(tmp_path, kind, column, value, complaint):
    frame = promoters(50)
    if column == "expression" and isinstance(value, str) and kind != ".tsv":
        frame["expression"] = frame["expression"].astype(str)
    else:
        frame = frame.astype({column: object})
    frame.loc[30, column] = value
    if isinstance(value, float):
        frame = frame.astype({column: float})
    location = "line 32" if kind == ".tsv" else "row 31"
    name = r"(table\.\w+|the \w+)"
    with pytest.raises(InputError, match=rf"{name}, {location}, {complaint}"):
        if kind == "frame":
            load_table(frame, CONFIG)
        elif kind == "dataset":
            load_table(datasets.Dataset.from_pandas(frame), CONFIG)
        elif kind == ".tsv":
            frame.to_csv(tmp_path / "table.tsv", sep="\t", index=False)
            load_table(tmp_path / "table.tsv", CONFIG)
        else:
            frame.to_parquet(tmp_path / "table.parquet")
            if kind == ".parquet":
                load_table(tmp_path / "table.parquet", CONFIG)
            streamed_rows(tmp_path / "table.parquet", CONFIG)


def test_missing_columns_and_files(tmp_path, cache):
    promoters(5).to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "empty.tsv").write_text("sequence\texpression\n")
    for data in (tmp_path / "table.csv", promoters(5), datasets.Dataset.from_pandas(promoters(5))):
        with pytest.raises(InputError, match="there is no column 'glucose'; there are 'sequence', 'expression'"):
            load_table(data, DataConfig(targets=["glucose"]))
    with pytest.raises(InputError, match=r"missing\.tsv: no such file"):
        load_table(tmp_path / "missing.tsv", DataConfig())
    with pytest.raises(InputError, match=r"empty\.tsv: there are no rows in it"):
        load_table(tmp_path / "empty.tsv", DataConfig())


def columns_of(*kinds: tuple[pa.DataType, list]) -> st.SearchStrategy[pa.Array]:
    """Draw a column of 3 rows of one of these types, with cells from its list."""
    return st.sampled_from(kinds).flatmap(
        lambda kind: st.lists(st.sampled_from(kind[1]), min_size=3, max_size=3).map(partial(pa.array, type=kind[0]))
    )


TEXTS = ["ACGT", " acg\t", "A"] * 9 + ["", None]
NUMBERS = [1.5, -2.0, 0.0] * 9 + [None, float("nan"), float("inf")]
SEQUENCES = columns_of(
    *((kind, TEXTS) for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())))
)
MEASUREMENTS = columns_of(
    # Types that are checked at once are drawn more often than the others.
    *((kind, NUMBERS) for kind in (pa.float64(), pa.float32()) * 4),
    (pa.int64(), [0, 7, -1, 2**62 + 1] * 5 + [None]),
    (pa.uint8(), [1, 255]),
    (pa.string(), ["1.5", " 2 ", "0", "NA", "high"]),
    (pa.bool_(), [True, False]),
)
WEIGHTS = columns_of((pa.int32(), [0, 1, 5] * 9 + [-1, None]), (pa.float64(), [0.0, 2.5] * 9 + [-0.5, float("nan")]))
GROUPS = columns_of(
    (pa.string(), ["a", " b", ""] * 9 + [None]), *[(pa.int16(), [3, -1])] * 4, (pa.float64(), [1.0, 2.5])
)


SPLITS = columns_of((pa.string(), ["train", "Test ", "dev"] * 9 + ["north", None]))

numbers = itertools.count()


@given(SEQUENCES, MEASUREMENTS, MEASUREMENTS, WEIGHTS, GROUPS, SPLITS, st.booleans())
def test_a_table_is_checked_at_once_as_it_is_row_by_row(folder, sequence, up, down, reads, group, split, bins):
    """The table or the error is the same, whatever types the columns have."""
    cells = {"sequence": sequence, "up": up, "down": down, "reads": reads, "group": group, "split": split}
    path = folder / f"{next(numbers)}.parquet"
    write_columns(path, pa.table(cells))
    config = DataConfig(
        targets=["up", "down"], weight="reads", group="group", split="split", bins=[0, 1] if bins else None
    )
    assert_checked_alike(path, config)


def assert_checked_alike(path: Path, config: DataConfig):
    """Compare the table, or the error, with what the row checker makes of the same file."""
    try:
        expected = check_rows(str(path), read_rows(path), config)
        refuse_bad_rows(str(path), expected, config)
    except InputError as error:
        with pytest.raises(InputError, match=f"^{re.escape(str(error))}$"):
            load_table(path, config)
    else:
        # As text, in which NaN is equal to itself.
        assert repr(load_table(path, config).to_dict()) == repr(expected.to_pydict())


CLASSES = columns_of(
    *[(kind, ["low", " mid\t", "high"] * 9 + ["NA", None, "Low"]) for kind in (pa.string(), pa.large_string())],
    (pa.dictionary(pa.int8(), pa.string()), ["low", "none", "high"] * 9 + [None]),
    (pa.int64(), [0, 1] * 9 + [None, 2**62 + 1]),
    (pa.float32(), [0.0, -0.0, 1.0] * 9 + [float("nan"), 0.5]),
    (pa.string(), ["0", " 1.0", "+1", "TRUE", "false"]),
    (pa.bool_(), [True, True, False]),
    (pa.decimal128(5, 2), [Decimal("1.00"), Decimal("0.50")]),
)
AMBIGUOUS = columns_of(*((kind, [*TEXTS, "ACRT", "yy", "RNK"]) for kind in (pa.string(), pa.large_string())))


@given(AMBIGUOUS, CLASSES, WEIGHTS, st.booleans())
def test_classes_and_ambiguous_bases_are_checked_at_once_as_row_by_row(folder, sequence, level, reads, iupac_as_n):
    path = folder / f"{next(numbers)}.parquet"
    write_columns(path, pa.table({"sequence": sequence, "level": level, "reads": reads}))
    classes = ["low", "mid", "high", "none", "0", "1", "true"]
    config = DataConfig(targets=["level"], classes=classes, weight="reads", iupac_as_n=iupac_as_n)
    assert_checked_alike(path, config)


def test_large_files_are_mapped_from_the_cache(tmp_path, cache):
    """Memory does not grow with the table, and the second time nothing is read but the copy."""
    path, count = tmp_path / "table.parquet", 100_000
    write_columns(path, pa.table({"sequence": ["ACGTACGT" * 10] * count, "expression": np.arange(count) / 2}))
    before = pa.total_allocated_bytes()
    first, second = load_table(path, DataConfig()), load_table(path, DataConfig())
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert len(list(cache.glob("**/*.*"))) == 1
    assert first[count - 1] == second[count - 1]
    assert first[count - 1]["labels"] == [(count - 1) / 2]


def test_a_small_file_with_a_large_table_in_it_is_mapped_too(tmp_path, cache, monkeypatch):
    path, count = tmp_path / "table.tsv.gz", 50_000
    path.write_bytes(gzip.compress(b"sequence\texpression\n" + b"ACGTACGTAC\t1\n" * count))
    monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 1_000_000)
    assert path.stat().st_size < 1_000_000
    before = pa.total_allocated_bytes()
    table = load_table(path, DataConfig())
    assert pa.total_allocated_bytes() - before < 100_000
    assert len(list(cache.glob("**/*.arrow"))) == 1
    assert (len(table), table[count - 1]["location"]) == (count, f"line {count + 1}")


def test_an_edited_file_is_read_again(tmp_path, cache):
    for value in (1.0, 2.0):
        (tmp_path / "table.tsv").write_text(f"sequence\texpression\nACGT\t{value}\n")
        assert load_table(tmp_path / "table.tsv", DataConfig())["labels"][:] == [[value]]


def test_no_half_written_copy_is_left_in_the_cache(tmp_path, cache):
    path = tmp_path / "table.tsv"
    path.write_text("sequence\texpression\n" + "ACGT\t1\n" * 9000 + "ACGT\t1\t2\n")
    with pytest.raises(InputError, match=r"table\.tsv, line 9002: 3 cells under a header of 2 columns"):
        load_table(path, DataConfig())
    assert not list(cache.glob("**/*.*"))


def test_content_digest_follows_rows_and_not_batches():
    def digest(**columns) -> str:
        return content_digest(datasets.Dataset(pa.table(columns)))

    sequences, values = ["ACGT", "AC", "G", "T"], [1.0, float("nan"), float("nan"), 2.0]
    whole = digest(sequence=sequences, weight=values)
    pieces = pa.chunked_array([sequences[:1], [], sequences[1:]], pa.string())
    assert digest(sequence=pieces, weight=pa.chunked_array([values[:3], values[3:]])) == whole
    assert digest(sequence=sequences, weight=values, location=["row 1", "", "", ""]) == whole
    others = [
        digest(sequence=sequences[::-1], weight=values),
        digest(sequence=sequences[1:], weight=values[1:]),
        digest(sequence=["ACG", "TAC", "G", "T"], weight=values),
        digest(dna=sequences, weight=values),
        digest(sequence=sequences, weight=[1.0, float("nan"), float("nan"), 3.0]),
    ]
    assert len({whole, *others}) == 6


def repository(folder: Path, rows: int = 300) -> pd.DataFrame:
    """Write two Parquet files of two row groups each, as the Hub has them, and return their rows."""
    (folder / "data").mkdir(parents=True)
    frame = promoters(rows)
    for part, piece in enumerate(np.array_split(np.arange(rows), 2)):
        table = pa.Table.from_pandas(frame.iloc[piece], preserve_index=False)
        write_columns(folder / "data" / f"train-0000{part}-of-00002.parquet", table, rows_in_piece=75)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Promoters\n")
    return frame


def test_a_dataset_repository_in_a_folder(tmp_path, cache):
    frame = repository(tmp_path / "repository")
    source = str(tmp_path / "repository")
    loaded = load_table(source, CONFIG)
    assert content_digest(loaded) == content_digest(load_table(frame, CONFIG))
    assert loaded["location"][200] == "row 201"
    streamed = streamed_rows(source, CONFIG)
    assert [row["sequence"] for row in streamed] == frame.sequence.tolist()
    # As text, in which NaN is equal to itself. The rows of a stream are numbered in each file.
    assert repr(streamed[200]) == repr(loaded[200] | {"location": "row 51"})
    for read in (load_table, stream_table):
        with pytest.raises(InputError, match=r"repository: there is no column 'glucose'; there are 'sequence'"):
            read(source, DataConfig(targets=["glucose"]))
        with pytest.raises(InputError, match="neither a table nor a dataset on the Hub"):
            read(str(tmp_path / "nowhere"), DataConfig())


def test_a_bad_row_of_a_hub_dataset_is_named(tmp_path, cache):
    folder = tmp_path / "repository"
    folder.mkdir()
    promoters(100).to_csv(folder / "train.csv", index=False)
    promoters(100).assign(sequence=["ACGT"] * 60 + [None] + ["ACGT"] * 39).to_csv(folder / "train2.csv", index=False)
    with pytest.raises(InputError, match=r"repository, row 161, column 'sequence': the sequence is empty"):
        load_table(str(folder), DataConfig())
    place = r"repository, file 2 of 2, row 61, column 'sequence'"
    with pytest.raises(InputError, match=rf"{place}: the sequence is empty"):
        streamed_rows(folder, DataConfig())


class Hub(BaseHTTPRequestHandler):
    """Answers what a client asks of a public dataset on the Hub: its list of files, and files or parts of them."""

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
    """Serve a Hub whose only dataset is `me/promoters`, and return its rows."""
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


def test_from_the_hub(tmp_path, hub):
    streamed = [row["sequence"] for row in streamed_rows("me/promoters", DataConfig())]
    assert streamed == hub.sequence.tolist()
    assert not list(tmp_path.glob("hub/**/*.parquet")), "streamed, not downloaded"
    assert load_table("me/promoters", DataConfig())["sequence"][:] == streamed
    assert list(tmp_path.glob("hub/**/*.parquet"))
    assert Hub.revision in version_of("me/promoters")


def test_loader_workers_stream_from_the_hub(hub, tiny_tokenizer):
    stream = EndlessStream(
        stream_table("me/promoters", DataConfig(), tiny_tokenizer), ["sequence"], batch_size=10, seed=0
    )
    rows = next(iter(stream))
    for workers in (0, 2):
        loader = DataLoader(stream, 10, num_workers=workers, collate_fn=list)
        first, second = islice(loader, 2)
        assert first[0] == rows and len({row["sequence"] for row in first + second}) == 20
