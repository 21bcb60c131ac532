# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Completes the words of xfrm-next(8) in bash. tests/command.rs compares them
# with those of the command.

_xfrm_next() {
	local current=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD - 1]} words='' at=1
	local selector='src dst dev proto sport dport type code key'
	COMPREPLY=()
	if [[ $last == -b || $last == -batch ]]; then
		mapfile -t COMPREPLY < <(compgen -f -- "$current")
		compopt -o filenames 2>/dev/null # an error outside of completion
		return
	fi
	while [[ $at -lt $COMP_CWORD && ${COMP_WORDS[at]} == -* ]]; do
		at=$((at + 1))
	done
	if [[ $COMP_CWORD == "$at" ]]; then
		words='probe state spi lag moved show monitor help -json -pretty -batch -help -Version'
	elif [[ $COMP_CWORD == $((at + 1)) ]]; then
		case $last in
		state) words='migrate allocspi help' ;;
		spi | lag | moved) words='show help' ;;
		monitor) words='migrate help' ;;
		probe | show) words='help' ;;
		esac
	else
		# What comes after a keyword; an address of IPv6 is several words.
		case ${COMP_WORDS[*]:at:2}:$last in
		*:dir) words='in out' ;;
		*:encap) words='none espinudp' ;;
		*:mode) words='transport tunnel beet ro in_trigger iptfs' ;;
		*:offload) words='none crypto packet dev' ;;
		*:crypto | *:packet) words='dev' ;;
		*:sel) words=$selector ;;
		*:dev)
			# Not by -W, which would run what a name may hold.
			mapfile -t COMPREPLY < <(cd /sys/class/net && compgen -d -- "$current")
			return
			;;
		state\ allocspi:proto) words='esp ah comp' ;;
		*:proto)
			words='esp ah comp route2 hao'
			[[ " ${COMP_WORDS[*]} " != *' sel '* ]] ||
				words='tcp udp sctp dccp icmp ipv6-icmp mobility-header gre'
			;;
		*: | *:src | *:dst | *:spi | *:mark | *:mask | *:new-* | *:set-mark | *:espinudp) ;;
		*:mapping-maxage | *:mtimer-thresh | *:nat-keepalive | *:sport | *:dport | *:type | *:code | *:key) ;;
		*:reqid | *:seq | *:min | *:max | *:count | *:timeout) ;;
		state\ migrate:*)
			words='dst proto spi mark mask new-dst new-src new-reqid sel update-h2h-sel new-mark set-mark
				encap offload dir mapping-maxage mtimer-thresh nat-keepalive'
			[[ " ${COMP_WORDS[*]} " != *' sel '* ]] || words+=" $selector"
			;;
		state\ allocspi:*) words='src dst proto mode mark mask reqid seq min max dir' ;;
		lag\ show:*) words='dev' ;;
		monitor\ migrate:*) words='count timeout' ;;
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -F _xfrm_next xfrm-next
