/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen reads. rust/bindgen_parameters says what it keeps of it. */

#include "requires.h"

#include <crypto/aead.h>
#include <linux/audit.h>
#include <linux/btf.h>
#include <linux/fs.h>
#include <linux/ftrace.h>
#include <linux/if_bonding.h>
#include <linux/netdevice.h>
#include <linux/netlink.h>
#include <linux/proc_fs.h>
#include <linux/rtnetlink.h>
#include <linux/seq_file_net.h>
#include <linux/sysctl.h>
#include <net/net_namespace.h>
#include <net/netlink.h>
#include <net/xfrm.h>

#include "helpers.h"
