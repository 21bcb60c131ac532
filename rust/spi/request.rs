// SPDX-License-Identifier: GPL-2.0

//! `XFRM_MSG_ALLOCSPI`, parsed and checked.

use crate::{
    net::{netlink::Attributes, ExtAck},
    xfrm::{
        spi::{
            entry,
            larval::{self, Wanted},
        },
        uapi::{attr, SpiInfo},
    },
};
use core::ops::RangeInclusive;
use kernel::prelude::*;
use zerocopy::FromBytes;

/// What somebody asks for.
pub struct Request {
    /// The SA that the SPI is for.
    pub wanted: Wanted,
    /// From which SPIs to choose, in host byte order.
    pub range: RangeInclusive<u32>,
    /// The SA's direction, if the sender knows it.
    pub dir: Option<u8>,
}

impl Request {
    /// Parses the fixed part and the attributes.
    ///
    /// Fails with `EINVAL` and says why. Mirrors `xfrm_alloc_userspi()`.
    pub fn parse(
        body: &[u8],
        attributes: &Attributes<'_>,
        extack: &mut ExtAck<'_>,
    ) -> Result<Self> {
        let (SpiInfo { info, min, max }, _) = SpiInfo::ref_from_prefix(body).map_err(|_| EINVAL)?;
        let range = *min..=*max;
        entry::verify(info.proto, &range, extack)?;

        let pcpu_num = get(attributes, attr::SA_PCPU);
        if pcpu_num.is_some_and(|number| !larval::is_cpu(number)) {
            extack.set(format_args!("pCPU number too big"));
            return Err(EINVAL);
        }
        Ok(Self {
            wanted: Wanted {
                id: info.id(),
                saddr: info.saddr,
                seq: info.seq,
                mode: info.mode,
                reqid: info.reqid,
                mark: get(attributes, attr::MARK).unwrap_or_default(),
                if_id: get(attributes, attr::IF_ID).unwrap_or(0),
                pcpu_num: pcpu_num.unwrap_or(u32::MAX),
            },
            range,
            dir: get(attributes, attr::SA_DIR),
        })
    }
}

/// Returns the value of an attribute, whose length has been checked.
fn get<T: FromBytes>(attributes: &Attributes<'_>, kind: u16) -> Option<T> {
    let (value, _) = T::read_from_prefix(attributes.payload(kind)?).ok()?;
    Some(value)
}
