#!/bin/bash
# Runs a command as root on another kernel: a virtual machine over this machine's own file system, which it sees read-only.
set -euo pipefail

usage() {
	cat >&2 <<'END'
usage: integration/vm.sh KERNEL -- COMMAND [ARGUMENT...]

KERNEL is a row of integration/kernels.txt (such as 6.1), fetched by `integration/setup.sh vm KERNEL`. The output and the
exit code are those of the command; 125 if the machine did not come up, 124 if JITTERSCOPE_VM_TIMEOUT (600 seconds) went by.
JITTERSCOPE_VM_RW names directories, separated by colons, to which the command may write; /tmp is its own.
JITTERSCOPE_VM_APPEND is added to the kernel's command line.
JITTERSCOPE_VM_DEVICES are arguments of QEMU, for tests that need a device.
JITTERSCOPE_VM_STALLS is a number of milliseconds for which the machine is not run, again and again.
PATH, CI, RUST_*, CARGO_* and JITTERSCOPE_* are passed on.
END
	exit 64
}

if [ $# -lt 3 ] || [ "$2" != -- ]; then
	usage
fi
line=$1
shift 2

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${JITTERSCOPE_CACHE:-/var/cache/jitterscope}
. "$here/versions.env"
. "$here/setup/kernels.sh"

release=$(kernel_release "$line")
virtme=$cache/virtme-ng-$VIRTME_NG_VERSION/bin
if [ -z "$release" ] || [ ! -x "$virtme/vng" ]; then
	echo "vm.sh: no kernel $line or no virtme-ng in $cache: run integration/setup.sh vm $line" >&2
	exit 69
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/jitterscope-vm.XXXXXX")
machine=
# shellcheck disable=SC2317 # called by the trap
end() {
	if [ -n "$machine" ]; then
		kill "$machine" 2>/dev/null || true
		wait "$machine" || true
	fi
	rm -rf "$work"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Stops QEMU and lets it go on, until it has ended: to the machine its host was busy with others. QEMU is known by the
# directory that only this machine has.
stall() {
	local qemu
	while kill -0 "$machine" 2>/dev/null; do
		sleep "$1"
		qemu=$(pgrep --full "qemu-system.*$work" || true)
		if [ -n "$qemu" ]; then
			# shellcheck disable=SC2086 # one word a process
			kill -STOP $qemu && sleep "$1"
			# shellcheck disable=SC2086
			kill -CONT $qemu 2>/dev/null || true
		fi
	done
}

# Output and exit code come back through files: what virtme-ng itself passes on has gaps.
{
	for name in PATH "${!CI@}" "${!RUST_@}" "${!CARGO_@}" "${!JITTERSCOPE_@}"; do
		printf 'export %s=%q\n' "$name" "${!name}"
	done
	printf 'exec >%q 2>&1 </dev/null\n' "$work/output"
	# A modern container host's limit; the default of init is too low for hundreds of namespaces.
	printf 'ulimit -n 65536\ncd %q\n' "$PWD"
	printf '%q ' "$@"
	printf '\necho $? >%q\n' "$work/status"
} >"$work/command"
: >"$work/output"

shares=(--rodir="$cache" --rwdir="$work")
IFS=: read -r -a writable <<<"${JITTERSCOPE_VM_RW:-}"
for directory in "${writable[@]}"; do
	shares+=(--rwdir="$directory")
done

arguments=()
if [ -n "${JITTERSCOPE_VM_APPEND:-}" ]; then
	arguments=(--append "$JITTERSCOPE_VM_APPEND")
fi
if [ -n "${JITTERSCOPE_VM_DEVICES:-}" ]; then
	arguments+=(--qemu-opts="$JITTERSCOPE_VM_DEVICES")
fi

# The image lies above its modules, which is where virtme-ng looks for them. 9p as the file system, for it needs no daemon.
PATH=$virtme:$PATH timeout --kill-after=10 "${JITTERSCOPE_VM_TIMEOUT:-600}" \
	vng --run "$cache/kernels/$release/root/vmlinuz" --disable-kvm --force-9p --disable-microvm --cpus 2 --memory 2G \
	--user root "${shares[@]}" "${arguments[@]}" -- bash "$work/command" >"$work/console" 2>&1 </dev/null &
machine=$!
if [ -n "${JITTERSCOPE_VM_STALLS:-}" ]; then
	stall "$(printf '%d.%03d' $((JITTERSCOPE_VM_STALLS / 1000)) $((JITTERSCOPE_VM_STALLS % 1000)))" &
fi
tail --follow --lines=+1 --sleep-interval=0.2 --pid="$machine" "$work/output"
ended=0
wait "$machine" || ended=$?
machine=

if [ -s "$work/status" ]; then
	exit "$(cat "$work/status")"
fi
if [ "$ended" -eq 124 ] || [ "$ended" -eq 137 ]; then
	echo "vm.sh: kernel $release: no end after ${JITTERSCOPE_VM_TIMEOUT:-600} seconds" >&2
	exit 124
fi
echo "vm.sh: kernel $release did not run the command; its console:" >&2
cat "$work/console" >&2
exit 125
