#!/bin/bash
# What fine-tuning is worth on five assays, at 300, 1,000, 3,000 and all rows, with three seeds, and what two of its
# choices are worth on three (finetuning_choices.tsv); finetuning_benchmark.py says how.
#
#   examples/finetuning_benchmark.sh DATA OUTPUT
#
# DATA holds yeast/distilled_2m.parquet, yeast/native_ypd.parquet, assays/ecoli_165bp_mpra.tsv,
# assays/drosophila_deepstarr_sample.tsv and assays/human_k562_lentimpra_sample.tsv. It takes hours on a CPU, which should
# have bfloat16 (AVX-512), and less on a GPU; given again, it goes on where it was.
set -euo pipefail
data=$1 output=$2
here=$(dirname "$0")
mkdir -p "$output"

benchmark() {
    python "$here/finetuning_benchmark.py" "$@" --bf16 --output "$output/finetuning_benchmark.tsv"
}

# The embedded checkpoint has seen the yeast promoters. For these, its first stage is made anew of distilled rows alone.
python "$here/train.py" --recipe "$here/recipes/small.yaml" --train_file "$data/yeast/distilled_2m.parquet" \
    --group_column family --max_steps 4000 --lr_scheduler_kwargs '{"num_decay_steps": 2000, "decay_type": "linear"}' \
    --output_dir "$output/distilled"
of_yeast=(--sequence sequence --target expression --group-column family --from "$output/distilled")
lac=(
    "$here/data/lac_promoters.tsv.gz" --name "E. coli lac promoter, Sort-Seq" --sequence sequence --split-column split
    --target bin_0 bin_1 bin_2 bin_3 bin_4 bin_5 bin_6 bin_7 bin_8 bin_9 --bins 0 1 2 3 4 5 6 7 8 9
)
ecoli=("$data/assays/ecoli_165bp_mpra.tsv" --name "E. coli promoters, MPRA" --sequence sequence --target expression)

benchmark "$data/yeast/native_ypd.parquet" --name "yeast native promoters" "${of_yeast[@]}"
benchmark "${lac[@]}"
benchmark "${ecoli[@]}"
benchmark "$data/assays/drosophila_deepstarr_sample.tsv" --name "fruit fly enhancers, STARR-seq" \
    --sequence sequence --target developmental housekeeping --split-column split
benchmark "$data/assays/human_k562_lentimpra_sample.tsv" --name "human K562 elements, lentiMPRA" \
    --sequence sequence --target activity --split-column split

# What it is worth to mix a checkpoint that does not know the assay with new weights, and to stretch or shrink its
# positions. An assay that it knows, with other lengths: the middle 60 letters of the native promoters.
python - "$data/yeast/native_ypd.parquet" "$output/yeast_60.parquet" <<'END'
import sys

import pandas as pd

table = pd.read_parquet(sys.argv[1])
table.assign(sequence=table.sequence.str[27:87]).to_parquet(sys.argv[2])
END
choices() {
    python "$here/finetuning_benchmark.py" "$@" --rows 300 1000 --not-all --bf16 \
        --output "$output/finetuning_choices.tsv"
}
choices "${lac[@]}" --methods fine-tuned "kept whole" "positions anew"
choices "${ecoli[@]}" --methods fine-tuned "kept whole" "positions anew"
choices "$output/yeast_60.parquet" --name "yeast native promoters, middle 60 nt" "${of_yeast[@]}" \
    --methods fine-tuned "positions anew"
