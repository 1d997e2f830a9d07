# Kernels for the virtual machines: fetched with an apt state of their own, so that the machine's packages stay as they are.
# shellcheck shell=bash

# need_kernel LINE: the newest image of that row of kernels.txt, unless the cache has one of the line.
need_kernel() {
	local line=$1 row started=$SECONDS
	row=$(awk -v line="$line" '$1 == line' "$here/kernels.txt")
	[ -n "$row" ] || fail "kernels.txt has no row $line"
	if [ -n "$(kernel_release "$line")" ]; then
		return
	fi
	if ! is_root; then
		missing+=("kernel $line, to be fetched into $cache/kernels")
		return
	fi
	say "kernel $line: fetching into $cache/kernels"
	# shellcheck disable=SC2086 # the columns of the row are the arguments
	build_in "$cache/kernels" fetch_kernel $row
	say "kernel $line: $(kernel_release "$line") in $((SECONDS - started)) s"
}

# kernel_release LINE: the newest `uname -r` in the cache that belongs to the line, or nothing.
kernel_release() {
	if [ -d "$cache/kernels" ]; then
		find "$cache/kernels" -mindepth 2 -maxdepth 2 -path "$cache/kernels/$1.*/vmlinuz" -printf '%h\n' | sed 's|.*/||' | sort -V | tail -n 1
	fi
}

# fetch_kernel WORK LINE ARCHIVE SUITE IMAGE MODULES: leaves CACHE/kernels/<uname -r>/{vmlinuz,root/vmlinuz,root/lib/modules/<uname -r>}.
fetch_kernel() {
	local work=$1 archive=$3 suite=$4 patterns=("${@:5}") pattern package release modules
	private_apt_state "$work" "$archive" "$suite"
	for pattern in "${patterns[@]}"; do
		if [ "$pattern" != - ]; then
			package=$(newest_package "$work" "$pattern")
			(cd "$work" && private_apt "$work" apt-get download "$package")
		fi
	done
	for package in "$work"/*.deb; do
		dpkg -x "$package" "$work/unpacked"
	done
	# Newer packages have their modules below /usr, and the image among them instead of in /boot.
	modules=$(find "$work/unpacked" -type d -path '*/lib/modules/*' -prune)
	release=${modules##*/}
	mkdir -p "$work/kernel/root/lib/modules"
	# The image lies above its modules, where virtme-ng finds them.
	mv "$(find "$work/unpacked" -type f -name 'vmlinuz*')" "$work/kernel/root/vmlinuz"
	ln -s root/vmlinuz "$work/kernel/vmlinuz"
	mv "$modules" "$work/kernel/root/lib/modules/"
	depmod --basedir "$work/kernel/root" "$release"
	mv "$work/kernel" "$cache/kernels/$release"
}

# private_apt_state WORK ARCHIVE SUITE: sources, lists and status of its own; the mirror is the one of the machine's configuration.
private_apt_state() {
	local work=$1 archive=$2 suite=$3 mirror
	mirror=$(mirror_of "$archive")
	if [ -z "$mirror" ]; then
		apt-get update
		mirror=$(mirror_of "$archive")
	fi
	if [ -z "$mirror" ]; then
		echo "no $archive archive in this machine's apt configuration"
		return 1
	fi
	mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/apt/sources.list"
	private_apt "$work" apt-get update
}

# private_apt WORK COMMAND [ARGUMENT…]
private_apt() {
	local state=$1/apt
	shift
	"$@" -o Dir::State="$state" -o Dir::State::status=/dev/null -o Dir::Cache="$state" -o Dir::Etc::sourcelist="$state/sources.list" \
		-o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root
}

# mirror_of debian|debian-security: address of that archive, from the machine's own sources.
mirror_of() {
	local label=Debian
	if [ "$1" = debian-security ]; then
		label=Debian-Security
	fi
	# shellcheck disable=SC2016 # apt's own variables
	apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' | awk -v label="$label" '$1 == label && !seen++ { print $2 }'
}

# newest_package WORK PATTERN: the highest version among the names that match the whole pattern.
newest_package() {
	private_apt "$1" apt-cache pkgnames linux- | grep -E -x "$2" | sort -V | tail -n 1
}
