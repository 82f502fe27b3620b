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
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from pyarrow.fs import FileSelector, FileSystem, FileType
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from modeling_proformer import InputError, PromoterPredictor
from modeling_proformer.data.rows import MAX_QUOTED, quote_rows, require_columns, require_new_columns
from modeling_proformer.data.tables import first_line, readable


# Rows that are read at a time.
READ_ROWS = 4096
# This file keeps the options that the output was made with. Readers of Parquet ignore names that begin like it.
OPTIONS_FILE = "_options.json"
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
        # A damaged file costs no other file anything.
        except (InputError, OSError, RuntimeError) as error:
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
        folder, _, name = path.rpartition("/")
        self.target.create_dir(folder)
        unfinished = f"{folder}/{UNFINISHED}{uuid.uuid4().hex}-{name}"
        pq.write_table(table, unfinished, filesystem=self.target)
        self.target.move(unfinished, path)


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


def list_files(filesystem: FileSystem, folder: str) -> list[str]:
    """Return the paths of the files in a folder and in those within it, in order; none if there is no such folder."""
    found = filesystem.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
    return sorted(file.path for file in found if file.type == FileType.File)


def is_ignored(path: str) -> bool:
    """Return whether readers of Parquet ignore a path within a folder."""
    return any(name.startswith(("_", ".")) for name in path.split("/"))


def plan_parts(arguments: argparse.Namespace, source: FileSystem, root: str, output: str) -> list[dict[str, Any]]:
    """
    Return the parts of all files of the input, whether they are done or not.

    Raises:
        InputError: there are no Parquet files, or one of them is damaged or has not the columns.
    """
    info = source.get_file_info(root)
    if info.type == FileType.File:
        names = [root.rpartition("/")[2]]
        root = root.rpartition("/")[0]
    else:
        names = [path.removeprefix(f"{root}/") for path in list_files(source, root)]
    names = [name for name in names if name.lower().endswith(".parquet") and not is_ignored(name)]
    if not names:
        raise InputError(f"{arguments.input}: there are no Parquet files.")

    def read_footer(name: str) -> tuple[int, list[str]]:
        with readable(Path(name)):
            metadata = pq.read_metadata(f"{root}/{name}", filesystem=source)
        return metadata.num_rows, metadata.schema.to_arrow_schema().names

    sequence = arguments.sequence
    empty = pa.table({sequence: pa.array([], pa.string())})
    # This opens the model once before any actor does.
    added = PromoterPredictor(**predictor_options(arguments) | {"device": None})(empty).column_names[1:]
    parts = []
    with ThreadPoolExecutor(32) as pool:
        for name, (rows, columns) in zip(names, pool.map(read_footer, names), strict=True):
            path = f"{root}/{name}"
            require_columns(path, columns, [sequence])
            require_new_columns(path, columns, added)
            for first in range(0, max(rows, 1), arguments.rows):
                number = f"-{first:012}" if rows > arguments.rows else ""
                parts.append(
                    {
                        "path": path,
                        "first": first,
                        "rows": min(arguments.rows, rows - first),
                        "output": f"{output}/{name.removesuffix('.parquet')}{number}.parquet",
                    }
                )
    return parts


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


def start_output(arguments: argparse.Namespace, target: FileSystem, output: str, wanted: set[str]) -> set[str]:
    """
    Return the files that an earlier run of the same command has written; what it has left unfinished is removed.

    Raises:
        InputError: there are other files, or those of a run with other options.
    """
    # The cluster may be another one, but not what is written.
    free = ("actors", "cpus", "gpus", "output", "quiet")
    options = {name: value for name, value in vars(arguments).items() if name not in free}
    note = f"{output}/{OPTIONS_FILE}"
    there = set(list_files(target, output))
    if note in there:
        with target.open_input_stream(note) as file:
            before = json.loads(file.read())
        if changed := [name for name in options if options[name] != before.get(name)]:
            raise InputError(
                f"{arguments.output}: its files were made with {changed[0]} {before.get(changed[0])!r} instead of "
                f"{options[changed[0]]!r}; give another folder, or the same options."
            )
    unfinished = {path for path in there if path.rpartition("/")[2].startswith(UNFINISHED)}
    if others := sorted(there - wanted - unfinished - {note}):
        raise InputError(f"{arguments.output}: there are other files, such as {others[0]}; give an empty folder.")
    if note not in there and there:
        raise InputError(f"{arguments.output}: there are files without {OPTIONS_FILE}; give an empty folder.")
    for path in unfinished:
        target.delete_file(path)
    if note not in there:
        target.create_dir(output)
        with target.open_output_stream(note) as file:
            file.write(json.dumps(options).encode())
    return there & wanted


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
    parts = plan_parts(arguments, source, root, output)
    done = start_output(arguments, target, output, {part["output"] for part in parts})
    total = sum(part["rows"] for part in parts)
    parts = [part for part in parts if part["output"] not in done]
    left = sum(part["rows"] for part in parts)
    bad, quoted, failed = 0, [], []
    if parts:
        starts_ray = not ray.is_initialized()
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        if starts_ray:
            ray.init(logging_level=logging.WARNING, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        results = ray.data.from_items(parts, override_num_blocks=len(parts)).map(
            PartPredictor,
            fn_constructor_args=[source, target, predictor_options(arguments)],
            compute=ray.data.ActorPoolStrategy(size=min(arguments.actors, len(parts))),
            num_cpus=arguments.cpus,
            num_gpus=arguments.gpus or None,
        )
        progress = tqdm(total=total, initial=total - left, unit=" sequences", disable=arguments.quiet)
        try:
            with progress:
                for result in results.iter_rows():
                    progress.update(result["rows"])
                    bad += result["bad"]
                    quoted += result["quoted"][: MAX_QUOTED - len(quoted)]
                    failed += [result["failed"]] if result["failed"] else []
        # The last line says what has happened on a machine.
        except ray.exceptions.RayError as error:
            raise RuntimeError(str(error).strip().splitlines()[-1]) from error
        if starts_ray:
            ray.shutdown()
    if failed:
        raise InputError(
            f"{len(failed):,} of {len(parts):,} files were not written; the same command tries them again. "
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
    if min(arguments.actors, arguments.rows) < 1:
        parser.error("--actors and --rows must be at least 1.")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        print(predict_parts(arguments))
    except KeyboardInterrupt:
        print("ray_predict: stopped. The same command resumes.", file=sys.stderr)
        return 130
    except (InputError, OSError, ImportError, RuntimeError) as error:
        print(f"ray_predict: {first_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
