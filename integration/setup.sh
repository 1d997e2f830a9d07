#!/bin/bash
# Installs and builds what jitterscope's build and tests need; takes a second when everything is there.
set -euo pipefail

usage() {
	cat >&2 <<'END'
usage: integration/setup.sh run | test | loki | vm [KERNEL...] | lint

run   what `make run` needs: compilers and headers from Debian
test  and what `make test` needs: network and container tools, the OpenTelemetry Collector, Prometheus, Jaeger,
      Helm, schemas of Kubernetes, the application of integration/apps
loki  and what `make loki` needs: Loki, which is built for some 20 minutes
vm    qemu, virtme-ng and the kernels of integration/kernels.txt (all, or those named, such as 6.1)
lint  what `make lint` needs: clang-format, shellcheck and cargo-deny

Programs and kernels go to $JITTERSCOPE_CACHE (/var/cache/jitterscope if that is not set), keyed by version.
Without root nothing is changed: what is missing is listed, and the exit code is 77 if there is something.
END
	exit 64
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${JITTERSCOPE_CACHE:-/var/cache/jitterscope}
manifest=$here/../otel-config/builder.yaml

. "$here/versions.env"
. "$here/setup/common.sh"
. "$here/setup/packages.sh"
. "$here/setup/tools.sh"
. "$here/setup/kernels.sh"

set_up_run() {
	need_rust
	need_packages "${run_packages[@]}"
}

set_up_test() {
	need_rust
	need_packages "${run_packages[@]}" "${test_packages[@]}"
	need_go
	report_missing_commands
	need_collector
	need_helm
	need_prometheus
	need_jaeger
	need_shop
	need_python kubernetes-validate "$KUBERNETES_VALIDATE_VERSION" kubernetes-validate
}

set_up_loki() {
	set_up_test
	need_loki
}

set_up_vm() {
	local kernels=("$@") line
	if [ ${#kernels[@]} -eq 0 ]; then
		mapfile -t kernels < <(awk '/^[0-9]/ { print $1 }' "$here/kernels.txt")
	fi
	need_packages "${vm_packages[@]}"
	need_python virtme-ng "$VIRTME_NG_VERSION" vng
	for line in "${kernels[@]}"; do
		need_kernel "$line"
	done
}

set_up_lint() {
	need_rust
	need_packages "${run_packages[@]}" "${lint_packages[@]}"
	report_missing_commands
	need_cargo_deny
}

# Compilers are the user's to choose: as root, too, their absence is only reported.
report_missing_commands() {
	if is_root && [ ${#missing[@]} -gt 0 ]; then
		report
	fi
}

report() {
	if [ ${#missing[@]} -gt 0 ]; then
		say "missing:" >&2
		printf '  %s\n' "${missing[@]}" >&2
		if ! is_root; then
			say "run integration/setup.sh as root, or install these" >&2
		fi
		exit 77
	fi
}

mode=${1:-}
shift || true
case $mode in
run | test | lint)
	take_turn
	"set_up_$mode"
	;;
vm)
	take_turn
	set_up_vm "$@"
	;;
*)
	usage
	;;
esac
report
say "$mode: everything is there"
