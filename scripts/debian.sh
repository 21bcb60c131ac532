# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2154 # lib.sh sets them
# Sourced after lib.sh by the scripts that fetch from Debian: packages of any
# suite, from the mirror that the machine itself uses.

sources=$cache/source # unpacked kernel sources
apt=$sources/apt      # where apt keeps its lists and packages meanwhile

# Prints the address of the mirror.
debian_mirror() {
	local codename mirror
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
	# shellcheck disable=SC2016 # apt fills them in
	mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(RELEASE)' 'Created-By: Packages' |
		awk -v own="$codename" '$2 == own || $3 ~ /^(oldstable|stable|testing|unstable|sid)$/ || $3 == own { print $1; exit }')
	[[ $mirror ]] || die "apt's sources name no mirror of Debian ($codename), so nothing can be fetched:" \
		"correct /etc/apt/sources.list*; for a kernel of ours, KERNEL_SRC may name a source tree of Linux >= 7.2 instead"
	echo "$mirror"
}

# apt, kept apart from the machine's own lists, cache and packages, for one
# suite of the mirror, and for arch.
apt_for() { # SUITE COMMAND...
	local dir=$apt/$1$of_arch mirror
	if [[ ! -e $dir/list ]]; then
		mirror=$(debian_mirror) || exit
		mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$dir/list"
	fi
	apt-"$2" -q -o Dir::Etc::SourceList="$dir/list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$dir/lists" \
		-o Dir::State::Status=/dev/null -o Dir::Cache="$dir/cache" -o Acquire::Languages=none \
		-o Acquire::Check-Valid-Until=false -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
		-o APT::Architecture="$arch" -o APT::Architectures="$arch" -o APT::Sandbox::User="$(id -un)" "${@:3}"
}

# A mirror that stands still has lists that were to be renewed long ago. They are
# used, since who signed them did; that is checked as ever.
say_if_expired() { # SUITE FILE...
	local until
	until=$(sed -n 's/^Valid-Until: //p' "${@:2}" | head -1)
	[[ -z $until || $(date -d "$until" +%s) -gt $(date +%s) ]] ||
		say "warning: the mirror's list of $1 was valid until $until only; it is used all the same"
}

# Makes a root directory with packages of a suite, by mmdebstrap.
bootstrap() { # SUITE DIR OPTION...
	local mirror sudo=()
	[[ $(id -u) == 0 ]] || sudo=(sudo -n)
	mirror=$(debian_mirror) || exit
	"${sudo[@]}" rm -rf "$2"
	# shellcheck disable=SC2016 # mmdebstrap's
	"${sudo[@]}" mmdebstrap "${@:3}" --aptopt='Acquire::Check-Valid-Until "false"' \
		--extract-hook='grep -h ^Valid-Until: "$1"/var/lib/apt/lists/*Release || true' \
		"$1" "$2" "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main"
}

# Once for each suite, until $apt is removed.
apt_update() { # SUITE
	[[ ! -e $apt/$1$of_arch/updated ]] || return 0
	apt_for "$1" get update >&2 || return
	say_if_expired "$1" "$apt/$1$of_arch"/lists/*Release
	touch "$apt/$1$of_arch/updated"
}

# Fills a directory under a temporary name, so that half of it is never used.
# Files become read-only: trees share them, and builds go elsewhere.
make_tree() { # DIR COMMAND...
	local tree=$1
	shift
	[[ ! -d $tree ]] || return 0
	rm -rf "$tree.new"
	mkdir -p "$tree.new"
	"$@" "$tree.new"
	find "$tree.new" -type f -exec chmod a-w {} +
	mv "$tree.new" "$tree"
}

unpack() { # DEB DIR
	say "unpacking $(basename "$1")"
	dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' |
		tar -xJ --strip-components=1 -C "$2"
}

# Runs a command in a root of scripts/root, with its tools only, those for arch. It
# sees the cache and the checkout, and can write to the cache.
in_root() { # ROOT COMMAND...
	local root=$1 link binds=() cross=()
	[[ $arch == "$host" ]] || cross=(--setenv CROSS_COMPILE "${machine[$arch]}-linux-gnu-")
	for link in bin sbin lib lib64; do
		binds+=(--symlink "usr/$link" "/$link")
	done
	bwrap --ro-bind "$root/usr" /usr --ro-bind "$root/etc" /etc "${binds[@]}" \
		--dev /dev --proc /proc --tmpfs /tmp --bind "$cache" "$cache" --ro-bind "$repo" "$repo" \
		--unshare-pid --die-with-parent --clearenv --setenv PATH /usr/sbin:/usr/bin --setenv HOME /tmp \
		--setenv ARCH "$ARCH" "${cross[@]}" -- "${@:2}"
}

# Brings the crates that Cargo.lock names into the cache, for builds in a root, and
# prints their directory. The caller holds the lock "cargo".
vendored() {
	local vendor
	vendor=$cache/vendor-$(digest <"$repo/tools/Cargo.lock")
	if [[ ! -d $vendor ]]; then
		rm -rf "$vendor.new"
		cargo vendor --quiet --locked --versioned-dirs --manifest-path "$repo/tools/Cargo.toml" "$vendor.new" >/dev/null
		mv "$vendor.new" "$vendor"
	fi
	echo "$vendor"
}

# Sets virtiofsd: how to run the server of a VM's file system that is in a root of
# scripts/root, with the libraries there.
virtiofsd_of() { # ROOT
	# shellcheck disable=SC2034 # the caller's
	virtiofsd=("$1"/usr/lib*/ld-linux-"${machine[$host]/_/-}".so.* --library-path "$1/usr/lib/${machine[$host]}-linux-gnu"
		"$1/usr/libexec/virtiofsd")
}

# The C compiler that a kernel was built with, by its configuration.
compiler_of() { # .CONFIG
	sed -n 's/^CONFIG_CC_VERSION_TEXT="\([^ ]*\) .*/\1/p' "$1"
}
