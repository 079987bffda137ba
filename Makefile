# multiroute: every step of the continuous integration is a target here. "make" lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# Seconds (or a count, as 100000x) for each fuzz target of "make fuzz".
FUZZTIME ?= 2m
# Further flags for go test, such as TESTFLAGS='-v -run TestSpread'.
TESTFLAGS ?=
# Flags for the failover part of the benchmark.
BENCHFLAGS ?=

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
STATICCHECK := go tool -modfile=tools/lint.mod staticcheck

# The version comes from git describe, so that a checkout of another owner can be built, too.
export GOFLAGS := $(GOFLAGS) -buildvcs=false
# Nothing needs C but the race detector.
export CGO_ENABLED := 0

.PHONY: help build demo test test-big-endian lint fuzz fuzz-short bench package package-check package-test clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

build: ## bin/agent, a static program without dependencies
	go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/agent ./cmd/agent

demo: build ## shows what multiroute does, in a laboratory on this machine; 12 seconds, no root needed
	@go build -o bin/demo ./test/demo
	@bin/demo

# The race detector needs a C compiler with headers, and not every platform has it. What is in test is about time: one package after the other.
test: ## everything, with the race detector where there is a C compiler; no root needed
	@if CGO_ENABLED=1 go build -race runtime/cgo runtime/race >/dev/null 2>&1; then \
		race=-race; export CGO_ENABLED=1; \
	else \
		race=; echo 'make test: no race detector here (on Debian it needs: apt-get install gcc libc6-dev); testing without it'; \
	fi; \
	status=0; \
	go test $$race -timeout 10m $(TESTFLAGS) $$(go list ./... | grep -v '^multiroute/test/') || status=1; \
	go test $$race -timeout 25m -p 1 $(TESTFLAGS) ./test/... || status=1; \
	go build -o bin/demo ./test/demo && bin/demo -check || echo 'make test: everything that needs a laboratory was skipped'; \
	exit $$status

# The packages that make or read bytes for the kernel, for probes and for DNS servers. Debian has qemu-mips in qemu-user.
BYTES := ./nat ./routes ./conntrack ./datagram ./agent/alarm ./agent/probe ./agent/dns ./agent/domains
test-big-endian: ## tests of what makes and reads bytes, on a big-endian CPU; needs qemu-user
	@command -v qemu-mips >/dev/null || { echo 'make test-big-endian: there is no qemu-mips (on Debian: apt-get install qemu-user)'; exit 1; }
	GOARCH=mips GOMIPS=softfloat go test -exec 'qemu-mips -cpu 24Kf' -timeout 10m $(TESTFLAGS) $(BYTES)

lint: ## gofmt, go vet, staticcheck, tidy and unchanged modules
	@test -z "$$(gofmt -l .)" || { echo 'not as gofmt writes it:'; gofmt -l .; exit 1; }
	go vet ./...
	$(STATICCHECK) ./...
	go mod verify
	go mod tidy -diff

# Now and then Go calls the end of the time a failure ("context deadline exceeded"), so each target gets a second try. A true failure
# has left its input in testdata by then, and fails again at once.
fuzz: ## all fuzz targets, FUZZTIME (default 2m) each
	@grep -rHo '^func Fuzz[A-Za-z0-9_]*' --include='*_test.go' . | sort | while IFS=: read -r file target; do \
		name=$${target#func }; folder=$${file%/*}; \
		echo "fuzz: $$folder $$name, $(FUZZTIME)"; \
		fuzz() { go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x -timeout 0 "$$folder" </dev/null; }; \
		fuzz || fuzz || exit 1; \
	done

fuzz-short: ## the same, 10 seconds each
	@$(MAKE) --no-print-directory fuzz FUZZTIME=10s

# Failover takes ten minutes; BENCHFLAGS='-quick', '-only REGEXP' or '-long' change that.
bench: ## measures the agent against a bare masquerade, and what clients see of dying uplinks; results in dist/*.json
	@mkdir -p dist
	@status=0; \
	go run ./test/bench -o dist/bench.json || status=1; \
	go run ./test/bench/failover -o dist/failover.json $(BENCHFLAGS) || status=1; \
	exit $$status

package: ## .deb, .rpm, .apk and .ipk for all architectures, in dist
	packaging/make dist

package-check: ## makes all packages twice, as on two machines, and compares them
	@rm -rf dist/again
	packaging/make dist
	@touch packaging/scripts/*
	umask 077; packaging/make dist/again >/dev/null
	@cd dist/again && sha256sum multiroute[_-]* >../SHA256SUMS && cd .. && sha256sum --check SHA256SUMS
	@rm -rf dist/again

# Three minutes; the first time a minute more, for the Debian.
package-test: ## installs, upgrades, runs and removes the .deb in a Debian of its own; needs root, debootstrap and systemd-nspawn
	packaging/test

clean: ## removes what was built
	rm -rf bin dist
