#!/bin/bash
# Runs test programs, compiled here, on other kernels: all of kernels.txt, or those named as arguments. The programs are
# those whose name begins with the regular expression JITTERSCOPE_VM_TESTS: by default the tests of all eBPF programs
# (ebpf/tests), of IPVS, which a kernel without modules lacks, of which probes can run, and of a clock that is set. Other end-to-end tests have
# deadlines for a real machine, and this one is emulated.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."

kernels=("$@")
if [ ${#kernels[@]} -eq 0 ]; then
	mapfile -t kernels < <(awk '/^[0-9]/ { print $1 }' "$here/kernels.txt")
fi

of_programs=$(cd ebpf/tests && printf '%s-|' *_*.rs | sed 's/\.rs//g')
tests=${JITTERSCOPE_VM_TESTS:-(${of_programs}ipvs-|kernel_states-|clock_step-)}

# The receiver, for tests that start it; then cargo's list of test programs.
cargo build --workspace
mapfile -t programs < <(cargo test --workspace --tests --no-run --message-format=json |
	sed -nE 's#.*"executable":"([^"]*/'"$tests"'[^"/]*)".*#\1#p')
if [ ${#programs[@]} -eq 0 ]; then
	echo "vm-tests.sh: no test program is named $tests..." >&2
	exit 1
fi

failed=()
# One test at a time: the emulated machine is slow, and deadlines are for real ones.
run() {
	"$here/vm.sh" "$1" -- "$2" --test-threads=1 || failed+=("$1${3:-}: $2")
}

for kernel in "${kernels[@]}"; do
	for program in "${programs[@]}"; do
		echo "vm-tests.sh: kernel $kernel: $program"
		case $program in
		*/virtcmdlatency_*) JITTERSCOPE_VM_DEVICES=-nic\ user,model=virtio-net-pci JITTERSCOPE_VM_STALLS=100 run "$kernel" "$program" ;;
		*) run "$kernel" "$program" ;;
		esac
		# The same probes can run where the kernel has no IPv6.
		if [[ $program == */kernel_states-* ]]; then
			JITTERSCOPE_VM_APPEND=ipv6.disable=1 run "$kernel" "$program" " without IPv6"
		fi
	done
done
if [ ${#failed[@]} -gt 0 ]; then
	printf 'vm-tests.sh: failed on kernel %s\n' "${failed[@]}" >&2
	exit 1
fi
echo "vm-tests.sh: passed on ${kernels[*]}"
