#!/bin/bash
# Runs test programs, compiled here, on other kernels: all of kernels.txt, or those named as arguments. The programs are
# those whose name begins with the regular expression JITTERSCOPE_VM_TESTS: by default the tests of the packet-loss program
# (ebpf/tests/packetloss_*.rs), of IPVS, which a kernel without modules lacks, and of which probes can run. Other
# end-to-end tests have deadlines for a real machine, and this one is emulated.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."

kernels=("$@")
if [ ${#kernels[@]} -eq 0 ]; then
	mapfile -t kernels < <(awk '/^[0-9]/ { print $1 }' "$here/kernels.txt")
fi

tests=${JITTERSCOPE_VM_TESTS:-(packetloss_|ipvs-|kernel_states-)}

# The receiver, for tests that start it; then cargo's list of test programs.
cargo build --workspace
mapfile -t programs < <(cargo test --workspace --tests --no-run --message-format=json |
	sed -nE 's#.*"executable":"([^"]*/'"$tests"'[^"/]*)".*#\1#p')
if [ ${#programs[@]} -eq 0 ]; then
	echo "vm-tests.sh: no test program is named $tests..." >&2
	exit 1
fi

failed=()
for kernel in "${kernels[@]}"; do
	for program in "${programs[@]}"; do
		echo "vm-tests.sh: kernel $kernel: $program"
		# One test at a time: the emulated machine is slow, and deadlines are for real ones.
		"$here/vm.sh" "$kernel" -- "$program" --test-threads=1 || failed+=("$kernel: $program")
		# The same probes can run where the kernel has no IPv6.
		if [[ $program == */kernel_states-* ]]; then
			JITTERSCOPE_VM_APPEND=ipv6.disable=1 "$here/vm.sh" "$kernel" -- "$program" --test-threads=1 ||
				failed+=("$kernel without IPv6: $program")
		fi
	done
done
if [ ${#failed[@]} -gt 0 ]; then
	printf 'vm-tests.sh: failed on kernel %s\n' "${failed[@]}" >&2
	exit 1
fi
echo "vm-tests.sh: passed on ${kernels[*]}"
