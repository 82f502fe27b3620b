#!/bin/bash
# Measure what a small model learns in a few minutes: train it on 60,000 distilled and 61,041 measured promoters, and
# score it on the public part of the DREAM challenge's test set. Further arguments go to `proformer train`.
#
#   examples/learning_per_minute.sh DATA OUTPUT [OPTIONS]
#
# DATA holds distilled_2m.parquet, native_ypd.parquet, dream_public.tsv and its three tables of pairs.
set -euo pipefail
data=$1 output=$2
recipe=$(dirname "$0")/recipes/twenty_minutes.yaml
if [ -e "$output" ]; then
    echo "$output exists, so its training would resume, and the time would be wrong; name a new folder." >&2
    exit 1
fi
mkdir -p "$output"
python - "$data" "$output" <<'PYTHON'
import sys

import pyarrow as pa
import pyarrow.parquet as pq

data, output = sys.argv[1:]
columns = ["sequence", "expression"]
distilled = pq.read_table(f"{data}/distilled_2m.parquet", columns=columns).slice(0, 60_000)
measured = pq.read_table(f"{data}/native_ypd.parquet", columns=columns)
pq.write_table(
    pa.concat_tables([table.cast(distilled.schema) for table in (distilled, measured)]), f"{output}/table.parquet"
)
PYTHON
time proformer train "$output/table.parquet" --config "$recipe" --validation_data "$data/dream_public.tsv" \
    --dream_pairs "$data"/dream_public_pairs_{snv,motif_perturbation,motif_tiling}.tsv \
    --save_steps 1000 --save_total_limit 1 --logging_steps 50 --output "$output" "${@:3}"
