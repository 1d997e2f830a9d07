# Go programs, built from the modules that tools/<name>/go.mod and go.sum pin; and Python ones, each in an environment of its own.
# shellcheck shell=bash

# The Go environment: only the module proxies that are configured, never version control; the installed compiler.
go_environment() {
	local proxies
	proxies=$(go env GOPROXY | sed 's/[,|]direct//g; s/^direct[,|]*//')
	export GOPROXY=$proxies GOFLAGS=-buildvcs=false GOTOOLCHAIN=local CGO_ENABLED=0
}

# go_build HOME TOOL PACKAGE PROGRAM: the versions are those of tools/TOOL/go.mod, unchanged by the build.
go_build() {
	local home=$1 tool=$2 package=$3 program=$4
	go_environment
	go build -C "$here/tools/$tool" -mod=readonly -trimpath -ldflags '-s -w' -o "$home/$program" "$package"
}

need_go() {
	if ! command -v go >/dev/null; then
		missing+=("Go 1.26 or newer in PATH, for the OpenTelemetry Collector and Helm")
	fi
}

need_helm() {
	provide "Helm $HELM_VERSION" "helm-$HELM_VERSION/helm" go_build helm helm.sh/helm/v4/cmd/helm helm
}

need_prometheus() {
	provide "Prometheus $PROMETHEUS_VERSION" "prometheus-$PROMETHEUS_VERSION/prometheus" build_prometheus
}

# Without discovery of targets: it is sent to. Its storage wants cgo.
build_prometheus() {
	local home=$1
	go_environment
	CGO_ENABLED=1 go build -C "$here/tools/prometheus" -mod=readonly -trimpath -ldflags '-s -w' -tags remove_all_sd,netgo \
		-o "$home/prometheus" github.com/prometheus/prometheus/cmd/prometheus
}

need_jaeger() {
	provide "Jaeger $JAEGER_VERSION" "jaeger-$JAEGER_VERSION/jaeger" go_build jaeger github.com/jaegertracing/jaeger/cmd/jaeger jaeger
}

need_loki() {
	provide "Loki $LOKI_VERSION" "loki-$LOKI_VERSION/loki" go_build loki github.com/grafana/loki/v3/cmd/loki loki
}

# need_app HOME SOURCE BUILD [ARGUMENT...]: an application of apps/, which is its sources' own: changed ones are built anew.
need_app() {
	local home=$1 source=$2 build=$3
	shift 3
	if is_root && ! diff -qr "$here/apps/$source" "$cache/$home/source" >/dev/null 2>&1; then
		rm -rf "${cache:?}/$home"
	fi
	provide "the shop of the tests in $source" "$home/source" build_app "$source" "$build" "$@"
}

build_app() {
	local home=$1 source=$2 build=$3
	shift 3
	"$build" "$home" "$@"
	cp -r "$here/apps/$source" "$home/source"
}

need_shop() {
	local python=shop-python-$SHOP_PYTHON_VERSION
	need_app "shop-$SHOP_VERSION" go build_shop
	need_app "$python" python build_python "$cache/$python" --no-deps -r "$here/apps/python/requirements.txt"
}

build_shop() {
	local home=$1
	go_environment
	go build -C "$here/apps/go" -mod=readonly -trimpath -ldflags '-s -w' -o "$home/shop" .
}

# The Collector is the manifest's own: a changed manifest is built anew.
need_collector() {
	local home=collector-$COLLECTOR_VERSION
	if is_root && ! cmp -s "$manifest" "$cache/$home/builder.yaml"; then
		rm -rf "${cache:?}/$home"
	fi
	provide "OpenTelemetry Collector $COLLECTOR_VERSION" "$home/otelcol" build_collector
}

# The builder writes the program's source; it would run `go mod tidy`, which wants modules that only tests use, so its go
# command does nothing for that. go.sum says what the modules must be.
build_collector() {
	local home=$1
	go_build "$home" builder go.opentelemetry.io/collector/cmd/builder builder
	cat >"$home/go-without-tidy" <<-'END'
		#!/bin/sh
		case "$1 $2" in
		'mod tidy' | 'mod download') exit 0 ;;
		esac
		exec go "$@"
	END
	chmod 755 "$home/go-without-tidy"
	sed "s|^dist:|&\n  go: $home/go-without-tidy\n  output_path: $home/source|" "$manifest" >"$home/manifest.yaml"
	mkdir "$home/tmp" # the builder leaves a directory there
	TMPDIR=$home/tmp "$home/builder" --config "$home/manifest.yaml" --skip-compilation --skip-strict-versioning
	cp "$here/tools/collector/go.sum" "$home/source/"
	go build -C "$home/source" -mod=mod -trimpath -ldflags '-s -w' -o "$home/otelcol" .
	"$home/otelcol" --version
	rm -rf "$home/source" "$home/builder" "$home/go-without-tidy" "$home/manifest.yaml" "$home/tmp"
	cp "$manifest" "$home/builder.yaml"
}

# need_python NAME VERSION PROGRAM: the package as a virtual environment of its own.
need_python() {
	local home=$1-$2
	provide "$1 $2" "$home/bin/$3" build_python "$cache/$home" "$1==$2"
}

# build_python HOME FINAL PACKAGE...: scripts name their interpreter by its path, so they are rewritten to where HOME will be.
build_python() {
	local home=$1 final=$2
	shift 2
	/usr/bin/python3 -m venv "$home"
	"$home/bin/pip" install --quiet "$@"
	grep -rlIZ "$home" "$home/bin" "$home/pyvenv.cfg" | xargs -0 sed -i "s|$home|$final|g"
}

# cargo-deny is used by `make lint` only and not optimized: it runs for a second and would build for minutes more.
need_cargo_deny() {
	provide "cargo-deny $CARGO_DENY_VERSION" "cargo-deny-$CARGO_DENY_VERSION/bin/cargo-deny" build_cargo_deny
}

build_cargo_deny() {
	CARGO_TARGET_DIR=$1/target cargo install --debug --locked --root "$1" --version "$CARGO_DENY_VERSION" cargo-deny
	rm -rf "$1/target"
}
