# `make demo` and `make test` do everything on a fresh machine with Rust and Go.
SHELL := bash
.DEFAULT_GOAL := help
CONTROL_PLANE := target/control-plane/bin/kwok-stages.yaml
# Always the whole workspace: one part of it alone would build its libraries anew, with the features that it asks for.

.PHONY: help build test units test-slurm demo demo-stop demo-cut demo-restore bench soak fuzz crds docs lint control-plane

help: ## Shows this help.
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Builds the operator.
	cargo build --locked --release -p aifactory-operator

control-plane: $(CONTROL_PLANE) ## Builds the control planes of the local federation.

$(CONTROL_PLANE): tests/control-plane/go.mod tests/control-plane/build
	tests/control-plane/build
	@touch $@

lint: ## Format and clippy.
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --features aifactory-tests/slurm -- -D warnings

# Suites wait for clusters most of the time, so two run side by side; the longest begin first.
LONG := resilience sites hours slinky mistakes
SLURM := slurm slurm_usage slurm_stack
SUITES := $(LONG) $(filter-out $(LONG) $(SLURM) soak,$(basename $(notdir $(wildcard tests/suites/*.rs))))
PURE := $(basename $(notdir $(wildcard operator/*/tests/*.rs)))
CARGO_TEST := cargo test --locked --workspace
SIDE_BY_SIDE := $(MAKE) --no-print-directory --keep-going --output-sync=target --jobs=2

test: control-plane lint ## Format, lints, docs, CRD drift, unit, property, golden and federation tests.
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
	cargo build --locked --workspace
	cargo run --locked --quiet --bin aifactory-operator -- crds --check
	cargo test --locked --workspace --no-run
	$(SIDE_BY_SIDE) $(SUITES:%=suite-%) units

units: ## Unit, property and simulation tests, which need no cluster.
	$(CARGO_TEST) --lib --bins $(PURE:%=--test %) -- --test-threads=2
	$(CARGO_TEST) --doc

suite-%: ## One suite on real API servers: make suite-sites
	$(CARGO_TEST) --test $* -- --test-threads=2

test-slurm: ## Suites on real Slurm clusters; needs Debian or Ubuntu, and root.
	tests/slurm/build
	cargo build --locked --workspace
	cargo test --locked --workspace --features aifactory-tests/slurm --no-run $(SLURM:%=--test %)
	$(SIDE_BY_SIDE) $(SLURM:%=slurm-suite-%)

slurm-suite-%:
	$(CARGO_TEST) --features aifactory-tests/slurm --test $* -- --test-threads=2

demo: control-plane ## The main job on a hub and two sites on this machine, left running; with a real Slurm where there are Debian and root.
	@if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then tests/slurm/build || echo 'The demo goes on without a real Slurm.'; fi
	cargo build --locked --workspace
	cargo run --locked --quiet --bin demo -- start

demo-stop: ## Stops the demo.
	cargo run --locked --quiet --bin demo -- stop

demo-cut: ## Cuts a site of the demo off: make demo-cut SITE=bissen
	@cargo run --locked --quiet --bin demo -- cut $(SITE)

demo-restore: ## Puts a site of the demo back: make demo-restore SITE=bissen
	@cargo run --locked --quiet --bin demo -- restore $(SITE)

bench: control-plane ## Speed and size on the real federation, beside a bare client.
	cargo build --locked --release -p aifactory-operator -p aifactory-tests
	AIFACTORY_OPERATOR=$(CURDIR)/target/release/aifactory-operator cargo run --locked --release --quiet -p aifactory-tests --bin bench

soak: control-plane ## Random changes and disturbances on the real federation, and the main scenario with a minute of rest.
	cargo build --locked --workspace
	cargo test --locked --workspace --test soak -- --nocapture
	AIFACTORY_REST_SECONDS=60 cargo test --locked --workspace --test lifecycle

FUZZ_SECONDS ?= 60
FUZZ_TARGETS := $(basename $(notdir $(wildcard tests/fuzz/fuzz_targets/*.rs)))

fuzz: target/tools/bin/cargo-fuzz ## Every decoder on hostile bytes, FUZZ_SECONDS each; needs nightly Rust.
	@for target in $(FUZZ_TARGETS); do \
		echo "== $$target"; \
		PATH="$(CURDIR)/target/tools/bin:$$PATH" CARGO_TARGET_DIR=$(CURDIR)/target/fuzz \
			cargo +nightly fuzz run --fuzz-dir tests/fuzz --sanitizer none $$target -- -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096 -max_len=8192 || exit 1; \
	done

target/tools/bin/cargo-fuzz:
	cargo install --locked --root target/tools cargo-fuzz

crds: ## Generates crds/ from the types.
	cargo run --locked --quiet --bin aifactory-operator -- crds

docs: ## Regenerates the reference pages.
	UPDATE=1 cargo test --locked --workspace --test docs
