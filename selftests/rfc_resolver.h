/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The rules of xfrm_dev_state_lower_handle() as an RFC proposed them, in the
 * place of those in patches/: scripts/rfc-netdevsim compiles netdevsim with this,
 * and selftests/lag_rfc.py shows what comes of it.
 *
 * As proposed, the operations are read to look for the resolver, and again to
 * call it. Compilers are free to read once or twice. Here it is twice, with
 * rfc_pause milliseconds in between, where an interrupt or a hypervisor may take
 * as long; and where it would have called NULL, rfc_null_calls counts that.
 */
#include <linux/delay.h>
#include <linux/moduleparam.h>
#include <net/xfrm.h>

static uint rfc_pause, rfc_null_calls;
module_param(rfc_pause, uint, 0600);
module_param(rfc_null_calls, uint, 0600);

static inline unsigned long rfc_lower_handle(struct xfrm_state *x,
					     struct net_device *lower)
{
	struct net_device *dev = READ_ONCE(x->xso.dev);
	const struct xfrmdev_ops *ops;

	if (!dev || !lower)
		return 0;
	ops = dev != lower ? READ_ONCE(dev->xfrmdev_ops) : NULL;
	if (ops && ops->xdo_dev_state_lower_handle) {
		mdelay(rfc_pause);
		ops = READ_ONCE(dev->xfrmdev_ops);
		if (ops && ops->xdo_dev_state_lower_handle)
			return ops->xdo_dev_state_lower_handle(dev, x, lower);
		rfc_null_calls++;
		return 0;
	}
	if (dev != lower && READ_ONCE(x->xso.real_dev) != lower)
		return 0;
	return READ_ONCE(x->xso.offload_handle);
}

#define xfrm_dev_state_lower_handle rfc_lower_handle
