# Each command sets up what it needs: `make demo`, `make finetune-demo`, `make docs`, `make test`, `make format`,
# `make test-docs` for what the documentation and the card show and slow benchmarks, `make test-ray` for what needs Ray,
# `make test-transformers TRANSFORMERS="transformers==5.4.0"` for another version of the library, and `make test-others`
# for the quick tests that do not depend on it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles a module when it is first imported, and keeps it; pip would compile tens of thousands, for a minute.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

TRANSFORMERS := transformers==5.4.0
OTHER_VENV := .venv-transformers
# The tests that depend on the version of transformers.
LIBRARY_TESTS := tests/library tests/test_checkpoint.py tests/test_intervals.py tests/test_losses.py \
    tests/test_modeling.py tests/test_pipeline.py tests/test_prediction.py tests/test_reference.py \
    tests/test_remote_code.py tests/test_tokenization.py tests/training/test_finetune.py \
    tests/training/test_finetune_folder.py tests/training/test_trainer.py

# The tests of a file share what they set up. There is one process more than cores, as tests wait for other processes, but
# not more than four, as each takes up to 2 GB.
WORKERS = --numprocesses $(shell $(PYTHON) -c 'import os; print(min(4, os.cpu_count() + 1))') --dist loadfile

.PHONY: demo finetune-demo docs test test-docs test-ray test-transformers test-others format clean

demo: $(VENV)/package
	mkdir -p demo
	$(BIN)/proformer predict examples/data/motif_promoters.tsv -o demo/expression.tsv
	$(BIN)/python examples/motif_effects.py demo/expression.tsv --figure demo/motif_effects.png

finetune-demo: $(VENV)/package
	$(INSTALL) --editable ".[train]"
	rm -rf demo/lac-promoters
	$(BIN)/proformer finetune examples/data/lac_promoters.tsv.gz --sequence sequence --split split \
	    --targets bin_0 bin_1 bin_2 bin_3 bin_4 bin_5 bin_6 bin_7 bin_8 bin_9 --bins 0 1 2 3 4 5 6 7 8 9 \
	    --output demo/lac-promoters

docs: $(VENV)/development
	$(BIN)/sphinx-build --fail-on-warning --keep-going --fresh-env examples/docs build/docs
	@echo "Open build/docs/index.html."

test: $(VENV)/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(WORKERS) -m "not pages"

# Each page is run by one worker.
test-docs: $(VENV)/development
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup -m pages tests/examples tests/test_checkpoint.py

# Ray takes 240 MB, and starting it several times takes minutes.
test-ray: $(VENV)/development
	$(INSTALL) --editable ".[ray]"
	$(BIN)/python -m pytest tests/examples/test_ray_predict.py tests/examples/test_documentation.py -k "ray or cluster"

test-transformers: $(OTHER_VENV)/development
	$(OTHER_VENV)/bin/python -m pytest $(WORKERS) $(LIBRARY_TESTS)

test-others: $(VENV)/development
	$(BIN)/python -m pytest -m "not slow" $(addprefix --ignore=,$(LIBRARY_TESTS))

format: $(VENV)/development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(OTHER_VENV) demo runs build *.egg-info

# All that `predict` needs.
$(VENV)/package: setup.py constraints.txt
	@echo "Setting up $(VENV): torch and its companions are large, so this may take some minutes."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(VENV)/development: $(VENV)/package examples/space/requirements.txt
	$(INSTALL) --editable ".[train,lora,attribution,motifs,export,genome,docs,dev]" --requirement examples/space/requirements.txt
	touch $@

$(OTHER_VENV)/development: setup.py constraints.txt
	$(PYTHON) -m venv $(OTHER_VENV)
	grep -vE '^(transformers|huggingface_hub|tokenizers)==' constraints.txt > $(OTHER_VENV)/constraints.txt
	$(OTHER_VENV)/bin/python -m pip install --quiet --no-compile --constraint $(OTHER_VENV)/constraints.txt \
	    --editable ".[train,lora,dev]" "$(TRANSFORMERS)"
	touch $@
