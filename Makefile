# Two commands from a fresh clone, with Python 3.11 or newer and nothing else:
#
#   make demo   draw pictures with the bundled model into out/demo
#   make test   run the tests
#
# Both create .venv first, and again only when pyproject.toml changes. Variables:
#
#   PYTHON           the Python to make .venv with (default: the first suitable one below)
#   TORCH_INDEX_URL  where torch comes from (default: pip's own index). PyTorch's own CPU build is a tenth of the size:
#                    make demo TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
#   PYTEST_ARGS      handed to pytest, for instance PYTEST_ARGS="-k plan -x"; "-m slow" runs what takes minutes; the tests
#                    are spread over all cores, and "-n 0 --pdb" runs them in one process
#
# And for those who work on it: make lint, type, format, clients, wheel, clean.

VENV := .venv
TORCH := torch==2.13.0
DEMO := out/demo
PYTHON ?=
TORCH_INDEX_URL ?=
PYTEST_ARGS ?=

# Errors alone are shown; they say what failed.
pip := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet --quiet

.PHONY: demo test clients lint type format wheel clean
.DELETE_ON_ERROR:

# What examples/sentences.txt says, with the seeds 1 to 15. Forty pictures, eight classes in five styles, with the seeds 1 to
# 40; then the first of them scale by scale. None is picked.
# In float32 on the CPU, so that every machine draws those of the README, up to rounding.
demo: $(VENV)/run.stamp
	$(VENV)/bin/nextscale generate --prompts examples/sentences.txt --model emoji-text --seed 1 --dtype float32 --device cpu --overwrite --out $(DEMO)/sentences
	$(VENV)/bin/nextscale generate --model emoji-m-var --style all --seed 1 --dtype float32 --device cpu --overwrite --out $(DEMO) \
	  -c face-smiling -c cat-face -c heart -c person-role -c animal-mammal -c food-fruit -c transport-ground -c sky-weather
	$(VENV)/bin/nextscale generate -c face-smiling --model emoji-m-var --style noto --seed 1 --dtype float32 --device cpu --overwrite --no-grid --strip --out $(DEMO)
	@echo
	@echo "what fifteen sentences say:        $(DEMO)/sentences/grid.png"
	@echo "a grid of classes and styles:      $(DEMO)/grid.png"
	@echo "one picture, growing by scales:    $(DEMO)/strip.png"

test: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n logical --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

# OpenAI's newest client before the service; "make test" has the one that pyproject.toml pins.
clients: $(VENV)/dev.stamp
	rm -rf build/openai
	@$(pip) install --no-deps --target build/openai openai
	PYTHONPATH=build/openai $(VENV)/bin/python -m pytest tests/serve/test_clients.py

lint: $(VENV)/dev.stamp
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

type: $(VENV)/dev.stamp
	$(VENV)/bin/mypy

format: $(VENV)/dev.stamp
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# What would be published: dist/nextscale-*.whl and .tar.gz. tests/test_wheel.py tries one in an environment of its own.
wheel: $(VENV)/dev.stamp
	rm -rf dist
	$(VENV)/bin/python -m hatchling build

clean:
	rm -rf $(VENV) $(DEMO) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch goes first and at one version, so that nothing that depends on it brings another.
$(VENV)/run.stamp: pyproject.toml | $(VENV)/bin/pip
	@echo "installing $(TORCH), some hundred megabytes, then what nextscale needs (a minute or several)"
	@$(pip) install $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "$(TORCH)"
	@$(pip) install --editable .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/run.stamp
	@echo "installing what training and the tests need (a minute or several)"
	@$(pip) install --editable ".[dev]"
	@touch $@

# bin/pip is the last thing that venv writes. A shim of a Python that is not there fails the trial run below.
$(VENV)/bin/pip:
	@for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "making $(VENV) with $$("$$python" --version) ($$python)"; \
	    "$$python" -m venv $(VENV) && exit 0; \
	  fi; \
	done; \
	echo "no suitable Python found: nextscale needs Python 3.11 or newer with the venv module" >&2; \
	echo "(Debian and Ubuntu: apt install python3-venv); name another one with make PYTHON=/path/to/python" >&2; \
	exit 1
