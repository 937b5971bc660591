# `make help` lists the targets.

SHELL := /bin/bash
TOOLS := tests/tools
MAJORS ?= 15 18
PG_CONFIG ?= pg_config

.PHONY: all help demo test fuzz test-15 test-16 test-17 test-18 install bench chart lint test-core test-assert check-16 check-17 clean

all: ## build the extension for PostgreSQL 15, in a private PostgreSQL of its own
	@$(TOOLS)/setup.sh 15
	@$(TOOLS)/install.sh 15

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9 -]+:.*## / { printf "make %-31s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the tour: 336,776 flights of 16 airlines, one table, each airline its own rows (KEEP=1 keeps the server)
	@demo/run.sh

test: ## the tests, on PostgreSQL 15 and 18; installs what it needs
	@$(TOOLS)/test-all.sh $(MAJORS)

test-15 test-16 test-17 test-18: test-%: ## the tests on one major, for example: make test-18
	@$(TOOLS)/test-all.sh $*

test-core: ## PostgreSQL's own regression and isolation suites with the library at work, on 15 and 18
	@$(TOOLS)/setup.sh $(MAJORS)
	@for major in $(MAJORS); do $(TOOLS)/install.sh $$major && $(TOOLS)/core.sh $$major || exit 1; done

test-assert: ## our suites on a PostgreSQL that checks its assertions, built here (MAJORS=15: on one major)
	@for major in $(MAJORS); do $(TOOLS)/assert.sh $$major || exit 1; done

fuzz: ## the long runs: a million random inputs to each parser, 100,000 random statements for each type of tenant column (hours; INPUTS, STATEMENTS, MAJORS)
	@$(TOOLS)/setup.sh $(MAJORS)
	@for major in $(MAJORS); do $(TOOLS)/install.sh $$major && $(TOOLS)/fuzz.sh $$major || exit 1; done

install: ## build and install into the PostgreSQL that PG_CONFIG names (default: pg_config on the PATH)
	@$(TOOLS)/install.sh "$(PG_CONFIG)"

bench: ## the measurements behind the README's claims (PARTS="speed instructions protection planning quota token audit cache stat_tenants health migrate"), on PostgreSQL 15 and, for speed, 18
	@$(TOOLS)/setup.sh 15 18
	@for major in 15 18; do $(TOOLS)/install.sh $$major || exit 1; done
	@tests/bench/run.sh $(PARTS)

chart: ## docs/speed.svg, from what `make bench` has measured last
	@$(TOOLS)/setup.sh chart
	@. $(TOOLS)/lib.sh && "$$CACHE/venv/bin/python" tests/bench/chart.py

lint: ## formatting, clippy on 15 and 18, shellcheck, the rules of the code base
	@$(TOOLS)/setup.sh 15 18
	@$(TOOLS)/lint.sh

check-16 check-17: check-%: ## does it compile for that major?
	@$(TOOLS)/setup.sh $*
	@$(TOOLS)/check.sh $*

clean: ## remove what was built here; the cache of downloads stays
	cargo clean
