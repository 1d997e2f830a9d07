# Each target sets up what it needs (integration/setup.sh, a second when all is there) and then leaves the work to cargo.

# Arguments of the receiver: make run ARGS="--endpoint http://HOST:4317"
ARGS ?=
# Rows of integration/kernels.txt; all of them if empty.
KERNELS ?=

# Seconds under load of `make soak`.
SOAK_SECONDS ?= 600

# Seconds of `make bench` for each way of sending that its part `delivery` compares.
BENCH_SECONDS ?= 120

# Seconds that `make fuzz` spends on each target.
FUZZ_SECONDS ?= 60

# Seconds that `make demo` runs for; if empty, until Ctrl-C.
DEMO_SECONDS ?=

.PHONY: run test demo bench loki vm soak fuzz lint

run:
	integration/setup.sh run
	cargo run --release --bin jitterscope -- run $(ARGS)

# In continuous integration the faults, IPVS, and which probes can run, on one older kernel belong to it.
test:
	integration/setup.sh test
	cargo build --workspace
	cargo test --workspace
	$(if $(CI),JITTERSCOPE_VM_TESTS="(packetloss_(faults|node)|tcpreset_|virtcmdlatency_|ipvs-|kernel_states-)" JITTERSCOPE_VM_TIMEOUT=1500 $(MAKE) vm KERNELS=6.1)

# An instrumented application with faults, all that joins them with its spans, and what that looks like.
demo:
	integration/setup.sh test
	cargo build --release --package jitterscope
	cargo build --package jitterscope-integration --bin demo
	JITTERSCOPE_BIN=$$(pwd)/target/release/jitterscope target/debug/demo $(DEMO_SECONDS)

# That links lead from a record in Loki too: building Loki takes longer than everything that `make test` needs.
loki:
	integration/setup.sh loki
	cargo build --workspace
	cargo test --package jitterscope-integration --test span_backends -- --ignored

bench:
	integration/setup.sh test
	cargo build --release --package jitterscope
	JITTERSCOPE_BENCH_SECONDS=$(BENCH_SECONDS) cargo bench --package jitterscope-integration

# All probes at once under load, and switched on and off 500 times; a minute and ten times of it are in `make test`.
soak:
	integration/setup.sh test
	cargo build --release --package jitterscope
	JITTERSCOPE_SOAK=$(SOAK_SECONDS) JITTERSCOPE_BIN=$$(pwd)/target/release/jitterscope cargo test --package jitterscope-integration --test soak

# Everything that reads foreign bytes, by coverage; a moment of it without is in `make test`.
fuzz:
	integration/setup.sh run
	FUZZ_SECONDS=$(FUZZ_SECONDS) integration/fuzz.sh

# The tests of all eBPF programs, of IPVS, and of which probes can run, on other kernels, in virtual machines.
vm:
	integration/setup.sh vm $(KERNELS)
	integration/vm-tests.sh $(KERNELS)

# Format and lints of all languages, and the dependencies: licences, duplicates, sources, known vulnerabilities.
lint:
	integration/setup.sh lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	clang-format-19 --dry-run -Werror $$(git ls-files '*.c' '*.h')
	shellcheck --external-sources --source-path=SCRIPTDIR $$(git ls-files 'integration/*.sh' .ci/run | grep -v setup/)
	integration/lint-dependencies.sh
