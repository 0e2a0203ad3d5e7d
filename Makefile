# Everything that CI does is a target here; `make` alone explains them.
SHELL := /bin/sh
GO ?= go
BIN := bin/outbox-relay
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
TOOL := $(GO) tool -modfile=.ci/tools/go.mod
PACKAGES = $(shell $(GO) list ./... | grep -v /test/)
# The race detector needs a C compiler, which Go does not bring.
RACE = $(if $(filter 1,$(shell $(GO) env CGO_ENABLED)),-race)
# Tests that find no server add a line here.
OUTBOX_TEST_SKIPPED ?= $(CURDIR)/bin/left-out

.NOTPARALLEL:
.PHONY: help build demo test unit real chaos bench fuzz deploy lint fmt docs clean

help: ## explain the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/outbox-relay
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/outbox-relay

demo: build ## show the whole path on this machine: make demo ARGS="--duration 20s"
	@$(BIN) demo $(ARGS)

test: export OUTBOX_TEST_SKIPPED := $(OUTBOX_TEST_SKIPPED)
test: ## unit tests, then real Postgres and real Kafka (about 15 minutes on two cores)
	@mkdir -p bin && : >"$$OUTBOX_TEST_SKIPPED"
	@$(if $(RACE),,echo "the race detector: there is no C compiler" >>"$$OUTBOX_TEST_SKIPPED")
	@$(MAKE) --no-print-directory unit real
	@if [ -s "$$OUTBOX_TEST_SKIPPED" ]; then echo; echo "left out, by reason; names are in $(OUTBOX_TEST_SKIPPED):"; \
	  sort -u "$$OUTBOX_TEST_SKIPPED" | sed 's/^[^ ]*: //' | sort | uniq -c; fi

unit: ## tests that need no server; Postgres is used where it is found
	$(GO) test $(RACE) -timeout 10m $(PACKAGES) ./test/arch ./test/docs ./test/monitor

# Never from the cache: Go does not see that the relay under test has changed.
real: ## delivery claims on real Postgres and real Apache Kafka
	OUTBOX_TEST_REAL=1 $(GO) test $(RACE) -count=1 -p 1 -timeout 25m ./test/harness ./test/load ./test/e2e ./test/chaos ./test/ha ./test/page ./test/monitor

chaos: ## long faults: 200 SIGKILLs, 50 of a replay, 20 of a recovery, 50 takeovers, consumers for 5 minutes, Kafka away for one
	OUTBOX_TEST_REAL=1 OUTBOX_CHAOS_KILLS=200 OUTBOX_CHAOS_REPLAY_KILLS=50 OUTBOX_CHAOS_PARK_ROUNDS=60 OUTBOX_CONSUMER_MINUTES=5 OUTBOX_RECOVER_ROWS=100000 OUTBOX_RECOVER_KILLS=20 \
	  $(GO) test -count=1 -timeout 60m -v -run 'Chaos|Crash|Killed|AtOnce|ConsumerMember' ./test/chaos
	OUTBOX_TEST_REAL=1 OUTBOX_HA_FULL=1 OUTBOX_TAKEOVER_RUNS=50 OUTBOX_FREEZE_RUNS=10 \
	  $(GO) test -count=1 -timeout 20m -v ./test/ha
	OUTBOX_TEST_REAL=1 OUTBOX_RIGHTS_ALL=1 $(GO) test -count=1 -timeout 20m -v -run 'RightsAreExactly' ./test/e2e
	OUTBOX_TEST_REAL=1 OUTBOX_OUTAGE_SECONDS=60 $(GO) test -count=1 -timeout 20m -v -run 'Breaker' ./test/e2e
	OUTBOX_TEST_REAL=1 OUTBOX_BUSY_SECONDS=600 OUTBOX_BUSY_RATE=200 $(GO) test -count=1 -timeout 20m -v -run 'IdleOutbox' ./test/e2e

bench: ## the relay against pg_recvlogical, the consumer library against a bare loop, in turns
	OUTBOX_TEST_REAL=1 $(GO) test -count=1 -timeout 60m -v -run '^TestBench' ./test/bench

fuzz: ## every fuzz target for a short while
	.ci/fuzz 10s

deploy: ## chart, compose file, image and unit; no cluster, engine or manager is needed
	cd deploy/check && $(GO) vet . && $(GO) test -count=1 -timeout 10m .

lint: ## formatting, vet, staticcheck, import directions
	@out=$$($(TOOL) gofumpt -l .); if [ -n "$$out" ]; then echo "not gofumpt-formatted:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags crashpoints,wrong_trust_commit,wrong_confirm_early,wrong_row_lsn ./...
	$(TOOL) staticcheck ./...
	$(GO) test -count=1 ./test/arch
	$(GO) mod verify

docs: ## write the pages that come from the code
	@for f in deploy/prometheus/outbox-relay.rules.yml deploy/grafana/*.json; do if [ -e "$$f" ]; then cp "$$f" deploy/helm/outbox-relay/files/; fi; done
	$(GO) test -count=1 -run 'Page$$' ./internal/fault ./internal/config ./internal/doctor ./internal/rights ./cmd/outbox-relay -update

fmt: ## format the code
	$(TOOL) gofumpt -w .

clean: ## remove what was built
	rm -rf bin
