"""Train a model from new weights, as `proformer train` does, with a script that torchrun and accelerate can launch."""

import sys

from modeling_proformer.cli import main


sys.exit(main(["train", *sys.argv[1:]]))
