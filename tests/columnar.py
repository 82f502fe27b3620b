"""Tables for tests in the formats that have columns."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_columns(path: Path, table: pa.Table, rows_in_piece: int = 3000):
    """Write a table as Parquet, or as Arrow with an index or (`.stream.arrow`) without."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows_in_piece)
        return
    new = pa.ipc.new_stream if ".stream" in path.suffixes else pa.ipc.new_file
    with new(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_in_piece)
