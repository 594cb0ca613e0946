# Every command a person or a CI job needs. `make` alone lists them.
#
# Each target installs what it needs first (scripts/install-deps) and says plainly what is missing where it may not.

SHELL := /bin/bash
.DEFAULT_GOAL := help
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# CI sets it to `ci`: see .config/nextest.toml.
NEXTEST_PROFILE ?= default
# The same random cases at each run: a red build must mean that the change is wrong. `cargo nextest run` draws new ones.
export PROPTEST_RNG_SEED ?= 20

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Try it: a provider, an application and daypass on this machine; prints a URL to open
	@scripts/install-deps --for demo
	@$(CARGO) build
	@DAYPASS_BIN="$(abspath $(TARGET)/debug/daypass)" $(CARGO) run --quiet --example demo

.PHONY: test
test: ## Run every test and check the deployment files
	@scripts/install-deps --for test
	@scripts/check-deploy
	@$(CARGO) test --quiet --doc --workspace
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    $(CARGO) nextest run --workspace --profile $(NEXTEST_PROFILE); \
	else \
	    echo "cargo-nextest is not installed: using cargo test"; \
	    $(CARGO) test --workspace --no-fail-fast --lib --bins --tests; \
	fi
	@$(MAKE) --no-print-directory test-valkey

# What depends on the store: everything that stores sessions, and what the two servers might do differently.
OF_THE_STORE := binary(chaos) | test(/(^|::)(session|refresh|topology|outage|faults|streams|logout)(::|_)/)

.PHONY: test-valkey
test-valkey: ## Run the tests of sessions once more, with Valkey in the place of Redis
	@scripts/install-deps --for test
	@server=$$(PATH=$$PATH:/usr/sbin:/sbin command -v valkey-server || \
	    echo "$(abspath $(TARGET))/valkey/usr/bin/valkey-server"); \
	if ! [ -x "$$server" ]; then echo "no Valkey here: its tests are left out"; [ -z "$$CI" ]; exit; fi; \
	"$$server" --version; \
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    DAYPASS_TEST_REDIS_SERVER=$$server \
	        $(CARGO) nextest run --workspace --profile $(NEXTEST_PROFILE) -E '$(OF_THE_STORE)'; \
	else \
	    echo "cargo-nextest is not installed: unit tests of sessions only"; \
	    DAYPASS_TEST_REDIS_SERVER=$$server $(CARGO) test --no-fail-fast --lib session; \
	fi

.PHONY: lint
lint: ## Check format, lints and documentation
	@scripts/install-deps --for demo
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --manifest-path fuzz/Cargo.toml --target-dir $(TARGET) --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(MAKE) --no-print-directory deny; \
	else echo "cargo-deny is not installed: licences, bans and sources are not checked (see make deny)"; fi

.PHONY: deny
deny: ## Check licences, banned crates and sources (needs cargo-deny)
	$(CARGO) deny --workspace check licenses bans sources

.PHONY: audit
audit: ## Check dependencies for known vulnerabilities (needs cargo-deny and GitHub)
	$(CARGO) deny --workspace check advisories

.PHONY: chaos
chaos: ## Break everything around a fleet, for MINUTES=5, from SEED= (drawn and printed when not given), with STORE=single, sentinel or cluster (drawn from the seed)
	@scripts/install-deps --for test
	CHAOS_SEED="$(SEED)" CHAOS_MINUTES="$(MINUTES)" CHAOS_STORE="$(STORE)" \
	    $(CARGO) test --test chaos -- --ignored --nocapture

.PHONY: bench
bench: ## Compare daypass with a bare pingora proxy and nginx, and measure a fleet (release build, about 15 minutes the first time)
	@scripts/install-deps --for bench
	$(CARGO) build --release --bin daypass --example bare_proxy
	$(CARGO) build --example bench_fixture
	@scripts/bench
	@scripts/bench-sessions

.PHONY: bench-peers
bench-peers: ## Compare daypass with mod_auth_openidc and Envoy's OAuth2 filter (release build, then about 5 minutes)
	@scripts/install-deps --for bench-peers
	$(CARGO) build --release --bin daypass
	$(CARGO) build --example bench_fixture
	@scripts/bench-peers
