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
# suite of the mirror.
apt_for() { # SUITE COMMAND...
	local dir=$apt/$1 mirror
	if [[ ! -e $dir/list ]]; then
		mirror=$(debian_mirror) || exit
		mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$dir/list"
	fi
	apt-"$2" -q -o Dir::Etc::SourceList="$dir/list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$dir/lists" \
		-o Dir::State::Status=/dev/null -o Dir::Cache="$dir/cache" -o Acquire::Languages=none \
		-o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
		-o APT::Sandbox::User="$(id -un)" "${@:3}"
}

# Once for each suite, until $apt is removed.
apt_update() { # SUITE
	[[ -e $apt/$1/updated ]] || apt_for "$1" get update >&2 || return
	touch "$apt/$1/updated"
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

# Runs a command in the root of scripts/stock DIR, with its tools only. It sees
# the cache and the checkout, and can write to the cache.
in_root() { # DIR COMMAND...
	local root=$1/root link binds=()
	for link in bin sbin lib lib64; do
		binds+=(--symlink "usr/$link" "/$link")
	done
	bwrap --ro-bind "$root/usr" /usr --ro-bind "$root/etc" /etc "${binds[@]}" \
		--dev /dev --proc /proc --tmpfs /tmp --bind "$cache" "$cache" --ro-bind "$repo" "$repo" \
		--unshare-pid --die-with-parent --clearenv --setenv PATH /usr/sbin:/usr/bin --setenv HOME /tmp -- "${@:2}"
}

# The C compiler that a kernel was built with, by its configuration.
compiler_of() { # .CONFIG
	sed -n 's/^CONFIG_CC_VERSION_TEXT="\([^ ]*\) .*/\1/p' "$1"
}
