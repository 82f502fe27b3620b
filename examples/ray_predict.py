"""Predict Parquet files on the machines of a Ray cluster, or on the cores or GPUs of this one.

    python examples/ray_predict.py promoters predicted --actors 8 --gpus 1

Both folders may be URIs that pyarrow opens, such as s3://bucket/promoters. A file of the input becomes a file of the
output, or several if it has more than --rows rows. A file of the output is complete or not there, and the same
command resumes where it was stopped.
"""

import argparse
import json
import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from modeling_proformer import InputError, PromoterPredictor, load_checkpoint
from modeling_proformer.data.rows import MAX_QUOTED, quote_rows, require_columns, require_new_columns
from modeling_proformer.data.tables import first_line, readable
from modeling_proformer.loading import weights_digest
from modeling_proformer.signals import stop_on_signals


# Rows that are read at a time.
READ_ROWS = 4096
# A part is tried again so many times if the actor that predicts it is killed.
RETRIES = 3
# This file keeps what the output was made with and from. Readers of Parquet ignore names that begin like it.
RECORD = "_made_with.json"
PARQUET = ".parquet"
# A file is called so until it is complete.
UNFINISHED = "_unfinished-"


class PartPredictor:
    """
    Writes the predictions of parts of files; Ray makes one for each actor.

    Args:
        source, target: where the files are, and where they are written.
        options: arguments of `PromoterPredictor`.
    """

    def __init__(self, source: FileSystem, target: FileSystem, options: dict[str, Any]):
        self.source, self.target = source, target
        self.predict = PromoterPredictor(**options)

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        """
        Write the predictions of a part.

        Returns:
            Its number of rows, that of bad ones, the first of these, and why nothing was written, if nothing was.
        """
        try:
            table = self._predict(part)
            self._write(table, part["output"])
        # A damaged file costs no other file anything, and libraries raise errors of many kinds for one.
        except Exception as error:
            message = first_line(error)
            place = "" if isinstance(error, InputError) else f"{part['path']}: "
            return {"rows": 0, "bad": 0, "quoted": [], "failed": f"{place}{message}"}
        bad = pc.indices_nonzero(pc.not_equal(table["error"], ""))
        quoted = [
            f"{part['path']}, row {part['first'] + number + 1}, {table['error'][number]}"
            for number in bad[:MAX_QUOTED].to_pylist()
        ]
        return {"rows": len(table), "bad": len(bad), "quoted": quoted, "failed": ""}

    def _predict(self, part: dict[str, Any]) -> pa.Table:
        with readable(Path(part["path"])), self.source.open_input_file(part["path"]) as file:
            tables = [*read_part(pq.ParquetFile(file), part["first"], part["rows"])]
        return pa.concat_tables(map(self.predict, tables))

    def _write(self, table: pa.Table, path: str):
        with whole_file(self.target, path) as unfinished:
            pq.write_table(table, unfinished, filesystem=self.target)


@contextmanager
def whole_file(filesystem: FileSystem, path: str) -> Iterator[str]:
    """Yield a path beside that of a file, which gets its own once it is complete; its folder is made."""
    folder, _, name = path.rpartition("/")
    filesystem.create_dir(folder)
    unfinished = f"{folder}/{UNFINISHED}{uuid.uuid4().hex}-{name}"
    yield unfinished
    filesystem.move(unfinished, path)


def read_part(file: pq.ParquetFile, first: int, rows: int) -> Iterator[pa.Table]:
    """Yield some consecutive rows of a file; only the row groups that hold them are read."""
    ends = [0]
    for group in range(file.num_row_groups):
        ends.append(ends[-1] + file.metadata.row_group(group).num_rows)
    groups = [group for group in range(file.num_row_groups) if ends[group] < first + rows and ends[group + 1] > first]
    yield file.schema_arrow.empty_table()
    start = ends[groups[0]] if groups else 0
    for batch in file.iter_batches(READ_ROWS, row_groups=groups):
        batch.validate(full=True)
        begin, end = max(first - start, 0), min(first + rows - start, len(batch))
        if begin < end:
            yield pa.Table.from_batches([batch.slice(begin, end - begin)])
        start += len(batch)


def open_place(place: str) -> tuple[FileSystem, str]:
    """
    Return the filesystem of a folder or URI, and the path there.

    Raises:
        InputError: there is no such filesystem.
    """
    try:
        filesystem, path = FileSystem.from_uri(place if "://" in place else os.path.abspath(place))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{place}: cannot be opened ({first_line(error)}).") from error
    return filesystem, path.rstrip("/")


def list_files(filesystem: FileSystem, folder: str) -> list[FileInfo]:
    """Return the files in a folder and in those within it, in order; none if there is no such folder."""
    found = filesystem.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
    return sorted((file for file in found if file.type == FileType.File), key=lambda file: file.path)


def is_ignored(path: str) -> bool:
    """Return whether readers of Parquet ignore a path within a folder."""
    return any(name.startswith(("_", ".")) for name in path.split("/"))


def find_input(arguments: argparse.Namespace, source: FileSystem, root: str) -> dict[str, FileInfo]:
    """
    Return the Parquet files of the input, by their paths within it.

    Raises:
        InputError: there are none.
    """
    info = source.get_file_info(root)
    is_file = info.type == FileType.File
    folder = root.rpartition("/")[0] if is_file else root
    named = {file.path.removeprefix(f"{folder}/"): file for file in ([info] if is_file else list_files(source, root))}
    files = {name: file for name, file in named.items() if name.lower().endswith(PARQUET) and not is_ignored(name)}
    if not files:
        raise InputError(f"{arguments.input}: there are no Parquet files.")
    return files


def plan_parts(
    arguments: argparse.Namespace, source: FileSystem, files: dict[str, FileInfo], output: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """
    Return the parts of all files of the input, whether they are done or not; and why files cannot be read.

    Raises:
        InputError: a file has not the columns, or two of them would be written to the same one.
    """

    def read_footer(file: FileInfo) -> tuple[int, list[str]] | str:
        try:
            with readable(Path(file.path)):
                metadata = pq.read_metadata(file.path, filesystem=source)
        except (InputError, OSError) as error:
            return first_line(error)
        return metadata.num_rows, metadata.schema.to_arrow_schema().names

    sequence = arguments.sequence
    empty = pa.table({sequence: pa.array([], pa.string())})
    # This opens the model once before any actor does.
    added = PromoterPredictor(**predictor_options(arguments) | {"device": None})(empty).column_names[1:]
    with ThreadPoolExecutor(32) as pool:
        footers = [*pool.map(read_footer, files.values())]
    parts: dict[str, dict[str, Any]] = {}
    for (name, file), footer in zip(files.items(), footers, strict=True):
        if isinstance(footer, str):
            continue
        rows, columns = footer
        require_columns(file.path, columns, [sequence])
        if columns.count(sequence) > 1:
            raise InputError(
                f"{file.path}: there are {columns.count(sequence)} columns {sequence!r}; rename the others."
            )
        require_new_columns(file.path, columns, added)
        for first in range(0, max(rows, 1), arguments.rows):
            number = f"-{first:012}" if rows > arguments.rows else ""
            written = f"{output}/{name[: -len(PARQUET)]}{number}{PARQUET}"
            if written in parts:
                raise InputError(
                    f"{file.path} and {parts[written]['path']} would both be written to {written}; rename one of them."
                )
            parts[written] = {
                "name": name,
                "version": [file.size, file.mtime_ns],
                "path": file.path,
                "first": first,
                "rows": min(arguments.rows, rows - first),
                "output": written,
            }
    return [*parts.values()], [footer for footer in footers if isinstance(footer, str)]


def predictor_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `PromoterPredictor`."""
    names = ("model", "sequence", "iupac_as_n", "missing_flanks", "orientation", "batch_size", "truncation")
    options = {name: getattr(arguments, name) for name in names}
    if arguments.model is not None and os.path.isdir(arguments.model):
        # An actor works in another folder.
        options["model"] = os.path.abspath(arguments.model)
    return options | {
        "device": "cuda" if arguments.gpus else None,
        "dtype": torch.bfloat16 if arguments.bf16 else None,
    }


def start_output(
    arguments: argparse.Namespace, target: FileSystem, output: str, parts: list[dict[str, Any]]
) -> set[str]:
    """
    Return the files that an earlier run of the same command has written; what it has left unfinished is removed.

    Raises:
        InputError: there are other files, or those of other options, another model or files that have changed since.
    """
    # The cluster may be another one, but not what is written. The model is known by its weights.
    free = ("actors", "cpus", "gpus", "input", "model", "output", "quiet")
    options = {name: value for name, value in vars(arguments).items() if name not in free}
    digest = weights_digest(load_checkpoint(predictor_options(arguments)["model"])[0])
    made_with = {"options": options, "weights": digest, "files": {part["name"]: part["version"] for part in parts}}
    record = f"{output}/{RECORD}"
    there = {file.path for file in list_files(target, output)}
    if record in there:
        with target.open_input_stream(record) as file:
            before = json.loads(file.read())
        if changed := [name for name in options if options[name] != before["options"].get(name)]:
            raise InputError(
                f"{arguments.output}: its files were made with {changed[0]} {before['options'].get(changed[0])!r} "
                f"instead of {options[changed[0]]!r}; give another folder, or the same options."
            )
        if before["weights"] != digest:
            raise InputError(f"{arguments.output}: its files were made with another model; give another folder.")
        for part in parts:
            if part["output"] in there and part["version"] != before["files"].get(part["name"]):
                raise InputError(
                    f"{part['path']} has changed since {part['output']} was made from it; give another folder, or "
                    "delete what was made from it."
                )
    unfinished = {path for path in there if path.rpartition("/")[2].startswith(UNFINISHED)}
    wanted = {part["output"] for part in parts}
    if others := sorted(there - wanted - unfinished - {record}):
        raise InputError(f"{arguments.output}: there are other files, such as {others[0]}; give an empty folder.")
    if record not in there and there:
        raise InputError(f"{arguments.output}: there are files without {RECORD}; give an empty folder.")
    for path in unfinished:
        target.delete_file(path)
    with whole_file(target, record) as path, target.open_output_stream(path) as file:
        file.write(json.dumps(made_with).encode())
    return there & wanted


def require_room(nodes: list[dict[str, Any]], arguments: argparse.Namespace):
    """
    Check that one of Ray's nodes has the cores and GPUs of an actor; a cluster may still start such a machine.

    Raises:
        InputError: this machine has not.
    """
    needs = {"CPU": arguments.cpus, "GPU": arguments.gpus}
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    if any(all(there.get(kind, 0) >= need for kind, need in needs.items()) for there in resources):
        return
    wanted = f"{arguments.cpus:g} cores and {arguments.gpus:g} GPUs, which an actor takes (--cpus, --gpus)"
    if not os.environ.get("RAY_ADDRESS"):
        raise InputError(f"This machine has not the {wanted}.")
    print(f"ray_predict: waiting for a machine of the cluster with the {wanted}.", file=sys.stderr)


def predict_parts(arguments: argparse.Namespace) -> str:
    """
    Predict all parts that are not done, and return a sentence on them.

    Raises:
        ImportError: Ray is not installed.
        InputError: the input, the output or the model is not fit, or parts could not be predicted.
        RuntimeError: Ray has failed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("This needs Ray: pip install 'modeling-proformer[ray]'") from error
    (source, root), (target, output) = open_place(arguments.input), open_place(arguments.output)
    if source == target and f"{output}/".startswith(f"{root}/"):
        raise InputError(f"{arguments.output}: the output lies within the input; give another folder.")
    parts, failed = plan_parts(arguments, source, find_input(arguments, source, root), output)
    done = start_output(arguments, target, output, parts)
    total = sum(part["rows"] for part in parts)
    parts = [part for part in parts if part["output"] not in done]
    left = sum(part["rows"] for part in parts)
    wanted = len(parts) + len(failed)
    bad, quoted = 0, []
    if parts:
        starts_ray = not ray.is_initialized()
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        if starts_ray:
            ray.init(logging_level=logging.WARNING, log_to_driver=False)
        require_room(ray.nodes(), arguments)
        ray.data.DataContext.get_current().enable_progress_bars = False
        results = ray.data.from_items(parts, override_num_blocks=len(parts)).map(
            PartPredictor,
            fn_constructor_args=[source, target, predictor_options(arguments)],
            compute=ray.data.ActorPoolStrategy(size=min(arguments.actors, len(parts))),
            num_cpus=arguments.cpus,
            num_gpus=arguments.gpus or None,
            max_task_retries=RETRIES,
        )
        progress = tqdm(total=total, initial=total - left, unit=" sequences", disable=arguments.quiet)
        try:
            # Ray has a handler of its own for SIGTERM, which aborts.
            with progress, stop_on_signals():
                for result in results.iter_rows():
                    progress.update(result["rows"])
                    bad += result["bad"]
                    quoted += result["quoted"][: MAX_QUOTED - len(quoted)]
                    failed += [result["failed"]] if result["failed"] else []
        except ray.exceptions.RayActorError as error:
            raise RuntimeError(
                f"The actors that predicted one part were killed {RETRIES + 1} times, perhaps because memory did not "
                "suffice; a smaller --batch_size needs less. The same command resumes."
            ) from error
        except ray.exceptions.RayError as error:
            # Otherwise, the last line says what has happened on a machine.
            cause = getattr(error, "cause", None)
            raise RuntimeError(first_line(cause) if cause else str(error).strip().splitlines()[-1]) from error
        if starts_ray:
            ray.shutdown()
    if failed:
        raise InputError(
            f"{len(failed):,} of {wanted:,} files were not written; the same command tries them again. "
            + quote_rows(failed[:MAX_QUOTED], len(failed))
        )
    sentence = f"{left:,} of {total:,} sequences were predicted in this run."
    return f"{sentence} {bad:,} of them are marked as bad: {quote_rows(quoted, bad)}" if bad else sentence


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Predict Parquet files on the Ray cluster whose address RAY_ADDRESS holds; without it, Ray is "
        "started on this machine."
    )
    parser.add_argument(
        "input", help="Parquet file, or folder of such files; also as a URI, such as s3://bucket/folder"
    )
    parser.add_argument("output", help="folder to write to; the files of an earlier run stay")
    parser.add_argument("--actors", type=int, default=1, help="processes that predict, each with its model")
    parser.add_argument("--cpus", type=float, default=1, help="cores of each actor")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each actor, such as 1 or 0.5")
    parser.add_argument("--rows", type=int, default=2**17, help="rows of an output file, which is written at once")
    parser.add_argument("--model", help="checkpoint that all machines reach; by default the embedded one")
    parser.add_argument("--sequence", default="sequence", help="column with the sequences")
    parser.add_argument("--orientation", choices=["given", "reverse", "both"], default="given")
    parser.add_argument("--missing_flanks", choices=["keep", "cut", "refuse"])
    parser.add_argument("--iupac_as_n", action="store_true", help="read IUPAC codes as N")
    parser.add_argument("--truncation", action="store_true", help="cut inserts that are too long")
    parser.add_argument("--batch_size", type=int, help="sequences that the model computes at a time")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    arguments = parser.parse_args()
    for option in ("actors", "rows", "batch_size"):
        if (number := getattr(arguments, option)) is not None and number < 1:
            parser.error(f"--{option} is {number}, but must be at least 1.")
    for option in ("cpus", "gpus"):
        if (number := getattr(arguments, option)) < 0:
            parser.error(f"--{option} is {number:g}, but must not be negative.")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        print(predict_parts(arguments))
    except KeyboardInterrupt as stopped:
        number = getattr(stopped, "signal", signal.SIGINT)
        print(f"ray_predict: stopped by {number.name}. The same command resumes.", file=sys.stderr)
        return 128 + number
    except (InputError, OSError, ImportError, RuntimeError) as error:
        print(f"ray_predict: {first_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
