/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the module needs of the kernel that it is built for. Each sentence is
 * what the user of a kernel without it reads.
 */
#ifndef XFRM_NEXT_REQUIRES_H
#define XFRM_NEXT_REQUIRES_H

#include <linux/kconfig.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 2, 0)
#error "xfrm_next needs Linux 7.2 or newer: older kernels lack XFRM_MSG_MIGRATE_STATE"
#endif
#ifndef CONFIG_RUST
#error "xfrm_next needs a kernel built with CONFIG_RUST=y"
#endif
#ifndef CONFIG_DYNAMIC_FTRACE_WITH_ARGS
#error "xfrm_next needs CONFIG_FUNCTION_TRACER=y and CONFIG_DYNAMIC_FTRACE=y, with arguments"
#endif
#ifdef CONFIG_LTO
#error "xfrm_next needs a kernel without CONFIG_LTO_CLANG: what it inlines can't be redirected"
#endif
#ifndef CONFIG_XFRM_MIGRATE
#error "xfrm_next needs CONFIG_XFRM_MIGRATE=y"
#endif
#if !IS_ENABLED(CONFIG_XFRM_USER)
#error "xfrm_next needs CONFIG_XFRM_USER"
#endif
#if !defined(CONFIG_SYSCTL) || !defined(CONFIG_PROC_FS)
#error "xfrm_next needs CONFIG_SYSCTL=y and CONFIG_PROC_FS=y for its switches and counters"
#endif

#endif
