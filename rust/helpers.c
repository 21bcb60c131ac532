// SPDX-License-Identifier: GPL-2.0
/* See include/helpers.h. */

#include "requires.h"

#include <crypto/algapi.h>
#include <crypto/internal/geniv.h>
#include <linux/ftrace.h>
#include <linux/hrtimer.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/netlink.h>
#include <linux/proc_fs.h>
#include <linux/rcupdate.h>
#include <linux/security.h>
#include <linux/seq_file_net.h>
#include <linux/timer.h>
#include <linux/workqueue.h>
#include <net/bonding.h>
#include <net/netdev_lock.h>
#include <net/netlink.h>
#include <net/netns/generic.h>
#include <net/sock.h>
#include <net/xfrm.h>

#if __has_include("xfrm_hash.h")
#define HASH_IS_OWN false
#include "xfrm_hash.h"
#else
/*
 * Packages for building modules leave out this header of the kernel's. What
 * loads the module sees whether the kernel finds its SAs by the same hashes.
 */
#define HASH_IS_OWN true
#include <linux/jhash.h>

static u32 hash6(const xfrm_address_t *a)
{
	return jhash2((const u32 *)a->a6, ARRAY_SIZE(a->a6), 0);
}

static u32 __xfrm_spi_hash(const xfrm_address_t *daddr, __be32 spi, u8 proto,
			   unsigned short family, unsigned int hmask)
{
	u32 h = family == AF_INET6 ? hash6(daddr) : ntohl(daddr->a4);

	h ^= (__force u32)spi ^ proto;
	return (h ^ h >> 10 ^ h >> 20) & hmask;
}

static u32 __xfrm_dst_hash(const xfrm_address_t *daddr,
			   const xfrm_address_t *saddr, u32 reqid,
			   unsigned short family, unsigned int hmask)
{
	u32 h;

	if (family == AF_INET6)
		h = hash6(daddr) ^ hash6(saddr);
	else
		h = ntohl((__force __be32)((__force u32)daddr->a4 +
					   (__force u32)saddr->a4));
	h ^= family ^ reqid;
	return (h ^ h >> 16) & hmask;
}

static u32 __xfrm_src_hash(const xfrm_address_t *daddr,
			   const xfrm_address_t *saddr, unsigned short family,
			   unsigned int hmask)
{
	return __xfrm_dst_hash(daddr, saddr, 0, family, hmask);
}

static u32 __xfrm_seq_hash(u32 seq, unsigned int hmask)
{
	return (seq ^ seq >> 10 ^ seq >> 20) & hmask;
}
#endif

#include "helpers.h"

MODULE_VERSION(XFRM_NEXT_VERSION);

unsigned long xfrm_next_ftrace_first_argument(struct ftrace_regs *fregs)
{
	return ftrace_regs_get_argument(fregs, 0);
}

/* Three calls would take longer than what they are for may. */
u32 xfrm_next_ftrace_daddr_xor_spi(struct ftrace_regs *fregs)
{
	const u32 *daddr = (const u32 *)ftrace_regs_get_argument(fregs, 2);

	if ((unsigned short)ftrace_regs_get_argument(fregs, 5) == AF_INET6)
		daddr += 3;
	return *daddr ^ (u32)ftrace_regs_get_argument(fregs, 3);
}

bool xfrm_next_is_ours(unsigned long address)
{
	return within_module(address, THIS_MODULE);
}

void xfrm_next_ftrace_set_ip(struct ftrace_regs *fregs, unsigned long ip)
{
	ftrace_regs_set_instruction_pointer(fregs, ip);
}

void xfrm_next_synchronize_rcu_tasks(void)
{
	synchronize_rcu_tasks();
}

void xfrm_next_synchronize_rcu(void)
{
	synchronize_rcu();
}

struct net *xfrm_next_skb_sock_net(const struct sk_buff *skb)
{
	return sock_net(skb->sk);
}

u32 xfrm_next_skb_portid(struct sk_buff *skb)
{
	return NETLINK_CB(skb).portid;
}

struct proc_dir_entry *xfrm_next_proc_net(const struct net *net)
{
	return net->proc_net;
}

void *xfrm_next_seq_data(const struct seq_file *seq)
{
	return pde_data(file_inode(seq->file));
}

bool xfrm_next_seq_is_admin(struct seq_file *seq)
{
	return file_ns_capable(seq->file, seq_file_net(seq)->user_ns,
			       CAP_NET_ADMIN);
}

void *xfrm_next_net_generic(const struct net *net, unsigned int id)
{
	return net_generic(net, id);
}

struct sk_buff *xfrm_next_nlmsg_new(size_t payload)
{
	return nlmsg_new(payload, GFP_KERNEL);
}

struct nlmsghdr *xfrm_next_nlmsg_put(struct sk_buff *skb, u32 portid, u32 seq,
				     int type, int payload)
{
	return nlmsg_put(skb, portid, seq, type, payload, 0);
}

void xfrm_next_nlmsg_end(struct sk_buff *skb, struct nlmsghdr *nlh)
{
	nlmsg_end(skb, nlh);
}

void xfrm_next_nlmsg_free(struct sk_buff *skb)
{
	nlmsg_free(skb);
}

int xfrm_next_nlmsg_multicast(struct sock *sk, struct sk_buff *skb, u32 portid,
			      unsigned int group)
{
	return nlmsg_multicast(sk, skb, portid, group, GFP_ATOMIC);
}

int xfrm_next_nlmsg_unicast(struct net *net, struct sk_buff *skb, u32 portid)
{
	/* The receiver's socket keeps the namespace, and so this one. */
	return nlmsg_unicast(rcu_dereference_protected(net->xfrm.nlsk, true),
			     skb, portid);
}

struct sock *xfrm_next_nlsk(struct net *net)
{
	return rcu_dereference(net->xfrm.nlsk);
}

void xfrm_next_dev_hold(struct net_device *dev)
{
	dev_hold(dev);
}

void xfrm_next_dev_put(struct net_device *dev)
{
	dev_put(dev);
}

struct net *xfrm_next_dev_net(const struct net_device *dev)
{
	return dev_net(dev);
}

unsigned int xfrm_next_net_inum(const struct net *net)
{
	return net->ns.inum;
}

u64 xfrm_next_esp_features(void)
{
	return NETIF_F_HW_ESP | NETIF_F_HW_ESP_TX_CSUM | NETIF_F_GSO_ESP;
}

u64 xfrm_next_hw_esp_feature(void)
{
	return NETIF_F_HW_ESP;
}

u64 xfrm_next_gso_esp_feature(void)
{
	return NETIF_F_GSO_ESP;
}

void xfrm_next_netdev_lock_ops(struct net_device *dev)
{
	netdev_lock_ops(dev);
}

void xfrm_next_netdev_unlock_ops(struct net_device *dev)
{
	netdev_unlock_ops(dev);
}

int xfrm_next_notifier_from_errno(int err)
{
	return notifier_from_errno(err);
}

void xfrm_next_bh_disable(void)
{
	local_bh_disable();
}

void xfrm_next_bh_enable(void)
{
	local_bh_enable();
}

#ifdef XFRM_NEXT_LAG
bool xfrm_next_is_bond(const struct net_device *dev)
{
	return netif_is_bond_master(dev);
}

int xfrm_next_bond_mode(const struct net_device *dev)
{
	const struct bonding *bond = netdev_priv(dev);

	return READ_ONCE(bond->params.mode);
}

unsigned int xfrm_next_lower_handle_flag(void)
{
	return XFRMDEV_OPS_F_LOWER_HANDLE;
}
#endif

struct xfrm_translator *xfrm_next_get_translator(void)
{
	return xfrm_get_translator();
}

void xfrm_next_put_translator(struct xfrm_translator *xtr)
{
	xfrm_put_translator(xtr);
}

void xfrm_next_state_hold(struct xfrm_state *x)
{
	xfrm_state_hold(x);
}

void xfrm_next_state_put(struct xfrm_state *x)
{
	xfrm_state_put(x);
}

bool xfrm_next_state_hold_unless_zero(struct xfrm_state *x)
{
	return refcount_inc_not_zero(&x->refcnt);
}

unsigned int xfrm_next_state_refcount(const struct xfrm_state *x)
{
	unsigned int references = refcount_read(&x->refcnt);

	/* Who has given one up did so after all else: pairs with its release. */
	smp_rmb();
	return references;
}

void xfrm_next_state_lock(struct xfrm_state *x)
{
	spin_lock_bh(&x->lock);
}

void xfrm_next_state_unlock(struct xfrm_state *x)
{
	spin_unlock_bh(&x->lock);
}

void xfrm_next_states_lock(struct net *net)
{
	spin_lock_bh(&net->xfrm.xfrm_state_lock);
}

void xfrm_next_states_unlock(struct net *net)
{
	spin_unlock_bh(&net->xfrm.xfrm_state_lock);
}

bool xfrm_next_hash_is_own(void)
{
	return HASH_IS_OWN;
}

/* The chain of a table that an SA belongs in, by its hash. */
static struct hlist_head *chain(struct net *net, struct hlist_head __rcu *table,
				unsigned int hash)
{
	return rcu_dereference_protected(table,
					 lockdep_is_held(&net->xfrm.xfrm_state_lock)) + hash;
}

u32 xfrm_next_spi_hash(const xfrm_address_t *daddr, __be32 spi, u8 proto,
		       unsigned short family)
{
	return __xfrm_spi_hash(daddr, spi, proto, family, ~0);
}

struct hlist_head *xfrm_next_states_byspi(struct net *net, u32 hash)
{
	return chain(net, net->xfrm.state_byspi, hash & net->xfrm.state_hmask);
}

struct hlist_head *xfrm_next_bydst(const struct xfrm_state *x)
{
	struct net *net = xs_net((struct xfrm_state *)x);

	return chain(net, net->xfrm.state_bydst,
		     __xfrm_dst_hash(&x->id.daddr, &x->props.saddr,
				     x->props.reqid, x->props.family,
				     net->xfrm.state_hmask));
}

struct hlist_head *xfrm_next_bysrc(const struct xfrm_state *x)
{
	struct net *net = xs_net((struct xfrm_state *)x);

	return chain(net, net->xfrm.state_bysrc,
		     __xfrm_src_hash(&x->id.daddr, &x->props.saddr,
				     x->props.family, net->xfrm.state_hmask));
}

struct hlist_head *xfrm_next_byspi(const struct xfrm_state *x)
{
	return xfrm_next_states_byspi(xs_net((struct xfrm_state *)x),
				      xfrm_next_spi_hash(&x->id.daddr, x->id.spi,
							 x->id.proto,
							 x->props.family));
}

struct hlist_head *xfrm_next_byseq(const struct xfrm_state *x)
{
	struct net *net = xs_net((struct xfrm_state *)x);

	return chain(net, net->xfrm.state_byseq,
		     __xfrm_seq_hash(x->km.seq, net->xfrm.state_hmask));
}

int xfrm_next_state_kern(const struct xfrm_state *x)
{
	return xfrm_state_kern(x);
}

struct net *xfrm_next_state_net(struct xfrm_state *x)
{
	return xs_net(x);
}

bool xfrm_next_addr_equal(const xfrm_address_t *a, const xfrm_address_t *b,
			  u16 family)
{
	return xfrm_addr_equal(a, b, family);
}

void xfrm_next_nat_keepalive_run(struct net *net)
{
	schedule_delayed_work(&net->xfrm.nat_keepalive_work, 0);
}

struct xfrm_algo *xfrm_next_algo_clone(struct xfrm_algo *orig)
{
	return xfrm_algo_clone(orig);
}

struct xfrm_encap_tmpl *xfrm_next_encap_clone(struct xfrm_encap_tmpl *orig)
{
	return kmemdup(orig, sizeof(*orig), GFP_KERNEL);
}

struct xfrm_algo_aead *xfrm_next_algo_aead_clone(struct xfrm_algo_aead *orig)
{
	return xfrm_algo_aead_clone(orig);
}

struct xfrm_algo_auth *xfrm_next_algo_auth_clone(struct xfrm_algo_auth *orig)
{
	return xfrm_algo_auth_clone(orig);
}

int xfrm_next_replay_clone(struct xfrm_state *x, const struct xfrm_state *orig)
{
	return xfrm_replay_clone(x, orig);
}

void xfrm_next_migrate_sync(struct xfrm_state *x,
			    const struct xfrm_state *orig)
{
	xfrm_migrate_sync(x, orig);
}

int xfrm_next_dev_state_add(struct net *net, struct xfrm_state *x,
			    const struct xfrm_user_offload *xuo,
			    struct netlink_ext_ack *extack)
{
	return xfrm_dev_state_add(net, x, xuo, extack);
}

void xfrm_next_dev_state_delete(struct xfrm_state *x)
{
	xfrm_dev_state_delete(x);
}

void xfrm_next_dev_state_advance_esn(struct xfrm_state *x)
{
	xfrm_dev_state_advance_esn(x);
}

void xfrm_next_dev_state_update_stats(struct xfrm_state *x)
{
	xfrm_dev_state_update_stats(x);
}

u8 *xfrm_next_geniv_salt(const struct xfrm_state *x, unsigned int *size)
{
	struct crypto_aead *aead = x->data;
	struct aead_geniv_ctx *ctx;
	const char *name;

	if (x->id.proto != IPPROTO_ESP ||
	    !(crypto_aead_alg(aead)->base.cra_flags & CRYPTO_ALG_INSTANCE))
		return NULL;
	name = crypto_tfm_alg_instance(&aead->base)->tmpl->name;
	/* As strcmp(), but the compiler makes some instructions of it. */
	if (memcmp(name, "seqiv", sizeof("seqiv")) &&
	    memcmp(name, "echainiv", sizeof("echainiv")))
		return NULL;
	ctx = crypto_aead_ctx(aead);
	*size = crypto_aead_ivsize(aead);
	return ctx->salt;
}

const char *xfrm_next_aead_driver(struct crypto_aead *aead)
{
	return crypto_tfm_alg_driver_name(crypto_aead_tfm(aead));
}

void xfrm_next_aead_free(struct crypto_aead *aead)
{
	crypto_free_aead(aead);
}

/* As xfrm_state_delete_tunnel() of net/xfrm/xfrm_state.c, which is static. */
void xfrm_next_tunnel_put(struct xfrm_state *t)
{
	if (!t)
		return;
	if (atomic_dec_return(&t->tunnel_users) == 1)
		xfrm_state_delete(t);
	xfrm_state_put(t);
}

void xfrm_next_type_get(struct xfrm_state *x)
{
	__module_get(x->type->owner);
}

unsigned long xfrm_next_jiffies(void)
{
	return jiffies;
}

unsigned int xfrm_next_jiffies_to_msecs(unsigned long j)
{
	return jiffies_to_msecs(j);
}

unsigned long xfrm_next_get_state_synchronize_rcu(void)
{
	return get_state_synchronize_rcu();
}

unsigned long xfrm_next_start_poll_synchronize_rcu(void)
{
	return start_poll_synchronize_rcu();
}

bool xfrm_next_poll_state_synchronize_rcu(unsigned long cookie)
{
	return poll_state_synchronize_rcu(cookie);
}

void xfrm_next_init_delayed_work(struct delayed_work *work, work_func_t func)
{
	INIT_DELAYED_WORK(work, func);
}

bool xfrm_next_queue_delayed_work(struct delayed_work *work,
				  unsigned long delay)
{
	return queue_delayed_work(system_dfl_wq, work, delay);
}

bool xfrm_next_mod_delayed_work(struct delayed_work *work, unsigned long delay)
{
	return mod_delayed_work(system_dfl_wq, work, delay);
}

void xfrm_next_cond_resched(void)
{
	cond_resched();
}

void xfrm_next_call_rcu(struct callback_head *head,
			void (*func)(struct callback_head *head))
{
	call_rcu_hurry(head, func);
}

void xfrm_next_state_lock_in_bh(struct xfrm_state *x)
{
	spin_lock(&x->lock);
}

void xfrm_next_state_lock_nested(struct xfrm_state *x)
{
	spin_lock_nested(&x->lock, SINGLE_DEPTH_NESTING);
}

void xfrm_next_state_unlock_nested(struct xfrm_state *x)
{
	spin_unlock(&x->lock);
}

void xfrm_next_hlist_del_init_rcu(struct hlist_node *node)
{
	hlist_del_init_rcu(node);
}

void xfrm_next_hlist_replace_rcu(struct hlist_node *old, struct hlist_node *new)
{
	hlist_replace_rcu(old, new);
}

void xfrm_next_list_add(struct list_head *entry, struct list_head *head)
{
	list_add(entry, head);
}

void xfrm_next_hlist_add_head_rcu(struct hlist_node *node,
				  struct hlist_head *head)
{
	hlist_add_head_rcu(node, head);
}

void xfrm_next_hlist_add_before_rcu(struct hlist_node *node,
				    struct hlist_node *next)
{
	hlist_add_before_rcu(node, next);
}

void xfrm_next_list_add_tail(struct list_head *entry, struct list_head *head)
{
	list_add_tail(entry, head);
}

void xfrm_next_list_move(struct list_head *entry, struct list_head *head)
{
	list_move(entry, head);
}

void xfrm_next_list_move_tail(struct list_head *entry, struct list_head *head)
{
	list_move_tail(entry, head);
}

void xfrm_next_list_del_init(struct list_head *entry)
{
	list_del_init(entry);
}

unsigned int xfrm_next_skb_len(const struct sk_buff *skb)
{
	return skb->len;
}

void xfrm_next_audit_state_replay(struct xfrm_state *x, struct sk_buff *skb,
				  __be32 seq)
{
	xfrm_audit_state_replay(x, skb, seq);
}

void xfrm_next_audit_state_replay_overflow(struct xfrm_state *x,
					   struct sk_buff *skb)
{
	xfrm_audit_state_replay_overflow(x, skb);
}

struct xfrm_skb_cb *xfrm_next_skb_cb(struct sk_buff *skb)
{
	return XFRM_SKB_CB(skb);
}

struct xfrm_offload *xfrm_next_skb_offload(struct sk_buff *skb)
{
	return xfrm_offload(skb);
}

struct sec_path *xfrm_next_skb_sec_path(const struct sk_buff *skb)
{
	return skb_sec_path(skb);
}

unsigned int xfrm_next_skb_gso_segs(const struct sk_buff *skb)
{
	const struct skb_shared_info *shinfo = skb_shinfo(skb);

	if (!skb_is_gso(skb))
		return 1;
	/* Nobody has counted a guest's: at most so many, then. */
	return shinfo->gso_segs ?: DIV_ROUND_UP(skb->len, shinfo->gso_size);
}

int xfrm_next_security_state_alloc(struct xfrm_state *x,
				   struct xfrm_user_sec_ctx *ctx)
{
	return security_xfrm_state_alloc(x, ctx);
}

int xfrm_next_security_state_delete(struct xfrm_state *x)
{
	return security_xfrm_state_delete(x);
}

void xfrm_next_audit_state_add(struct xfrm_state *x, int result)
{
	xfrm_audit_state_add(x, result, true);
}

void xfrm_next_audit_state_delete(struct xfrm_state *x, int result)
{
	xfrm_audit_state_delete(x, result, true);
}

unsigned int xfrm_next_num_possible_cpus(void)
{
	return num_possible_cpus();
}

bool xfrm_next_hrtimer_active(struct hrtimer *timer)
{
	return hrtimer_active(timer);
}

void xfrm_next_hrtimer_start(struct hrtimer *timer, s64 secs)
{
	hrtimer_start(timer, ktime_set(secs, 0), HRTIMER_MODE_REL_SOFT);
}

void xfrm_next_hrtimer_copy_start(struct hrtimer *timer,
				  const struct hrtimer *from)
{
	hrtimer_start(timer, hrtimer_get_expires(from), HRTIMER_MODE_ABS_SOFT);
}

void xfrm_next_timer_start(struct timer_list *timer, u32 delay)
{
	mod_timer(timer, jiffies + delay);
}

bool xfrm_next_timer_pending(const struct timer_list *timer)
{
	return timer_pending(timer);
}
