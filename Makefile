# Two commands for a newcomer:  make demo   and   make test
PYTHON ?= python3
BIN := .venv/bin
# torch comes first and pinned, so that pip takes a local CPU file where it has one (--find-links, PIP_FIND_LINKS)
TORCH := torch==2.13.0

.PHONY: demo test test-slurm check clean

demo: .venv/starter.stamp
	$(BIN)/medtuner quickstart

test: check
	$(BIN)/python -m pytest -m 'not slow'

# every test on the real Slurm cluster, and all long ones
test-slurm: .venv/dev.stamp
	$(BIN)/python -m pytest -m 'slurm or slow'

check: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/torch.stamp:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "medtuner needs Python 3.11 or newer; set PYTHON=python3.11"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH)
	touch $@

.venv/starter.stamp: pyproject.toml | .venv/torch.stamp
	$(BIN)/python -m pip install --quiet --editable '.[starter]'
	touch $@

.venv/dev.stamp: pyproject.toml | .venv/torch.stamp
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ .venv/starter.stamp

clean:
	rm -rf .venv runs evaluation .mypy_cache .ruff_cache .pytest_cache .hypothesis
