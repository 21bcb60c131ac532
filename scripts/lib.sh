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

# Run once for all scripts of a chain: the environment is inherited.
use_tools() {
	[[ -z ${XFRM_NEXT_TOOLCHAIN-} ]] || return 0
	"$repo/scripts/setup"
	# shellcheck source=/dev/null
	source "$cache/env"
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
