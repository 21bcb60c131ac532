# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by the scripts that run tests, after lib.sh: counts what passed and
# what did not.

tmp=$(mktemp -d "$cache/test.XXXXXX")
# shellcheck disable=SC2046 # each a word
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
passed=0 failed=0 skipped=0

count() { # PASSED FAILED SKIPPED
	passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

# A failure that no test reported.
fails() {
	echo "not ok - $*"
	count 0 1 0
}

# What could not be tested, for want of something: the end says so.
untested=()
lacks() { # WHAT... WHY
	untested+=("$*")
}

# What the selftests need beside Python, for each architecture of these flavours.
build_programs() { # FLAVOUR...
	local flavour on kernel
	local -A only=() # "stock" if no other kernel is there
	while read -r on kernel; do
		if [[ $kernel != stock ]]; then only[$on]=''; elif [[ ! -v only[$on] ]]; then only[$on]=stock; fi
	done < <(for flavour in "$@"; do (use_flavour "$flavour" && echo "$arch $kernel"); done)
	for on in "${!only[@]}"; do
		# shellcheck disable=SC2086 # a word or none
		(use_arch "$on" && exec "$repo/scripts/programs" ${only[$on]}) || fails "what the selftests run does not build for $on"
	done
}

# The selftests for a kernel that isn't made for them: fewer moves and seconds, but
# as many as the C handler needs to show its defects.
# What such a kernel lacks is skipped.
# shellcheck disable=SC2034 # for who sources this
stock_tests=(env MOVES=3000 STATES=300 NAMESPACES=10 XFRM_NEXT_FUZZ="1 100" SECONDS=0.3
	"$repo/selftests/run")

# Starts a command that prints KTAP in that kernel, for so many seconds at most.
declare -A vms
start_in_vm() { # FLAVOUR SECONDS COMMAND...
	# It is read from at once, perhaps sooner than the shell has begun.
	: >"$tmp/$1.ktap"
	(
		use_flavour "$1"
		exec "$repo/scripts/vm" --kernel "$kernel" --timeout "$2" -- "${@:3}" >"$tmp/$1.ktap" 2>"$tmp/$1.err"
	) &
	vms[$1]=$!
}

# Shows what comes from there until it ends, and counts it.
finish_in_vm() { # FLAVOUR
	local status=0 p f=1 s
	tail -s 0.2 -n +1 -f --pid="${vms[$1]}" "$tmp/$1.ktap" | "$repo/scripts/ktap" "$tmp/counts" || true
	wait "${vms[$1]}" || status=$?
	cat "$tmp/$1.err" >&2
	if [[ -s $tmp/counts ]]; then
		read -r p f s <"$tmp/counts"
		count "$p" "$f" "$s"
		rm "$tmp/counts"
	else
		fails "the results of the $1 kernel were not counted"
	fi
	# Failed tests make the run's status 1; anything else is news.
	[[ $status == 0 || ($status == 1 && $f != 0) ]] || fails "the $1 kernel: scripts/vm ended with status $status"
}

# Prints the last line, and before it what was not tested. Succeeds if nothing failed and something passed.
total() {
	local result="$passed passed, $failed failed"
	[[ ${#untested[@]} == 0 ]] || printf 'not tested: %s\n' "${untested[@]}"
	[[ $skipped == 0 ]] || result+=", $skipped skipped"
	echo "$result"
	[[ $failed == 0 && $passed != 0 ]]
}
