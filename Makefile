# SPDX-License-Identifier: GPL-2.0
# The work is in scripts/; these are its names. Kbuild builds the module.

SHELL := /bin/bash
FLAVOUR ?= test

# make fuzz SEED=N: the same requests again. Else each run has its own.
SEED ?= $(shell date +%s)

.PHONY: help kdir setup kernel module stock install-stock uninstall cli dist deb vm demo demo-ike test test-arm64 test-deb soak fixed in-tree bench bench-quick fuzz fuzz-host miri lint check-patches series fmt clean clean-cache
.DEFAULT_GOAL := $(if $(KDIR),kdir,help)

kdir:
	@scripts/module --kdir "$(KDIR)"

help:
	@echo 'make demo          see it work, in a VM'
	@echo 'make demo-ike      a laptop changes networks, with strongSwan as Debian packages it'
	@echo 'make test          all tests'
	@echo 'make test-arm64    all that are run in the test kernel, in one for arm64'
	@echo 'make soak          the long versions of the tests; HOURS=12: for so long (default: 1)'
	@echo 'make fixed         the tests of upstream defects in a kernel that has the fixes of patches/upstream'
	@echo 'make in-tree       the tests of upstream defects as selftests in a kernel tree, run by its framework'
	@echo 'make bench         measure what the module costs: docs/benchmarks.md; make bench-quick: the essence'
	@echo 'make KDIR=DIR      build the module for the kernel built in DIR (>= 7.2, with Rust)'
	@echo 'make stock         build the module for a new cloud kernel of Debian; STOCK=newest, STOCK=RELEASE: for that one'
	@echo 'make install-stock install module and command for the kernel that runs, and by DKMS for those to come'
	@echo 'make uninstall     remove these'
	@echo
	@echo 'make setup         check the tools, install what is missing (the others do it too)'
	@echo 'make kernel        build the test kernel; FLAVOUR=debug: the one with KASAN, lockdep, ...'
	@echo 'make module        build the module for that kernel'
	@echo 'make cli           build the command xfrm-next'
	@echo 'make dist          build/xfrm-next-VERSION.tar.gz of what is committed'
	@echo 'make deb           packages for Debian 13 in build/: xfrm-next-dkms, xfrm-next; make test-deb: try them'
	@echo 'make vm            a shell in that kernel'
	@echo 'make fuzz          random requests to both handlers until an answer differs; SEED=N: these again'
	@echo 'make fuzz-host     fuzz the logic of the module on this host; SECONDS=60: for how long'
	@echo 'make miri          the tests on this host in Miri, if rustup has a nightly one'
	@echo 'make lint          rustfmt, clippy, checkpatch, shellcheck, and where unsafe may be'
	@echo 'make check-patches do the kernel patches apply, to 7.2 and 7.3, please checkpatch, compile one by one?'
	@echo 'make series        boot a kernel with the first of patches/, with the first two, ..., and test each'
	@echo 'make fmt           format the Rust code'
	@echo
	@echo 'ARCH=arm64 or amd64 with kernel, module, stock, vm, demo, bench: for that architecture'
	@echo
	@echo 'make clean         remove what was built here'
	@echo 'make clean-cache   remove the kernels and tools from the cache'

setup:
	@scripts/setup

kernel:
	@scripts/kernel $(FLAVOUR)

module:
	@scripts/module $(FLAVOUR)

stock:
	@STOCK="$(STOCK)" scripts/module stock
	@echo 'Before it, load xfrm_user: modprobe xfrm_user. Else insmod says "Unknown symbol in module".' >&2

install-stock:
	@scripts/install $(STOCK)

uninstall:
	@scripts/install --remove

cli:
	@scripts/cargo build --release --workspace

dist:
	@scripts/dist

deb:
	@scripts/deb

vm: cli
	@scripts/vm --kernel $(FLAVOUR)

demo:
	@scripts/demo

demo-ike:
	@scripts/demo-ike

test:
	@scripts/test

test-arm64:
	@scripts/test test-arm64

test-deb:
	@scripts/test-deb

soak:
	@scripts/soak $(HOURS)

fixed:
	@scripts/fixed

in-tree:
	@scripts/in-tree

bench:
	@scripts/bench

bench-quick:
	@scripts/bench --quick

fuzz: cli
	@scripts/vm --kernel $(FLAVOUR) --timeout 1000000 -- \
		env XFRM_NEXT_FUZZ="$(SEED) all" selftests/migrate_compare.py

fuzz-host:
	@scripts/fuzz-host $(SECONDS)

miri:
	@scripts/miri

lint:
	@scripts/lint

check-patches:
	@scripts/check-patches

series:
	@scripts/series

fmt:
	@scripts/lint --fix

clean:
	rm -rf build build-clippy tools/target selftests/{flood,ipsec,netdevsim_{rfc,no_esn}.ko} bench/resolver.ko

clean-cache:
	@source scripts/lib.sh && rm -rf "$$cache"
