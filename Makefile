# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test format clean

demo: $(VENV)/installed
	mkdir -p demo
	$(BIN)/proformer predict examples/data/motif_promoters.tsv -o demo/expression.tsv
	$(BIN)/python examples/motif_effects.py demo/expression.tsv --figure demo/motif_effects.png

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses auto --dist loadscope

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo runs build *.egg-info

$(VENV)/installed: setup.py constraints.txt
	@echo "Setting up $(VENV): torch and its companions are large, this may take some minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,dev]"
	touch $@
