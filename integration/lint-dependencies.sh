#!/bin/bash
# cargo-deny with deny.toml. The database of vulnerabilities is a git repository of its own: where it cannot be fetched,
# that part is left out and said so.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${JITTERSCOPE_CACHE:-/var/cache/jitterscope}
. "$here/versions.env"
deny=$cache/cargo-deny-$CARGO_DENY_VERSION/bin/cargo-deny

cd "$here/.."
"$deny" check bans licenses sources
if "$deny" fetch db >/dev/null 2>&1; then
	"$deny" check advisories
else
	echo "lint-dependencies.sh: advisories not checked, their database cannot be fetched from here" >&2
fi
