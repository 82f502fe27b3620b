# Each command does all the set-up: `make demo`, `make finetune-demo`, `make docs`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo finetune-demo docs test format clean

demo: $(VENV)/installed
	mkdir -p demo
	$(BIN)/proformer predict examples/data/motif_promoters.tsv -o demo/expression.tsv
	$(BIN)/python examples/motif_effects.py demo/expression.tsv --figure demo/motif_effects.png

finetune-demo: $(VENV)/installed
	rm -rf demo/lac-promoters
	$(BIN)/proformer finetune examples/data/lac_promoters.tsv.gz --sequence sequence --split-column split \
	    --target bin_0 bin_1 bin_2 bin_3 bin_4 bin_5 bin_6 bin_7 bin_8 bin_9 --bins 0 1 2 3 4 5 6 7 8 9 \
	    --output demo/lac-promoters

docs: $(VENV)/installed
	$(BIN)/sphinx-build --fail-on-warning --keep-going --fresh-env examples/docs build/docs
	@echo "Open build/docs/index.html."

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses auto --dist loadscope

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo runs build *.egg-info

$(VENV)/installed: setup.py constraints.txt examples/space/requirements.txt
	@echo "Setting up $(VENV): torch and its companions are large, this may take some minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,lora,export,docs,dev]" \
	    --requirement examples/space/requirements.txt
	touch $@
