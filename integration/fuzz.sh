#!/bin/bash
# Runs each target of fuzz/ under libFuzzer for some seconds, or those that are named; what was found is kept in the cache
# directory and tried again the next time. Builds on the stable toolchain: no sanitizer, for there is hardly any unsafe code.
set -euo pipefail

seconds=${FUZZ_SECONDS:-60}
cache=${JITTERSCOPE_CACHE:-/var/cache/jitterscope}/fuzz
cd "$(dirname "${BASH_SOURCE[0]}")/.."

coverage="-Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4"
coverage+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
coverage+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
target=$(rustc -vV | sed -n 's/^host: //p')
# Only what runs on the target is instrumented: with a target named, build scripts are not.
export RUSTFLAGS="--cfg fuzzing -Cdebug-assertions $coverage ${RUSTFLAGS:-}"
directory=${CARGO_TARGET_DIR:-target}/fuzz
cargo build --package jitterscope-fuzz --release --target "$target" --target-dir "$directory" \
	--config 'profile.release.lto = false' --config 'profile.release.strip = "debuginfo"' --config 'profile.release.overflow-checks = true'
program=$directory/$target/release/jitterscope-fuzz

if [ $# -eq 0 ]; then
	mapfile -t targets < <(env -u JITTERSCOPE_FUZZ "$program")
else
	targets=("$@")
fi
for name in "${targets[@]}"; do
	mkdir -p "$cache/$name"
	echo "fuzz.sh: $name, $seconds s"
	JITTERSCOPE_FUZZ=$name "$program" -max_total_time="$seconds" -print_final_stats=1 -artifact_prefix="$cache/$name-" \
		-max_len=4096 "$cache/$name" 2>&1 | grep -E '^(stat::number_of|==|thread|artifact|SUMMARY|Test unit)|panicked|DONE' ||
		{ echo "fuzz.sh: $name: the bytes are in $cache" >&2; exit 1; }
	[ "${PIPESTATUS[0]}" -eq 0 ]
done
