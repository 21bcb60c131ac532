# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by the scripts that run tests, after lib.sh: counts what passed and
# what did not.

tmp=$(mktemp -d "$cache/test.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0 skipped=0

count() { # PASSED FAILED SKIPPED
	passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

# A failure that no test reported.
fails() {
	echo "not ok - $*"
	count 0 1 0
}

# What the selftests need beside Python: flood, and the kernel's net/ipsec.
build_programs() {
	local kselftest
	kselftest=$("$repo/scripts/kernel" test --source)/tools/testing/selftests
	make -s -C "$repo/selftests" -f /dev/null CC="clang$LLVM" CFLAGS="-O2 -Wall -I$kselftest" VPATH="$kselftest/net" flood ipsec ||
		fails "selftests/flood and the kernel's net/ipsec do not build"
}

# Runs a command that prints KTAP in that kernel, for so many seconds at most;
# what it prints is left in $tmp/FLAVOUR.ktap.
ktap_in_vm() { # FLAVOUR SECONDS COMMAND...
	local status=0 p f=1 s
	"$repo/scripts/vm" --kernel "$1" --timeout "$2" -- "${@:3}" |
		tee "$tmp/$1.ktap" | "$repo/scripts/ktap" "$tmp/counts" || status=${PIPESTATUS[0]}
	if [[ -s $tmp/counts ]]; then
		read -r p f s <"$tmp/counts"
		count "$p" "$f" "$s"
		rm "$tmp/counts"
	else
		fails "the results of the $1 kernel were not counted"
	fi
	# Failed tests make the run's status 1; anything else is news.
	[[ $status == 0 || ($status == 1 && $f != 0) ]] || fails "${*:3} in the $1 kernel: scripts/vm ended with status $status"
}

# Prints the last line. Succeeds if nothing failed and something passed.
total() {
	local result="$passed passed, $failed failed"
	[[ $skipped == 0 ]] || result+=", $skipped skipped"
	echo "$result"
	[[ $failed == 0 && $passed != 0 ]]
}
