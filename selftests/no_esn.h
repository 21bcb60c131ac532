/* SPDX-License-Identifier: GPL-2.0 */
/*
 * scripts/rfc-netdevsim compiles netdevsim with this: ports that are made while the
 * parameter no_esn is set have operations without advance_esn. Their operations are
 * what chosen_ops() makes of netdevsim's.
 */
#include <linux/moduleparam.h>
#include <linux/netdevice.h>

static bool no_esn;
module_param(no_esn, bool, 0600);

static const struct xfrmdev_ops *chosen_ops(const struct xfrmdev_ops *ops)
{
	static struct xfrmdev_ops without;

	without = *ops;
	without.xdo_dev_state_advance_esn = NULL;
	return no_esn ? &without : ops;
}
