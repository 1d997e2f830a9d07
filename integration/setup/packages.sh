# Debian packages: which ones each mode needs, and installing those that are missing.
# shellcheck shell=bash

# Compiler for the BPF programs, libclang for bindgen, a C compiler and linker for Rust, and tools that a user looks with.
run_packages=(make gcc libc6-dev clang-19 libclang-19-dev libbpf-dev iproute2)
# What the tests use to make traffic, faults, containers and independent counts; and another C library, for processes that have it.
test_packages=(musl-tools nftables iptables conntrack bpftool procps kmod e2fsprogs mount iputils-ping busybox-static containerd runc containernetworking-plugins docker.io)
# virtme-ng boots only with udev, and asks `file` for an image's version.
vm_packages=(qemu-system-x86 udev kmod file python3-venv nftables iptables iproute2 iputils-ping ipvsadm busybox-static)
lint_packages=(clang-format-19 shellcheck)

# need_packages PACKAGE…
need_packages() {
	local package wanted=()
	for package in "$@"; do
		if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
			wanted+=("$package")
		fi
	done
	if [ ${#wanted[@]} -eq 0 ]; then
		return
	fi
	if ! is_root; then
		missing+=("Debian packages: apt-get install --no-install-recommends ${wanted[*]}")
		return
	fi
	say "installing Debian packages: ${wanted[*]}"
	apt-get -qq update
	# Services of the packages (containerd, dockerd, udev) are not started: the tests start their own.
	with_services_held apt-get -qq install --yes --no-install-recommends "${wanted[@]}"
}

# Runs a command with Debian's policy-rc.d saying that no service may start, unless the machine has a policy of its own.
with_services_held() {
	local policy=/usr/sbin/policy-rc.d made=
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
		made=yes
	fi
	local result=0
	DEBIAN_FRONTEND=noninteractive "$@" || result=$?
	if [ -n "$made" ]; then
		rm -f $policy
	fi
	[ $result -eq 0 ] || fail "apt-get ended with $result"
}

need_rust() {
	local version
	if ! command -v cargo >/dev/null; then
		version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
		missing+=("Rust $version or newer (cargo in PATH): install it with rustup or from your distribution; setup.sh does not")
	fi
}
