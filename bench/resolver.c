// SPDX-License-Identifier: GPL-2.0
/*
 * Counts what it takes a driver to ask for the handle of an SA, compared with
 * reading it; and xfrm to tell of a number, if it is extended. Loaded in the
 * namespace of the SA, which is found by daddr and spi (both as in a header);
 * lower is the driver's device. For bench/resolve.py.
 */
#include <linux/irqflags.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <net/xfrm.h>

#define TIMES 1000

static unsigned int daddr, spi, lower;
module_param(daddr, uint, 0);
module_param(spi, uint, 0);
module_param(lower, uint, 0);

static unsigned int plain, resolved, told;
module_param(plain, uint, 0444);
module_param(resolved, uint, 0444);
module_param(told, uint, 0444);

static unsigned long sink;

/* ns, of which one is an instruction, for so many times. */
#define COST(handle)							\
({									\
	ktime_t from = ktime_get();					\
									\
	for (int i = 0; i < TIMES; i++)					\
		WRITE_ONCE(sink, handle);				\
	ktime_to_ns(ktime_sub(ktime_get(), from));			\
})

static int __init resolver_init(void)
{
	struct net *net = current->nsproxy->net_ns;
	xfrm_address_t to = { .a4 = (__force __be32)daddr };
	struct net_device *dev;
	struct xfrm_state *x;
	unsigned long flags;
	int ret = -ENOENT;

	x = xfrm_state_lookup(net, 0, &to, (__force __be32)spi, IPPROTO_ESP,
			      AF_INET);
	dev = dev_get_by_index(net, lower);
	if (x && dev) {
		local_irq_save(flags);
		plain = COST(READ_ONCE(x->xso.offload_handle));
		resolved = COST(xfrm_dev_state_lower_handle(x, dev));
		local_irq_restore(flags);
		ret = sink ? 0 : -ENODEV;
		if (x->props.flags & XFRM_STATE_ESN) {
			spin_lock_bh(&x->lock);
			told = COST((xfrm_dev_state_advance_esn(x), 1));
			spin_unlock_bh(&x->lock);
		}
	}
	dev_put(dev);
	if (x)
		xfrm_state_put(x);
	return ret;
}
module_init(resolver_init);

static void __exit resolver_exit(void)
{
}
module_exit(resolver_exit);

MODULE_DESCRIPTION("Counts what the handle of an SA costs");
MODULE_LICENSE("GPL");
