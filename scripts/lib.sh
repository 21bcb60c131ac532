# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by the scripts beside it: where things are, how to say things, and
# the tools that scripts/setup chose.

repo=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
cache=${XDG_CACHE_HOME:-${HOME:?is not set: set it, or XDG_CACHE_HOME}/.cache}/xfrm-next

# Not in every user's PATH, yet modprobe, ip and ethtool live there.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# What a make above us exported is meant for itself, not for the kernel's.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

# Messages go to stderr: stdout is for the answer (a path, test results).
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
	say "error: $*"
	exit 1
}

# What depends on the architecture, by Debian's names of them: what uname, QEMU and
# the GNU tools call it, what the kernel's make does, and its image; QEMU's package.
declare -A machine=([amd64]=x86_64 [arm64]=aarch64)
declare -A source_arch=([amd64]=x86 [arm64]=arm64)
# shellcheck disable=SC2034 # for who sources this
declare -A image_name=([amd64]=bzImage [arm64]=Image)
# shellcheck disable=SC2034
declare -A qemu_package=([amd64]=qemu-system-x86 [arm64]=qemu-system-arm)

# Sets arch, that of the kernel and its VM, for us and what we start. In the cache
# of_arch tells its things apart.
use_arch() { # NAME
	case $1 in
	amd64 | x86 | x86_64) arch=amd64 of_arch='' ;;
	arm64 | aarch64) arch=arm64 of_arch=-arm64 ;;
	*) die "the architecture '$1' is neither amd64 nor arm64" ;;
	esac
	export ARCH=${source_arch[$arch]}
}
host=$(use_arch "$(uname -m)" && echo "$arch") # this machine's
# Debian's releases of kernels end in it.
use_release() { # RELEASE
	[[ ! $1 =~ -(amd64|arm64)(-|$) ]] || use_arch "${BASH_REMATCH[1]}"
}
# Where programs of the tests are compiled to, and where the CLI is: in the
# checkout for this machine.
programs_dir() { if [[ $arch == "$host" ]]; then echo "$repo/selftests"; else echo "$cache/built$of_arch-$(digest <<<"$repo")"; fi; }
cli_dir() { if [[ $arch == "$host" ]]; then echo "$repo/tools/target/release"; else echo "$(programs_dir)/target/${machine[$arch]}-unknown-linux-gnu/release"; fi; }
# A flavour may name the architecture, too: stock-arm64.
use_flavour() { # FLAVOUR: sets kernel, and arch
	kernel=$1
	[[ ! $1 =~ ^(.*)-(amd64|arm64)$ ]] || {
		kernel=${BASH_REMATCH[1]}
		use_arch "${BASH_REMATCH[2]}"
		[[ ${STOCK-} =~ -$arch(-|$) ]] || unset STOCK
	}
}
use_arch "${ARCH:-$host}"
use_release "${STOCK-}"

# Run once for all scripts of a chain: the environment is inherited.
use_tools() {
	[[ -z ${XFRM_NEXT_TOOLCHAIN-} ]] || return 0
	"$repo/scripts/setup"
	# shellcheck source=/dev/null
	source "$cache/env"
}

# Says at the start how long it will take on two cores without KVM: so many
# minutes, and what the kernels take that have never been built.
foretell() { # MINUTES FLAVOUR...
	local once=0 what kernel built
	local -A minutes=([tools]=2 [test]=12 [debug]=13 [stock]=3 [fixed]=3)
	for what in tools "${@:2}"; do
		read -r kernel built < <(
			use_flavour "$what"
			case $kernel in
			tools) echo "tools env" ;;
			stock) echo "stock stock/[0-9]*-$arch-*/.complete" ;;
			*) echo "$kernel kernel$of_arch/$kernel-*/.complete" ;;
			esac
		)
		compgen -G "$cache/$built" >/dev/null || once=$((once + minutes[$kernel]))
	done
	say "this takes about $(($1 + once)) minutes$([[ $once == 0 ]] || echo ", $once of them for what is built the first time only")"
}

# The short digest of stdin that names things in the cache.
digest() { sha256sum | cut -c1-16; }

# one_at_a_time NAME: waits until no other script holds NAME; ours until exit.
one_at_a_time() {
	mkdir -p "$cache"
	exec {lock_fd}>"$cache/$1.lock"
	flock --nonblock "$lock_fd" && return
	say "waiting for another process that works on the same thing ($cache/$1.lock)"
	flock "$lock_fd"
}

# Runs a step of a build with its output in $log, and says how it goes.
step() { # TEXT COMMAND...
	local text=$1 start=$SECONDS interval=30 waited=0 job status=0
	shift
	[[ ! -t 2 ]] || interval=2
	say "$text"
	# A group of its own, to be stopped as a whole if we are.
	set -m
	# shellcheck disable=SC2154 # the caller's
	"$@" >"$log" 2>&1 </dev/null &
	job=$!
	set +m
	trap 'kill -- -$job 2>/dev/null' EXIT
	trap 'exit 130' INT TERM HUP
	while kill -0 "$job" 2>/dev/null; do
		sleep 1
		waited=$((waited + 1))
		[[ $((waited % interval)) == 0 ]] || continue
		progress=$(printf '%s, %d objects in this run, %d:%02d min, now %s' "$text" \
			"$(grep -cE '^ +[A-Z]+ ' "$log")" $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60)) \
			"$(tail -1 "$log" | awk '{ print $NF }')") || true
		if [[ -t 2 ]]; then printf '\r%.*s\033[K' "${COLUMNS:-79}" "$progress" >&2; else say "$progress"; fi
	done
	[[ ! -t 2 ]] || printf '\r\033[K' >&2
	wait "$job" || status=$?
	trap - EXIT INT TERM HUP
	[[ $status != 0 ]] || return 0
	# The first error is the cause; make's own lines only follow from it.
	local line
	line=$({ grep -niE '(^|[^a-z_])error[:[ ]|undefined symbol|\*\*\*' "$log" || echo "$(wc -l <"$log"):"; } | head -1 | cut -d: -f1)
	sed -n "$((line > 5 ? line - 5 : 1)),$((line + 25))p" "$log" >&2
	die "$text failed; the lines around the first error are above, all of them in $log"
}

patches_in() { # DIR: without the cover letter
	printf '%s\n' "$1"/*.patch | grep -v /0000-
}

# Sets patches to those of all series for upstream, in their order.
upstream_patches() {
	local series
	patches=()
	while read -r series; do
		mapfile -t -O "${#patches[@]}" patches < <(patches_in "$repo/patches/upstream/$series")
	done < <(sed '/^#/d' "$repo/patches/upstream/series")
}
