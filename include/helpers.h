/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions for what the kernel offers only as macro or inline function, or
 * as one of these in some configurations. Each does nothing but call it; the
 * one that does more says why.
 */
#ifndef XFRM_NEXT_HELPERS_H
#define XFRM_NEXT_HELPERS_H

#include <linux/types.h>
#include <linux/workqueue.h>
#include <linux/xfrm.h>

struct crypto_aead;
struct ftrace_regs;
struct hlist_head;
struct hlist_node;
struct hrtimer;
struct list_head;
struct net;
struct net_device;
struct netlink_ext_ack;
struct nlmsghdr;
struct proc_dir_entry;
struct sec_path;
struct seq_file;
struct sk_buff;
struct sock;
struct timer_list;
struct xfrm_algo;
struct xfrm_algo_aead;
struct xfrm_algo_auth;
struct xfrm_offload;
struct xfrm_skb_cb;
struct xfrm_state;
struct xfrm_translator;
struct xfrm_user_offload;
struct xfrm_user_sec_ctx;

/* ftrace */
unsigned long xfrm_next_ftrace_first_argument(struct ftrace_regs *fregs);
u32 xfrm_next_ftrace_daddr_xor_spi(struct ftrace_regs *fregs);
bool xfrm_next_is_ours(unsigned long address);
void xfrm_next_ftrace_set_ip(struct ftrace_regs *fregs, unsigned long ip);
void xfrm_next_synchronize_rcu_tasks(void);

/* network namespaces and netlink */
struct net *xfrm_next_skb_sock_net(const struct sk_buff *skb);
u32 xfrm_next_skb_portid(struct sk_buff *skb);
struct proc_dir_entry *xfrm_next_proc_net(const struct net *net);
void *xfrm_next_seq_data(const struct seq_file *seq);
bool xfrm_next_seq_is_admin(struct seq_file *seq);
void *xfrm_next_net_generic(const struct net *net, unsigned int id);
struct sk_buff *xfrm_next_nlmsg_new(size_t payload);
struct nlmsghdr *xfrm_next_nlmsg_put(struct sk_buff *skb, u32 portid, u32 seq,
				     int type, int payload);
void xfrm_next_nlmsg_end(struct sk_buff *skb, struct nlmsghdr *nlh);
void xfrm_next_nlmsg_free(struct sk_buff *skb);
int xfrm_next_nlmsg_multicast(struct sock *sk, struct sk_buff *skb, u32 portid,
			      unsigned int group);
int xfrm_next_nlmsg_unicast(struct net *net, struct sk_buff *skb, u32 portid);
struct sock *xfrm_next_nlsk(struct net *net);

/* network devices */
void xfrm_next_synchronize_rcu(void);
void xfrm_next_dev_hold(struct net_device *dev);
void xfrm_next_dev_put(struct net_device *dev);
struct net *xfrm_next_dev_net(const struct net_device *dev);
unsigned int xfrm_next_net_inum(const struct net *net);
u64 xfrm_next_esp_features(void);
u64 xfrm_next_hw_esp_feature(void);
u64 xfrm_next_gso_esp_feature(void);
void xfrm_next_netdev_lock_ops(struct net_device *dev);
void xfrm_next_netdev_unlock_ops(struct net_device *dev);
int xfrm_next_notifier_from_errno(int err);
void xfrm_next_bh_disable(void);
void xfrm_next_bh_enable(void);
#ifdef XFRM_NEXT_LAG
bool xfrm_next_is_bond(const struct net_device *dev);
int xfrm_next_bond_mode(const struct net_device *dev);
unsigned int xfrm_next_lower_handle_flag(void);
#endif

/* messages of 32-bit processes */
struct xfrm_translator *xfrm_next_get_translator(void);
void xfrm_next_put_translator(struct xfrm_translator *xtr);

/* xfrm states */
void xfrm_next_state_hold(struct xfrm_state *x);
void xfrm_next_state_put(struct xfrm_state *x);
bool xfrm_next_state_hold_unless_zero(struct xfrm_state *x);
unsigned int xfrm_next_state_refcount(const struct xfrm_state *x);
void xfrm_next_state_lock(struct xfrm_state *x);
void xfrm_next_state_unlock(struct xfrm_state *x);
void xfrm_next_states_lock(struct net *net);
void xfrm_next_states_unlock(struct net *net);
bool xfrm_next_hash_is_own(void);
u32 xfrm_next_spi_hash(const xfrm_address_t *daddr, __be32 spi, u8 proto,
		       unsigned short family);
struct hlist_head *xfrm_next_states_byspi(struct net *net, u32 hash);
struct hlist_head *xfrm_next_bydst(const struct xfrm_state *x);
struct hlist_head *xfrm_next_bysrc(const struct xfrm_state *x);
struct hlist_head *xfrm_next_byspi(const struct xfrm_state *x);
struct hlist_head *xfrm_next_byseq(const struct xfrm_state *x);
u8 *xfrm_next_geniv_salt(const struct xfrm_state *x, unsigned int *size);
const char *xfrm_next_aead_driver(struct crypto_aead *aead);
void xfrm_next_aead_free(struct crypto_aead *aead);
void xfrm_next_type_get(struct xfrm_state *x);
void xfrm_next_tunnel_put(struct xfrm_state *t);
int xfrm_next_state_kern(const struct xfrm_state *x);
struct net *xfrm_next_state_net(struct xfrm_state *x);
bool xfrm_next_addr_equal(const xfrm_address_t *a, const xfrm_address_t *b,
			  u16 family);
void xfrm_next_nat_keepalive_run(struct net *net);
struct xfrm_algo *xfrm_next_algo_clone(struct xfrm_algo *orig);
struct xfrm_encap_tmpl *xfrm_next_encap_clone(struct xfrm_encap_tmpl *orig);
struct xfrm_algo_aead *xfrm_next_algo_aead_clone(struct xfrm_algo_aead *orig);
struct xfrm_algo_auth *xfrm_next_algo_auth_clone(struct xfrm_algo_auth *orig);
int xfrm_next_replay_clone(struct xfrm_state *x, const struct xfrm_state *orig);
void xfrm_next_migrate_sync(struct xfrm_state *x,
			    const struct xfrm_state *orig);
int xfrm_next_dev_state_add(struct net *net, struct xfrm_state *x,
			    const struct xfrm_user_offload *xuo,
			    struct netlink_ext_ack *extack);
void xfrm_next_dev_state_delete(struct xfrm_state *x);
void xfrm_next_dev_state_advance_esn(struct xfrm_state *x);
void xfrm_next_dev_state_update_stats(struct xfrm_state *x);

/* lists */
void xfrm_next_hlist_add_head_rcu(struct hlist_node *node,
				  struct hlist_head *head);
void xfrm_next_hlist_add_before_rcu(struct hlist_node *node,
				    struct hlist_node *next);
void xfrm_next_list_add_tail(struct list_head *entry, struct list_head *head);
void xfrm_next_list_move(struct list_head *entry, struct list_head *head);
void xfrm_next_list_move_tail(struct list_head *entry, struct list_head *head);

/* RCU, time and workers */
unsigned long xfrm_next_jiffies(void);
unsigned int xfrm_next_jiffies_to_msecs(unsigned long j);
unsigned long xfrm_next_get_state_synchronize_rcu(void);
unsigned long xfrm_next_start_poll_synchronize_rcu(void);
bool xfrm_next_poll_state_synchronize_rcu(unsigned long cookie);
void xfrm_next_init_delayed_work(struct delayed_work *work, work_func_t func);
bool xfrm_next_queue_delayed_work(struct delayed_work *work,
				  unsigned long delay);
bool xfrm_next_mod_delayed_work(struct delayed_work *work, unsigned long delay);
void xfrm_next_cond_resched(void);

/* replaced states */
void xfrm_next_call_rcu(struct callback_head *head,
			void (*func)(struct callback_head *head));
void xfrm_next_state_lock_in_bh(struct xfrm_state *x);
void xfrm_next_state_lock_nested(struct xfrm_state *x);
void xfrm_next_state_unlock_nested(struct xfrm_state *x);
void xfrm_next_hlist_del_init_rcu(struct hlist_node *node);
void xfrm_next_hlist_replace_rcu(struct hlist_node *old,
				 struct hlist_node *new);
void xfrm_next_list_add(struct list_head *entry, struct list_head *head);
void xfrm_next_list_del_init(struct list_head *entry);
void xfrm_next_audit_state_replay(struct xfrm_state *x, struct sk_buff *skb,
				  __be32 seq);
void xfrm_next_audit_state_replay_overflow(struct xfrm_state *x,
					   struct sk_buff *skb);

/* packets */
struct xfrm_skb_cb *xfrm_next_skb_cb(struct sk_buff *skb);
struct xfrm_offload *xfrm_next_skb_offload(struct sk_buff *skb);
struct sec_path *xfrm_next_skb_sec_path(const struct sk_buff *skb);
unsigned int xfrm_next_skb_len(const struct sk_buff *skb);
unsigned int xfrm_next_skb_gso_segs(const struct sk_buff *skb);

/* security and audit */
int xfrm_next_security_state_alloc(struct xfrm_state *x,
				   struct xfrm_user_sec_ctx *ctx);
int xfrm_next_security_state_delete(struct xfrm_state *x);
void xfrm_next_audit_state_add(struct xfrm_state *x, int result);
void xfrm_next_audit_state_delete(struct xfrm_state *x, int result);

/* processors */
unsigned int xfrm_next_num_possible_cpus(void);

/* timers */
bool xfrm_next_hrtimer_active(struct hrtimer *timer);
void xfrm_next_hrtimer_start(struct hrtimer *timer, s64 secs);
void xfrm_next_hrtimer_copy_start(struct hrtimer *timer,
				  const struct hrtimer *from);
void xfrm_next_timer_start(struct timer_list *timer, u32 delay);
bool xfrm_next_timer_pending(const struct timer_list *timer);

#endif
