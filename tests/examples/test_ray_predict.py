"""`examples/ray_predict.py` on a real Ray on this machine."""

import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from threading import Thread

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from waiting import wait_for

from modeling_proformer import (
    InputError,
    ProformerTokenizer,
    PromoterEmbedder,
    PromoterPredictor,
    VariantScorer,
    load_checkpoint,
    predict_file,
)


ray = pytest.importorskip("ray", reason="Ray is not installed; `make test-ray` runs this")
pytest.importorskip("ray.data", reason="Ray Data is not installed; `make test-ray` runs this")

SCRIPT = Path(__file__).parents[2] / "examples" / "ray_predict.py"
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "OMP_NUM_THREADS": "1"}
# Each file has so many rows, and one of them is bad.
ROWS = 1200
BAD_ROW = 734


@pytest.fixture(scope="module")
def ray_folder():
    # The names of sockets are short, and those of pytest's folders are long.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(ray_folder):
    """Start Ray once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80_000_000,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=str(ray_folder / "here"),
        )
        yield
        ray.shutdown()
    assert not processes_with(str(ray_folder / "here"))


@pytest.fixture(scope="module")
def checkpoint(two_outputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    two_outputs.save_pretrained(folder)
    ProformerTokenizer(kmer_size=3, insert_width=12).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def promoters(tmp_path_factory) -> Path:
    """Return a folder with two files of several row groups, and one of no rows within it."""
    folder = tmp_path_factory.mktemp("data") / "promoters"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, rows in [("a", ROWS), ("b", ROWS), ("more/empty", 0)]:
        sequences = ["".join(bases) for bases in rng.choice(list("ACGT"), (rows, 12))]
        if name == "b":
            sequences[BAD_ROW - 1] = "ACGX"
        table = pa.table({"number": np.arange(rows), "sequence": pa.array(sequences, pa.string())})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=300)
    return folder


@pytest.fixture(scope="module")
def expected(promoters, checkpoint) -> dict[str, list[dict]]:
    """Return the rows that each file should have, from `predict_file`."""
    model, tokenizer = load_checkpoint(checkpoint)
    rows = {}
    for name in ("a", "b"):
        rows[name] = [
            row.cells
            | {
                f"predicted_LABEL_{output}": None if row.error else pytest.approx(value, rel=1e-5, abs=1e-5)
                for output, value in enumerate(values)
            }
            | {"error": row.error}
            for rows_of_batch, batch in predict_file(model, tokenizer, promoters / f"{name}.parquet", on_error="mark")
            for row, values in zip(rows_of_batch, batch, strict=True)
        ]
    return rows


def processes_with(text: str) -> list[psutil.Process]:
    """Return the processes whose command has a text."""
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if text in " ".join(process.info["cmdline"] or [])]


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Run the script in this process, and return its status, output and error."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return end.value.code, *capsys.readouterr()


def read(folder: Path, name: str) -> list[dict]:
    """Return the rows of the parts of a file, in the order of the parts' names."""
    return [row for path in sorted(folder.glob(f"{name}*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.slow
def test_rows_are_those_of_predict_file_and_are_predicted_once(
    cluster, promoters, checkpoint, expected, tmp_path, capsys
):
    output = tmp_path / "predicted"
    arguments = [promoters.as_uri(), output.as_uri(), "--model", checkpoint, "--rows", 400, "--quiet"]
    code, out, _ = run(capsys, *arguments, "--actors", 2)
    assert code == 0
    bad = f"{promoters}/b.parquet, row {BAD_ROW}, column 'sequence': 'X' at position 4 is not one of A C G T U N."
    assert out.startswith(f"2,400 of 2,400 sequences were predicted in this run. 1 of them are marked as bad: {bad}")
    assert read(output, "a") == expected["a"]
    assert read(output, "b") == expected["b"]
    empty = pq.read_table(output / "more" / "empty.parquet")
    assert empty.column_names == list(expected["a"][0]) and len(empty) == 0
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")}
    assert len(before) == 7
    assert run(capsys, *arguments)[:2] == (0, "0 of 2,400 sequences were predicted in this run.\n")
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")} == before
    code, _, error = run(capsys, *arguments, "--orientation", "both")
    assert (code, error.count("\n")) == (1, 1)
    assert "its files were made with orientation 'given' instead of 'both'" in error
    (tmp_path / "other").mkdir()
    model, tokenizer = load_checkpoint(checkpoint)
    next(model.parameters()).data += 1
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "other")
    code, _, error = run(capsys, *arguments, "--model", tmp_path / "other")
    assert code == 1 and error.endswith("its files were made with another model; give another folder.\n")


def test_a_file_that_has_changed_since_is_not_mixed_with_what_was_made_of_it(
    cluster, promoters, checkpoint, tmp_path, capsys
):
    shutil.copytree(promoters, tmp_path / "in")
    arguments = [tmp_path / "in", tmp_path / "out", "--model", checkpoint, "--quiet"]
    assert run(capsys, *arguments)[0] == 0
    os.utime(tmp_path / "in" / "a.parquet", (0, 0))
    code, _, error = run(capsys, *arguments)
    assert (code, error.count("\n")) == (1, 1)
    assert f"{tmp_path}/in/a.parquet has changed since {tmp_path}/out/a.parquet was made from it; give" in error


@pytest.mark.slow
def test_a_damaged_file_costs_no_other_file_anything(cluster, promoters, checkpoint, expected, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.parquet").symlink_to(promoters / "a.parquet")
    table = pa.table({"sequence": ["ACGTACGTACGT"] * 1000})
    pq.write_table(table, tmp_path / "in" / "damaged.parquet", compression="none", use_dictionary=False)
    content = (tmp_path / "in" / "damaged.parquet").read_bytes()
    (tmp_path / "in" / "damaged.parquet").write_bytes(content[:5000] + b"\xff" * 100 + content[5100:])
    (tmp_path / "in" / "truncated.parquet").write_bytes(content[:5000])
    code, _, error = run(capsys, tmp_path / "in", tmp_path / "out", "--model", checkpoint, "--quiet")
    assert (code, error.count("\n")) == (1, 1)
    assert error.startswith(
        "ray_predict: 2 of 3 files were not written; the same command tries them again. "
        f"{tmp_path}/in/truncated.parquet: not a readable Parquet file ("
    )
    assert f"; {tmp_path}/in/damaged.parquet: not a readable Parquet file (" in error
    assert read(tmp_path / "out", "a") == expected["a"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.parquet", "_made_with.json"}


@pytest.mark.slow
def test_an_actor_that_is_killed_costs_nothing(cluster, promoters, checkpoint, expected, tmp_path, capsys):
    output = tmp_path / "predicted"
    killed = []

    def kill_first():
        wait_for(lambda: len(list(output.glob("a*.parquet"))) >= 2)
        ours = psutil.Process().children(recursive=True)
        (actor,) = [each for each in processes_with("ray::MapWorker(Map(PartPredictor))") if each in ours]
        actor.kill()
        killed.append(len(list(output.glob("*.parquet"))))

    killer = Thread(target=kill_first)
    killer.start()
    code, out, _ = run(capsys, promoters, output, "--model", checkpoint, "--rows", 100, "--quiet")
    killer.join()
    assert killed and killed[0] < 24
    # Ray reports the death before.
    last = out.splitlines()[-1]
    assert code == 0 and last.startswith("2,400 of 2,400 sequences were predicted in this run. 1 of them")
    assert (read(output, "a"), read(output, "b")) == (expected["a"], expected["b"])


@pytest.mark.slow
def test_a_part_that_kills_its_actors_ends_the_run(cluster, promoters, checkpoint, tmp_path, monkeypatch, capsys):
    def end_process(self, part):
        os.kill(os.getpid(), signal.SIGKILL)

    script = runpy.run_path(str(SCRIPT), run_name="script")
    monkeypatch.setattr(script["PartPredictor"], "_predict", end_process)
    monkeypatch.setitem(script["main"].__globals__, "RETRIES", 1)
    arguments = [promoters / "a.parquet", tmp_path / "predicted", "--model", checkpoint, "--quiet"]
    monkeypatch.setattr(sys, "argv", ["ray_predict.py", *map(str, arguments)])
    assert script["main"]() == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("ray_predict: The actors that predicted one part were killed 2 times, perhaps because")


@pytest.mark.slow
def test_a_run_that_is_ended_twice_resumes(cluster, promoters, checkpoint, expected, tmp_path, capsys, ray_folder):
    output = tmp_path / "predicted"
    arguments = [promoters, output, "--model", checkpoint, "--rows", 100, "--quiet"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= SETTINGS | {"RAY_TMPDIR": str(ray_folder / "other")}

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in output.rglob("[a-z]*.parquet")}

    done: dict[Path, int] = {}
    for number in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(
            [sys.executable, SCRIPT, *map(str, arguments)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            wait_for(lambda: len(written()) >= len(done) + 2)  # noqa: B023
            process.send_signal(number)
            told = process.stderr.read().splitlines()
        if number == signal.SIGTERM:
            assert process.returncode == 143
            assert "ray_predict: stopped by SIGTERM. The same command resumes." in told
        wait_for(lambda: not processes_with(str(ray_folder / "other")))
        assert written().items() >= done.items()
        done = written()
    assert 4 <= len(done) < 25
    # A process that is killed leaves the file that it was writing.
    (output / "_unfinished-1-a-000000001100.parquet").write_bytes(b"PAR1")
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    left = 2400 - 100 * len([path for path in done if path.parent == output])
    assert out.startswith(f"{left:,} of 2,400 sequences were predicted in this run.")
    assert written().items() >= done.items()
    assert (read(output, "a"), read(output, "b")) == (expected["a"], expected["b"])
    assert [path.name for path in output.iterdir() if path.name.startswith("_")] == ["_made_with.json"]


@pytest.mark.slow
def test_the_class_is_one_for_map_batches(cluster, promoters, checkpoint, expected):
    table = ray.data.read_parquet(str(promoters / "b.parquet"), include_paths=True).map_batches(
        PromoterPredictor,
        fn_constructor_args=[str(checkpoint)],
        batch_format="pyarrow",
        batch_size=500,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    )
    rows = sorted(table.take_all(), key=lambda row: row["number"])
    assert {row.pop("path") for row in rows} == {str(promoters / "b.parquet")}
    assert rows == expected["b"]


@pytest.mark.slow
@pytest.mark.parametrize("function", [PromoterEmbedder, VariantScorer])
def test_the_other_classes_are_too(cluster, checkpoint, function):
    sequences = ["ACGTACGTACGT", "ACGTACGTACGA", "ACGX"]
    table = pa.table({"sequence": sequences, "reference": sequences, "alternate": sequences[1:] + sequences[:1]})
    mapped = ray.data.from_arrow(table).map_batches(
        function,
        fn_constructor_args=[str(checkpoint)],
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    )
    found = pa.concat_tables(ray.get(mapped.to_arrow_refs()))
    assert found.to_pylist() == function(str(checkpoint))(table).to_pylist()


def test_what_is_not_fit_is_refused_in_one_line(promoters, checkpoint, tmp_path, capsys):
    def refuse(*arguments) -> str:
        code, out, error = run(capsys, *arguments, "--quiet")
        assert (code, out, error.count("\n")) == (1, "", 1)
        return error.removeprefix("ray_predict: ").removesuffix("\n")

    new = tmp_path / "new"
    (tmp_path / "none").mkdir()
    model = ["--model", checkpoint]
    assert refuse(tmp_path / "none", new, *model) == f"{tmp_path}/none: there are no Parquet files."
    assert refuse(tmp_path / "absent", new, *model) == f"{tmp_path}/absent: there are no Parquet files."
    columns = "there are 'number', 'sequence'."
    assert refuse(promoters, new, *model, "--sequence", "dna") == (
        f"{promoters}/a.parquet: there is no column 'dna'; {columns}"
    )
    twice = pa.table([pa.array(["ACGT"])] * 2, ["sequence", "sequence"])
    (tmp_path / "twice").mkdir()
    pq.write_table(twice, tmp_path / "twice" / "a.parquet")
    assert refuse(tmp_path / "twice", new, *model).endswith("there are 2 columns 'sequence'; rename the others.")
    (tmp_path / "alike").mkdir()
    for name, rows in (("a.parquet", 2), ("a-000000000000.PARQUET", 1)):
        pq.write_table(pa.table({"sequence": ["ACGT"] * rows}), tmp_path / "alike" / name)
    both = f"{tmp_path}/alike/a.parquet and {tmp_path}/alike/a-000000000000.PARQUET would both be written to {new}/a-"
    assert both in refuse(tmp_path / "alike", new, *model, "--rows", 1)
    assert refuse(promoters, promoters / "out", *model).endswith(
        "the output lies within the input; give another folder."
    )
    assert "this is neither a folder nor a repository" in refuse(promoters, new, "--model", tmp_path / "missing")
    assert refuse("nowhere://promoters", new, *model).startswith("nowhere://promoters: cannot be opened (")
    (tmp_path / "none" / "damaged.parquet").write_bytes(b"PAR1 and no more")
    assert not new.exists()
    assert "damaged.parquet: not a readable Parquet file" in refuse(tmp_path / "none", new, *model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    error = refuse(promoters, tmp_path / "full", *model)
    assert error == f"{tmp_path}/full: there are other files, such as {tmp_path}/full/mine.txt; give an empty folder."
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_actors_that_no_machine_has_room_for_are_reported(monkeypatch, capsys):
    require_room = runpy.run_path(str(SCRIPT))["require_room"]
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 1.0}}]
    require_room(nodes, Namespace(cpus=2, gpus=0))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for needs in (Namespace(cpus=64, gpus=0), Namespace(cpus=1, gpus=0.5)):
        with pytest.raises(InputError, match=f"has not the {needs.cpus} cores and {needs.gpus} GPUs, which an actor"):
            require_room(nodes, needs)
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")
    require_room(nodes, Namespace(cpus=1, gpus=1))
    assert capsys.readouterr().err.startswith("ray_predict: waiting for a machine of the cluster with the 1 cores and")


@pytest.mark.parametrize("option", ["--actors 0", "--rows 0", "--batch_size -5", "--cpus -1", "--gpus -1"])
def test_numbers_that_make_no_sense_are_refused(promoters, tmp_path, capsys, option):
    code, _, error = run(capsys, promoters, tmp_path / "out", *option.split())
    assert code == 2 and f"error: {' is '.join(option.split())}, but must " in error
    assert not (tmp_path / "out").exists()
