// SPDX-License-Identifier: GPL-2.0

//! Checks at build time that [`uapi`] is what the kernel's headers say:
//! `include/uapi/linux/xfrm.h`.
//!
//! So what is one in `uapi` may be passed to the kernel, and the other way round;
//! the parts of an SA that are of both can be converted.

use crate::{raw, xfrm::uapi};
use core::mem::{align_of, offset_of, size_of, transmute};

macro_rules! same_layout {
    ($ours:ty, $theirs:ty, { $($field:ident $(as $c_name:ident)?),* $(,)? }) => {
        const _: () = {
            assert!(size_of::<$ours>() == size_of::<$theirs>());
            // Messages align no more; the kernel gets no pointer to what has more.
            assert!(match align_of::<$theirs>() {
                less @ ..4 => align_of::<$ours>() == less,
                _ => align_of::<$ours>() == 4,
            });
            $(same_layout!(@field $ours, $theirs, $field $(, $c_name)?);)*
        };
    };
    (@field $ours:ty, $theirs:ty, $field:ident) => {
        assert!(offset_of!($ours, $field) == offset_of!($theirs, $field));
    };
    (@field $ours:ty, $theirs:ty, $field:ident, $c_name:ident) => {
        assert!(offset_of!($ours, $field) == offset_of!($theirs, $c_name));
    };
}

same_layout!(uapi::Address, raw::xfrm_address_t, {});
same_layout!(uapi::Id, raw::xfrm_usersa_id, { daddr, spi, family, proto });
same_layout!(uapi::Mark, raw::xfrm_mark, { v, m });
same_layout!(uapi::Selector, raw::xfrm_selector, {
    daddr, saddr, dport, dport_mask, sport, sport_mask, family, prefixlen_d,
    prefixlen_s, proto, ifindex, user,
});
same_layout!(uapi::SaInfo, raw::xfrm_usersa_info, {
    sel, daddr as id, saddr, lft, curlft, stats, seq, reqid, family, mode,
    replay_window, flags,
});
same_layout!(uapi::SpiInfo, raw::xfrm_userspi_info, { info, min, max });
same_layout!(uapi::MigrateState, raw::xfrm_user_migrate_state, {
    id, new_daddr, new_saddr, old_mark, new_sel, new_reqid, flags, new_family,
    reserved,
});
same_layout!(uapi::Encap, raw::xfrm_encap_tmpl, {
    encap_type, sport as encap_sport, dport as encap_dport, oa as encap_oa,
});
same_layout!(uapi::Offload, raw::xfrm_user_offload, { ifindex, flags });

macro_rules! convertible {
    ($($from:ty => $to:ty;)*) => {$(
        impl From<$from> for $to {
            fn from(value: $from) -> Self {
                // SAFETY: The layouts are the same, as checked above, and any bytes are
                // one. What is converted has nothing between its fields.
                unsafe { transmute::<$from, $to>(value) }
            }
        }
    )*};
}

convertible! {
    uapi::Address => raw::xfrm_address_t;
    raw::xfrm_address_t => uapi::Address;
    uapi::Mark => raw::xfrm_mark;
    raw::xfrm_mark => uapi::Mark;
    uapi::Selector => raw::xfrm_selector;
}

macro_rules! same_value {
    ($($ours:expr => $theirs:ident),* $(,)?) => {
        const _: () = { $(assert!($ours as u32 == raw::$theirs as u32);)* };
    };
}

same_value!(
    uapi::MSG_NEWSA => XFRM_MSG_NEWSA,
    uapi::MSG_ALLOCSPI => XFRM_MSG_ALLOCSPI,
    uapi::MSG_MIGRATE_STATE => XFRM_MSG_MIGRATE_STATE,
    uapi::GROUP_MIGRATE => xfrm_nlgroups_XFRMNLGRP_MIGRATE,
    uapi::attr::ENCAP => xfrm_attr_type_t_XFRMA_ENCAP,
    uapi::attr::SEC_CTX => xfrm_attr_type_t_XFRMA_SEC_CTX,
    uapi::attr::REPLAY_VAL => xfrm_attr_type_t_XFRMA_REPLAY_VAL,
    uapi::attr::MARK => xfrm_attr_type_t_XFRMA_MARK,
    uapi::attr::OFFLOAD_DEV => xfrm_attr_type_t_XFRMA_OFFLOAD_DEV,
    uapi::attr::SET_MARK => xfrm_attr_type_t_XFRMA_SET_MARK,
    uapi::attr::SET_MARK_MASK => xfrm_attr_type_t_XFRMA_SET_MARK_MASK,
    uapi::attr::IF_ID => xfrm_attr_type_t_XFRMA_IF_ID,
    uapi::attr::SA_PCPU => xfrm_attr_type_t_XFRMA_SA_PCPU,
    uapi::attr::MTIMER_THRESH => xfrm_attr_type_t_XFRMA_MTIMER_THRESH,
    uapi::attr::SA_DIR => xfrm_attr_type_t_XFRMA_SA_DIR,
    uapi::attr::NAT_KEEPALIVE_INTERVAL => xfrm_attr_type_t_XFRMA_NAT_KEEPALIVE_INTERVAL,
    uapi::CLEAR_OFFLOAD => xfrm_migrate_state_flags_XFRM_MIGRATE_STATE_CLEAR_OFFLOAD,
    uapi::UPDATE_H2H_SEL => xfrm_migrate_state_flags_XFRM_MIGRATE_STATE_UPDATE_H2H_SEL,
    uapi::STATE_AF_UNSPEC => XFRM_STATE_AF_UNSPEC,
    uapi::SA_DIR_IN => xfrm_sa_dir_XFRM_SA_DIR_IN,
    uapi::SA_DIR_OUT => xfrm_sa_dir_XFRM_SA_DIR_OUT,
    uapi::OFFLOAD_INBOUND => XFRM_OFFLOAD_INBOUND,
    uapi::OFFLOAD_PACKET => XFRM_OFFLOAD_PACKET,
);
