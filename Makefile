# Each target sets up what it needs first: the virtual environment .venv, and Debian packages by apt-get.

PYTHON ?= python3
export VENV := .venv
BIN := $(VENV)/bin

NATIVE := $(shell find shared producer consumer -name '*.pyx' -o -name '*.pxd' -o -name '*.h')
C_FILES = $(shell find shared producer consumer examples tests bench -name '*.h' -o -name '*.c')

STUBS = $(shell find shared producer consumer -name '*.pyi' | sed 's|/|.|g; s|^|zbuf.|; s|\.pyi$$||')

.PHONY: help demo test test-all fuzz lint format wheel bench bench-quick docs model prove soak clean
.DELETE_ON_ERROR:

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r target does; do \
		printf 'make %-12s %s\n' "$$target" "$$does"; done

demo: $(VENV)/plot  ## replay a capture to three processes, and show what arrives
	@PYTHON=$(PYTHON) .ci/require strace
	@$(BIN)/python examples/demo.py

test: $(VENV)/test  ## run the tests, the slow ones too; TESTS='tests/shared -k name' for some
	@PYTHON=$(PYTHON) .ci/require strace tcpdump tcpreplay tshark iproute2 spin zstd man-db git
	$(BIN)/pytest $(TESTS)

test-all:  ## run them with each Python that is here, from 3.11 on; PYTHONS='3.11 3.13' for some
	@MAKE="$(MAKE)" .ci/pythons $(PYTHONS)

fuzz: $(VENV)/test  ## have libFuzzer look for files that break the reader, for a minute; FUZZ_S=600 for longer
	@PYTHON=$(PYTHON) .ci/require clang libclang-rt-dev
	ZBUF_FUZZ_S=$(or $(FUZZ_S),60) $(BIN)/pytest tests/producer/sources/files/test_fuzz.py

lint: $(VENV)/lint  ## check format, style, types, stubs and which module imports which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint shared producer consumer  # it calls pycodestyle by that name
	$(BIN)/mypy -p zbuf
	$(BIN)/mypy examples tests bench docs/man.py
	$(BIN)/stubtest --mypy-config-file pyproject.toml --allowlist .ci/stubs.txt --ignore-unused-allowlist \
		--ignore-disjoint-bases $(STUBS)
	$(BIN)/python .ci/imports.py

format: $(VENV)/lint  ## write Python and C files as lint wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(C_FILES)

wheel: $(VENV)/test  ## build a wheel with libpcap in it, for this Python and Linux systems as old as this one: dist/
	@.ci/wheel

bench: $(VENV)/bench  ## measure zbuf against its peers; BENCH='--only iterate' for one measure
	@PYTHON=$(PYTHON) .ci/require strace iproute2 netsniff-ng tcpdump tcpreplay tshark zstd
	$(BIN)/python -m bench $(BENCH)

bench-quick: override BENCH += --quick
bench-quick: bench  ## the same in less than two minutes, with fewer and shorter rounds

docs: $(VENV)/docs  ## build the pages and the reference into build/docs; a broken link is an error
	$(BIN)/sphinx-build -c docs -b html -q --fail-on-warning --keep-going . build/docs
	@echo "build/docs/docs/index.html"

model:  ## check the model of the protocol exhaustively
	@PYTHON=$(PYTHON) .ci/require spin
	docs/model/check

prove:  ## prove that walking a buffer reads nothing outside of it
	@PYTHON=$(PYTHON) .ci/require frama-c-base why3 z3
	docs/proof/check

soak: $(VENV)/test  ## watch a capture daemon for leaks, for minutes; as root; SOAK='--minutes 120' for longer
	@PYTHON=$(PYTHON) .ci/require iproute2
	$(BIN)/python tests/soak.py $(SOAK)

clean:  ## remove all that was built
	rm -rf .venv .venv-* build dist *.egg-info src/*.egg-info
	find shared producer consumer -name '*.so' -delete

# ---- what they need -----------------------------------------------------------------------------------------

# The environment, with what builds the native modules. They are built in it, not in an isolated one, so that after a
# change to one of them no other is built again.
$(VENV)/build: .ci/require .ci/pip
	@PYTHON=$(PYTHON) .ci/require libpcap-dev python3-venv python3-dev
	@echo "making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@.ci/pip install 'setuptools>=77' 'Cython>=3.1'
	@touch $@

# One run of pip for what a target needs: an extra of pyproject.toml, and the native modules.
$(VENV)/plot $(VENV)/test $(VENV)/lint $(VENV)/bench $(VENV)/docs: $(VENV)/%: $(VENV)/build pyproject.toml setup.py $(NATIVE)
	@echo "building the native modules, and installing what make needs for it: $*"
	@.ci/pip install --no-build-isolation --editable '.[$*]'
	@touch $@
