# Short verbs. Only Python >= 3.11 and make are needed: everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
export PORT
PROCESSES ?= 2

.PHONY: dev test lint check docs oracle oracle-chat oracle-uploads oracle-flags load crowd microbench bench clean

dev: $(VENV)/.dev  ## a running hub with real servers, demo organisations and a demo feed
	@$(BIN)/hub dev

# Tests that break whole systems have the machine to themselves; the others wait more than they work, so two processes
# share them. With ARGS one process runs what they say.
test: $(VENV)/.test  ## everything, against real servers; ARGS="tests/edge -x": what pytest is told
ifeq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --ignore tests/system
	@$(BIN)/python -m pytest tests/system
else
	@$(BIN)/python -m pytest $(ARGS)
endif

lint: $(VENV)/.check  ## fix what can be fixed
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

check: $(VENV)/.check  ## lint, types, import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache

docs: $(VENV)/.test  ## write what the documentation shares with the code
	@$(BIN)/python docs/generate.py

# These explore: each run has a new seed, which it prints; ORACLE_SEED=<number> is that run again. Plain tests have fixed ones.
oracle oracle-chat oracle-uploads oracle-flags: export ORACLE_SEED := $(or $(ORACLE_SEED),random)

oracle: $(VENV)/.test  ## the fault oracle, with a table of its figures; ORACLE_SOCKET=asgi: on a stock server
	@$(BIN)/python -m pytest -m faults -s -q $(ARGS)

oracle-chat: $(VENV)/.test  ## twenty people chat while things break, for ORACLE_ROUNDS rounds
	@ORACLE_ROUNDS=$${ORACLE_ROUNDS:-40} $(BIN)/python -m pytest tests/system/test_chat_random.py -s -q $(ARGS)

oracle-uploads: $(VENV)/.test  ## uploads while things break, fifty for each of ORACLE_ROUNDS
	@ORACLE_ROUNDS=$${ORACLE_ROUNDS:-20} $(BIN)/python -m pytest tests/system/test_upload_random.py -s -q $(ARGS)

oracle-flags: $(VENV)/.test  ## a kill switch, FLAGS_SOCKETS sockets and FLAGS_CLIENTS clients of our library on two nodes
	@FLAGS_CLIENTS=$${FLAGS_CLIENTS:-1000} $(BIN)/python -m pytest tests/system/test_flags_live.py -s -q $(ARGS)

load: $(VENV)/.load  ## people who use a hub, for 30 s: HUB_URL's, or one started for it
	@$(BIN)/python -m loadtest.load $(ARGS)

crowd: $(VENV)/.load  ## 10 000 connections from 127.0.0.x, and people in their midst; needs a C compiler
	@$(BIN)/python -m loadtest.crowd $(ARGS)

bench: $(VENV)/.bench  ## every target as a ratio against a reference; FULL=1 takes longer; needs a C compiler
	@FULL=$(FULL) $(BIN)/python -m loadtest.bench $(ARGS)

microbench: $(VENV)/.test  ## hot paths without sockets, as ratios against a reference loop
	@$(BIN)/python -m tests.bench $(ARGS)

clean:
	rm -rf $(VENV) .hub .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hub needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@echo "creating $(VENV) and installing (once; about half a minute) ..."
	@$(PYTHON) -m venv $(VENV)

# One stamp per set of dependencies; pyproject.toml changed means install again.
$(VENV)/.%: $(BIN)/python pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(if $(filter dev,$*),dev-servers,$*)]'
	@touch $@
