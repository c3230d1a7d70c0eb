# Turntable: `make demo` runs the whole loop, `make test` runs everything that proves it. Both set up what they need.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# The first that runs; none of them is refused by requirements/install.py in a sentence.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13; do $$python -c '' 2>/dev/null && echo $$python && exit; done; echo python3)
LISTS := $(addprefix requirements/,gateway.txt engine-cpu.txt trainer.txt postgres.txt otel.txt hub.txt s3.txt dev.txt)
BIN := .venv/bin
NODE := tests/clients/node

.PHONY: help setup clients demo serve test test-isa fuzz lint audit format examples loadtest soak soak-chaos bench bench-adapters bench-costs bench-lora bench-soak bench-trainer clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | column -t -s "$$(printf '\t')"

setup: .venv/.installed ## make .venv with pinned packages (seconds when nothing changed)

.venv/.installed: $(LISTS) requirements/install.py pyproject.toml Makefile
	@$(PYTHON) requirements/install.py .venv $(basename $(notdir $(LISTS)))
	@touch $@ && echo "setup: done"

clients: $(NODE)/node_modules/.installed ## the JavaScript clients and the browser of the tests, pinned, with the Node.js they need

$(NODE)/node_modules/.installed: $(NODE)/package.json $(NODE)/package-lock.json
	@command -v npm >/dev/null || \
		{ echo "error: npm is not installed, and the tests of the JavaScript clients need it; install Node.js 20 or newer" >&2; exit 2; }
	@echo "setup: JavaScript clients (pinned)"
	@npm ci --prefix $(NODE) --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

demo: setup ## the whole loop: base model, engine, data, training, proof, a chat, the bill
	@$(BIN)/turntable demo

serve: setup ## the gateway on port 8080 with the embedded base and all published adapters
	@$(BIN)/turntable serve

test: setup clients lint ## everything, the real CPU engine included, in two processes
	@$(BIN)/python -m trainer.base_model --out var/base-model >/dev/null
	@$(BIN)/pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder
	@$(MAKE) --no-print-directory test-isa

test-isa: setup ## the numeric tests as processors with fewer instructions compute
	@for isa in AVX2 AVX512_CORE; do \
		echo "numeric tests with ONEDNN_MAX_CPU_ISA=$$isa" && ONEDNN_MAX_CPU_ISA=$$isa $(BIN)/pytest -m numeric tests/trainer || exit; done

fuzz: setup ## the property tests on examples that nobody has seen; every field with every odd value on the real engine
	@$(BIN)/pytest -m hypothesis --hypothesis-profile fuzz
	@$(BIN)/python -m trainer.base_model --out var/base-model >/dev/null
	@$(BIN)/pytest tests/e2e/fuzz_fields.py --capture no

lint: setup ## ruff, mypy --strict, the audit of dependencies
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m tests.security.dependency_audit

audit: setup ## fail on known flaws of pinned packages too; needs a network
	@$(BIN)/python -m tests.security.dependency_audit --strict

format: setup ## put the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# A verdict other than PROMOTE (exit code 1) is a result; an error (2) ends the loop.
examples: setup ## train and compare every example on the running gateway; minutes each
	@for name in support-triage classification extraction voice preference; do \
		echo "example: $$name" && $(BIN)/turntable train examples/$$name/recipe.toml --task examples/$$name/task.toml --as $$name || exit; \
		code=0; $(BIN)/turntable compare run examples/$$name/task.toml --record || code=$$?; [ $$code -lt 2 ] || exit $$code; \
	done
	@code=0; $(BIN)/turntable compare run examples/retrieve/task.toml || code=$$?; [ $$code -lt 2 ]
	@$(BIN)/turntable advise examples/prompt/case.toml --task examples/prompt/task.toml

loadtest: setup ## measure the running gateway
	@$(BIN)/turntable loadtest run

# Exit code 1 is a verdict; its figures belong on the page too.
bench: setup .bench/.installed ## CPU, latency, memory, cold start beside vllm-router and LiteLLM; writes docs/benchmarks.md
	@code=0; $(BIN)/turntable loadtest bench --json docs/benchmarks/gateway.json || code=$$?; \
		if [ $$code -lt 2 ]; then $(BIN)/python docs/build_reference.py || exit; fi; exit $$code

bench-adapters: setup ## cold starts, slots, 1,000 adapters and a killed engine, on a real vLLM
	@$(BIN)/python -m trainer.base_model --out var/base-model >/dev/null
	@code=0; us=$$($(BIN)/python -m tests.gateway.engines.bench_pin) && \
		$(BIN)/turntable loadtest bench-adapters --resolve-pin-us $$us --json docs/benchmarks/adapters.json || code=$$?; \
		if [ $$code -lt 2 ]; then $(BIN)/python docs/build_reference.py || exit; fi; exit $$code

bench-lora: setup ## adapters on vLLM's CPU engine beside its base and an engine without LoRA; MODEL=directory for your own
	@test -n "$(MODEL)" || $(BIN)/python -m trainer.base_model --out var/base-model >/dev/null
	@$(BIN)/turntable loadtest bench-lora --model $(or $(MODEL),var/base-model) --json docs/benchmarks/lora_cpu.json

bench-costs: setup ## a million ledger rows summed up on SQLite and PostgreSQL; writes docs/explanation/costs.md
	@$(BIN)/python -m docs.measure_costs && $(BIN)/python docs/build_reference.py

# Exit code 1 is a verdict; its figures belong on the page too.
bench-trainer: setup ## tokens/s, memory and loss of the trainer beside TRL's defaults; DATA=rows.jsonl for your own rows
	@code=0; $(BIN)/python -m trainer.benchmark $(DATA) --json docs/benchmarks/trainer.json || code=$$?; \
		if [ $$code -lt 2 ]; then $(BIN)/python docs/build_reference.py || exit; fi; exit $$code

bench-soak: setup ## memory of the gateway over 100,000 requests
	@code=0; $(BIN)/turntable loadtest soak --json docs/benchmarks/soak.json || code=$$?; \
		if [ $$code -lt 2 ]; then $(BIN)/python docs/build_reference.py || exit; fi; exit $$code

soak: setup ## kill -9 of a gateway 1,000 times under load; writes docs/benchmarks/kills.json, exit code 1 when a token is lost
	@$(BIN)/python -m tests.gateway.metering.kills --kills 1000 --json docs/benchmarks/kills.json

soak-chaos: setup ## kills, stops, full disks and moved databases at random under load; MINUTES=20; writes docs/benchmarks/chaos.json
	@$(BIN)/python -m tests.gateway.metering.chaos --minutes $(or $(MINUTES),20) --json docs/benchmarks/chaos.json

.bench/.installed: requirements/bench-vllm-router.txt requirements/bench-litellm.txt | setup
	@for name in vllm-router litellm; do \
		echo "bench: $$name" && $(PYTHON) -m venv .bench/$$name && \
		$(BIN)/uv pip install --quiet --python .bench/$$name/bin/python --no-deps -r requirements/bench-$$name.txt || exit 2; \
	done; touch $@

clean: ## remove the virtual environment and all caches; keeps var/
	rm -rf .venv .bench $(NODE)/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
