# make demo    replays a capture to three processes and shows what arrives
# make test    runs the tests, the slow ones too
# make lint    checks format, style and types
# make bench   measures zbuf against its peers; BENCH='--only iterate' for one measure
#              make bench-quick: in less than two minutes, with fewer and shorter rounds
# make docs    builds the pages and the reference into build/docs; a broken link or an undocumented name is an error
# make model   checks the protocol's model exhaustively
# make soak    watches a capture daemon for leaks, for minutes; as root, SOAK='--minutes 120' for longer
#
# Each of them sets up what it needs first: the virtual environment .venv, and Debian packages by apt-get.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

NATIVE := $(shell find shared producer consumer -name '*.pyx' -o -name '*.pxd' -o -name '*.h')

.PHONY: demo test lint bench bench-quick docs model soak clean
.DELETE_ON_ERROR:

demo: $(VENV)/zbuf
	@PYTHON=$(PYTHON) .ci/require strace
	@$(BIN)/python examples/demo.py

test: $(VENV)/test
	@PYTHON=$(PYTHON) .ci/require strace tcpdump tcpreplay tshark iproute2 spin zstd
	$(BIN)/pytest

lint: $(VENV)/lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint shared producer consumer  # it calls pycodestyle by that name
	$(BIN)/mypy -p zbuf
	$(BIN)/mypy examples tests bench

bench: $(VENV)/bench
	@PYTHON=$(PYTHON) .ci/require strace iproute2 netsniff-ng tcpdump tcpreplay tshark
	$(BIN)/python -m bench $(BENCH)

bench-quick: override BENCH += --quick
bench-quick: bench

docs: $(VENV)/docs
	$(BIN)/sphinx-build -c docs -b html -q --fail-on-warning --keep-going . build/docs
	@echo "build/docs/docs/index.html"

model:
	@PYTHON=$(PYTHON) .ci/require spin
	docs/model/check

soak: $(VENV)/test
	@PYTHON=$(PYTHON) .ci/require iproute2
	$(BIN)/python tests/soak.py $(SOAK)

clean:
	rm -rf $(VENV) build *.egg-info
	find . -name '*.so' -not -path './$(VENV)/*' -delete

# ---- what they need -----------------------------------------------------------------------------------------

# The environment, with what builds the native modules; they are built in it, not in an isolated one, so that a
# change to one of them builds that one again and no other.
$(VENV)/build: .ci/require
	@PYTHON=$(PYTHON) .ci/require libpcap-dev python3-venv python3-dev
	@echo "making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install 'setuptools>=77' 'Cython>=3.1'
	@touch $@

$(VENV)/zbuf: $(VENV)/build pyproject.toml setup.py $(NATIVE)
	@echo "building the native modules"
	@$(PIP) install --no-build-isolation --editable '.[plot]'
	@touch $@

$(VENV)/test $(VENV)/lint $(VENV)/bench $(VENV)/docs: $(VENV)/%: $(VENV)/zbuf
	@$(PIP) install --no-build-isolation --editable '.[$*]'
	@touch $@
