#!/bin/bash
# Measure what fine-tuning is worth on five assays, at 300, 1,000, 3,000 and all rows, with three seeds, and what two of
# its choices are worth on three of them (finetuning_choices.tsv); finetuning_benchmark.py says how.
#
#   examples/finetuning_benchmark.sh DATA OUTPUT
#
# DATA holds yeast/distilled_2m.parquet, yeast/native_ypd.parquet, assays/ecoli_165bp_mpra.tsv,
# assays/drosophila_deepstarr_sample.tsv and assays/human_k562_lentimpra_sample.tsv. The script takes hours on a CPU and
# less on a GPU. If it is run again, it continues where it stopped.
set -euo pipefail
data=$1 output=$2
here=$(dirname "$0")
mkdir -p "$output"

# bfloat16 where it is faster.
bf16=$(python -c 'import torch; from modeling_proformer.hardware import has_fast_bfloat16
print("--bf16" if torch.cuda.is_available() or has_fast_bfloat16() else "")')

benchmark() {
    python "$here/finetuning_benchmark.py" "$@" $bf16 --output "$output/finetuning_benchmark.tsv"
}

# The embedded checkpoint was trained on the yeast promoters. To benchmark on these, train its first stage again on the
# distilled rows alone.
proformer train "$data/yeast/distilled_2m.parquet" --config "$here/recipes/small.yaml" --group family \
    --max_steps 4000 --lr_scheduler_kwargs '{"num_decay_steps": 2000, "decay_type": "linear"}' \
    --output "$output/distilled"
yeast=(--sequence sequence --targets expression --group family --model "$output/distilled")
lac=(
    "$here/data/lac_promoters.tsv.gz" --name "E. coli lac promoter, Sort-Seq" --sequence sequence --split split
    --targets bin_0 bin_1 bin_2 bin_3 bin_4 bin_5 bin_6 bin_7 bin_8 bin_9 --bins 0 1 2 3 4 5 6 7 8 9
)
ecoli=("$data/assays/ecoli_165bp_mpra.tsv" --name "E. coli promoters, MPRA" --sequence sequence --targets expression)

benchmark "$data/yeast/native_ypd.parquet" --name "yeast native promoters" "${yeast[@]}"
benchmark "${lac[@]}"
benchmark "${ecoli[@]}"
benchmark "$data/assays/drosophila_deepstarr_sample.tsv" --name "fruit fly enhancers, STARR-seq" \
    --sequence sequence --targets developmental housekeeping --split split
benchmark "$data/assays/human_k562_lentimpra_sample.tsv" --name "human K562 elements, lentiMPRA" \
    --sequence sequence --targets activity --split split

# Measure what it is worth to mix a checkpoint that does not know the assay with new weights, and to resize its position
# embeddings. The middle 60 bases of the native promoters are an assay that the checkpoint knows, in another length.
python - "$data/yeast/native_ypd.parquet" "$output/yeast_60.parquet" <<'END'
import sys

import pandas as pd

table = pd.read_parquet(sys.argv[1])
table.assign(sequence=table.sequence.str[27:87]).to_parquet(sys.argv[2])
END
choices() {
    python "$here/finetuning_benchmark.py" "$@" --rows 300 1000 --not-all $bf16 \
        --output "$output/finetuning_choices.tsv"
}
choices "${lac[@]}" --methods fine-tuned "kept whole" "positions anew"
choices "${ecoli[@]}" --methods fine-tuned "kept whole" "positions anew"
choices "$output/yeast_60.parquet" --name "yeast native promoters, middle 60 nt" "${yeast[@]}" \
    --methods fine-tuned "positions anew"
