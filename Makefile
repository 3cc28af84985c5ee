# Two commands do all: `make demo` and `make test`. Each makes the environment first, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export MPLBACKEND := Agg
# Two tests at a time, each file in one process, whose modules' fixtures are then made once. A thread for each: threads
# that wait for one another lose more than they gain where others want the cores.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test quick soak soak-coverage soak-faults soak-fuzz lint notebooks clean

demo: $(READY)  ## make the environment, then the main job on a phantom
	$(BIN)/mura demo
	@echo "mura is in $(BIN): source $(BIN)/activate puts it on your path"

test: $(READY) lint  ## everything: style, tests (the slow ones too), notebooks
	$(TESTS)

quick: $(READY)  ## the tests that take seconds
	$(TESTS) -m "not slow"

soak: soak-coverage soak-faults soak-fuzz  ## what takes longer: do intervals hold the truth, is nothing lost or torn

soak-coverage: $(READY)  ## how often the intervals hold the truth: 4,000 simulated sets a setting
	$(BIN)/python tests/soak.py --out benchmarks/coverage.txt

soak-faults: $(READY)  ## a hundred kills, full disks, closed folders, two at once; goes on where it was stopped
	$(BIN)/python tests/faults.py --kills 100 --log $(VENV)/kills.jsonl --out benchmarks/kills.txt
	rm -f $(VENV)/kills.jsonl
	$(BIN)/python tests/attacks.py --out benchmarks/attacks.txt

soak-fuzz: $(READY)  ## ten thousand twisted files
	$(BIN)/python tests/fuzz.py --inputs 10000 --out benchmarks/fuzz.txt

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# nbdev would put its own list of modules in the place of the package's docstring, and an llms.txt beside the notebooks.
notebooks: $(READY)  ## modules from notebooks; outputs cleaned of what changes by itself
	cp mura_fastai/__init__.py $(VENV)/init.py
	$(BIN)/nbdev-export
	mv $(VENV)/init.py mura_fastai/__init__.py
	$(BIN)/nbdev-clean

$(READY): settings.ini setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info
