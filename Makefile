# `make help` lists the targets. One profile (release) does everything that CI runs, so that a cold
# build compiles each dependency once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# A Python with torch and transformers, for `make check` and `make bench`; nothing else needs one.
PYTHON ?= python3
# Where the demo and the toy leave their results.
OUT ?= target/demo

.PHONY: help build demo toy test lint walls doc readme check parity fuzz fuzz-cargo bench cuda gpu-bench docs clean-demo ladder replica

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the programs: target/release/{extract,distill,toy}
	$(CARGO) build --workspace --release --bins

demo: build ## the whole method on the embedded toy: extract, distil, evaluate, report (minutes)
	./datasets/demo.sh "$(OUT)"

toy: build ## make the embedded toy again: images, questions, tokenizers, teacher, student
	./datasets/toy.sh

ladder: build ## train the replica's models again, in place of the shipped ones: three teachers, four students (two hours)
	./datasets/ladder.sh --install

replica: build ## the tables and figures of docs/replica.md, of every grid whose models are there (hours; goes on where it stopped); with DATA= and IMAGES=, on real images too
	./datasets/replica.sh --docs
	if [ -n "$(DATA)" ]; then ./datasets/questions.sh --docs "$(DATA)" "$(IMAGES)"; else echo "skipped: real images (no DATA=SRC given)"; fi
	./datasets/measures.sh --docs

test: export RUSTDOCFLAGS = -D warnings
test: lint walls ## everything that must hold; needs only a Rust toolchain
	$(CARGO) build --workspace --release
	$(CARGO) doc --workspace --release --no-deps --quiet
	$(CARGO) test --workspace --release
	$(MAKE) --no-print-directory readme

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --release -- -D warnings

# The cache format compiles without the models; tests/tests/boundaries.rs holds the other walls.
walls:
	$(CARGO) check --release -p shared --no-default-features

readme: build ## run the commands of the README's tour
	rm -rf target/demo
	./docs/run_readme.sh README.md

check: test ## also beside PyTorch and transformers, when PYTHON has them; REF=DIR adds parity
	INTERRUPTIONS=300 $(CARGO) test --workspace --release --test faults interruptions
	./tests/peers/run.sh "$(PYTHON)"
	$(MAKE) --no-print-directory gpu-bench DEVICE=cpu
	if [ -n "$(REF)" ]; then $(MAKE) --no-print-directory parity; else echo "skipped: parity (no REF=DIR given)"; fi

parity: ## REF=DIR: every family against reference checkpoints with transformers' own results
	@[ -n "$(REF)" ] || { echo "usage: make parity REF=DIR, a folder of reference checkpoints" >&2; exit 2; }
	$(CARGO) run --release -p e2e --bin parity -- "$(REF)"

# How long `make fuzz` goes on, and where its seeds begin.
SECONDS ?= 600
SEED ?= 4294967296
fuzz: ## SECONDS=600: mutated caches through the reader and `verify`, on seeds that `make test` has not seen
	FUZZ_SECONDS="$(SECONDS)" FUZZ_SEED="$(SEED)" $(CARGO) test --workspace --release --test hostile -- --nocapture

# Where the inputs that cargo-fuzz finds worth keeping lie, and its targets.
CORPUS ?= target/fuzz/corpus
FUZZ_TARGETS ?= page encode manifest shard index
fuzz-cargo: export RUSTC_BOOTSTRAP = 1
fuzz-cargo: ## SECONDS=600: each target of fuzz/ for as long, by libFuzzer; needs a C++ compiler and `cargo install cargo-fuzz`, no nightly
	$(CARGO) fuzz build --fuzz-dir fuzz --sanitizer none --target-dir target/fuzz
	$(CARGO) run --release -p e2e --bin fuzz_seeds -- "$(CORPUS)"
	for target in $(FUZZ_TARGETS); do \
		$(CARGO) fuzz run --fuzz-dir fuzz --sanitizer none --target-dir target/fuzz "$$target" "$(CORPUS)/$$target" -- \
			-max_total_time="$(SECONDS)" -timeout=20 -rss_limit_mb=1024 -max_len=400000; \
	done

bench: build ## microbenchmarks; with DATA=, IMAGES=, MODEL= and a PYTHON that has torch, the comparisons of docs/benchmarks.md
	$(CARGO) bench --workspace
	if [ -n "$(DATA)" ]; then ./tests/peers/bench.sh "$(PYTHON)" "$(DATA)" "$(IMAGES)" "$(MODEL)"; else echo "skipped: comparisons with PyTorch (no DATA=SRC given)"; fi

cuda: ## target/cuda/{extract,distill} with CUDA; needs no GPU, and fetches nvcc when there is none (CUDA_COMPUTE_CAP=90)
	CARGO="$(CARGO)" PYTHON="$(PYTHON)" ./shared/build_cuda.sh

# cpu rehearses it in tiny shapes; elsewhere it takes target/gpu-bench.tgz, which `make cuda` leaves, and builds nothing.
DEVICE ?= cuda:0
gpu-bench: $(if $(filter cpu,$(DEVICE)),build) ## DEVICE=cuda:0: correctness and speed on a GPU, one table (DEVICE=cpu: a rehearsal)
	./tests/gpu/bench.sh "$(DEVICE)" "$(PYTHON)"

docs: export RUSTDOCFLAGS = -D warnings
docs: ## the API documentation, in target/doc
	$(CARGO) doc --workspace --release --no-deps

clean-demo: ## forget the demo's results
	rm -rf "$(OUT)"
