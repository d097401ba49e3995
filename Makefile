# cvmguard: `make help` lists what there is.
# Everything that make itself prints goes to stderr: `make run FORMAT=json` keeps
# stdout for the one JSON document.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test lint bench dist func clean tools fuzz lowkey

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)
ONCE     ?=
FORMAT   ?= table
MODE     ?= enforce
SCENE    ?= main
POLICY   ?=
FUZZTIME ?= 30s
# Flex Consumption runs linux/amd64, and so a plain `make dist` builds for it on
# any machine. Goals that run the binary here take this machine's platform.
DIST_ENV ?= $(if $(filter run test bench func,$(MAKECMDGOALS)),,GOOS=linux GOARCH=amd64)

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

NPM := node_modules/.package-lock.json

$(NPM): package-lock.json
	@npm ci --no-audit --no-fund --loglevel=error >&2 && touch $@

dist: ## stage what is deployed, for linux/amd64: the binary, host.json, the functions, the guest's tool (DIST_ENV= for this machine; run, test, bench and func stage that)
	@rm -rf .dist && mkdir -p .dist/guest
	@CGO_ENABLED=0 $(DIST_ENV) $(GO) build -tags release -trimpath -ldflags '$(LDFLAGS)' -o .dist/cvmguard ./cmd/cvmguard >&2
	@CGO_ENABLED=0 GOOS=linux GOARCH=amd64 $(GO) build -tags release -trimpath -ldflags '$(LDFLAGS)' -o .dist/guest/cvmguard-guest ./cmd/cvmguard-guest >&2
	@cp -R functions/. .dist/ && cp host.json local.settings.sample.json .dist/
	@find .dist -type f -exec chmod a-x {} + && chmod a+x .dist/cvmguard
	@rm -rf dist && mv .dist dist

run: dist $(NPM) ## the local world: confidential VMs are created, guarded and recorded (ONCE=1 FORMAT=json MODE=observe SCENE=full POLICY=…)
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/cvmguard-dev ./cmd/cvmguard >&2
	@bin/cvmguard-dev dev --dist dist --infra infra --azurite node_modules/azurite/dist/src/azurite.js --scene $(SCENE) --mode $(MODE) --format $(FORMAT) $(if $(POLICY),--policy $(POLICY)) $(if $(ONCE),--once)

test: dist $(NPM) ## all tests, with the race detector
	$(GO) test -race -timeout 20m ./...

lint: $(NPM) ## formatting, vet, golangci-lint, Bicep's syntax
	@test -z "$$(gofmt -l cmd handlers internal)" || { echo "gofmt these files:" >&2; gofmt -l cmd handlers internal >&2; exit 1; }
	$(GO) mod tidy -diff
	$(GO) vet ./...
	$(GO) vet -tags release ./...
	$(GO) tool -modfile=tools/go.mod golangci-lint run ./...
	node tools/bicep-lint.mjs

bench: dist $(NPM) ## the published figures, each beside its floor
	$(GO) run ./cmd/bench -dist dist -infra infra -azurite node_modules/azurite/dist/src/azurite.js

fuzz: ## every fuzz target for FUZZTIME
	@for p in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$p | grep ^Fuzz); do echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done

lowkey: ## fetch Lowkey Vault, a Key Vault by others, for the tests of internal/azure (needs Java and Maven)
	@mvn -q -B -f tools/lowkey/pom.xml dependency:copy-dependencies >&2

func: dist ## run dist/ under the real Functions host (needs func and a storage emulator)
	@command -v func >/dev/null || { echo "func isn't installed: https://learn.microsoft.com/azure/azure-functions/functions-run-local" >&2; exit 1; }
	@test -f dist/local.settings.json || cp local.settings.sample.json dist/local.settings.json
	cd dist && func start

clean: ## remove what was built
	rm -rf dist .dist bin node_modules tools/lowkey/target
