# What the set-up steps share: saying what happens, and building something into the cache or, without root, only naming it.
# Sourced by setup.sh, which runs with `set -euo pipefail` and sets `cache` and `here`.
# shellcheck shell=bash

missing=()
work=

say() {
	printf 'setup: %s\n' "$*"
}

fail() {
	printf 'setup: %s\n' "$*" >&2
	exit 1
}

is_root() {
	[ "$(id -u)" -eq 0 ]
}

# Nothing half-made stays behind, whatever ended the script; the log of a failed build is shown.
exec 8>&2
clean_up() {
	if [ -n "$work" ]; then
		tail -n 40 "$work.log" >&8 || true
		rm -rf "$work"
		printf 'setup: failed; the whole log is %s\n' "$work.log" >&8
	fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# build_in PARENT FUNCTION [ARGUMENT…]: runs FUNCTION WORK ARGUMENT… with WORK a new directory in PARENT and its output
# in WORK.log. It is not run as a condition, so that `set -e` holds inside. Ends the script when it fails.
build_in() {
	local parent=$1 build=$2
	shift 2
	mkdir -p "$parent"
	work=$(mktemp -d "$parent/.building.XXXXXX")
	chmod 755 "$work"
	"$build" "$work" "$@" >"$work.log" 2>&1
	rm -rf "$work" "$work.log"
	work=
}

# provide WHAT PATH FUNCTION [ARGUMENT…]: if PATH is not in the cache, FUNCTION DIRECTORY ARGUMENT… makes the directory
# that becomes PATH's first component.
provide() {
	local what=$1 path=$2 home=$cache/${2%%/*} started=$SECONDS
	shift 2
	if [ -e "$cache/$path" ]; then
		return
	fi
	if ! is_root; then
		missing+=("$what, to be built into $home")
		return
	fi
	say "$what: building into $home"
	build_in "$cache" install_built "$home" "$@"
	[ -e "$cache/$path" ] || fail "$what: the build left no $path"
	say "$what: done in $((SECONDS - started)) s"
}

# install_built WORK HOME FUNCTION [ARGUMENT…]
install_built() {
	local work=$1 home=$2 build=$3
	shift 3
	mkdir "$work/home"
	"$build" "$work/home" "$@"
	rm -rf "$home"
	mv "$work/home" "$home"
}

# One set-up at a time for a cache; the second waits, then finds everything there. What a killed one left is removed.
take_turn() {
	if is_root; then
		mkdir -p "$cache"
		exec 9>"$cache/.lock"
		flock 9
		rm -rf "$cache"/.building.* "$cache"/kernels/.building.*
	fi
}
