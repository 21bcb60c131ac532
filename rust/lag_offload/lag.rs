// SPDX-License-Identifier: GPL-2.0

//! A bond's slaves, and the SAs on all of them.
//!
//! Every slave holds every SA that is ours. A slave that can't isn't let in.

use super::{
    members::{Member, Members},
    verdict::{self, Reason},
};
use crate::{
    net::{
        bonding::Bond,
        device::{Esp, Name},
        not_supported, Device, ExtAck,
    },
    xfrm::offload::{
        lower::{self, Sa},
        replica::{Replicated, MAX_LOWERS},
        upper::{Locked, Ops},
    },
};
use core::fmt;
use kernel::{
    prelude::*,
    sync::{aref::ARef, Arc},
};

/// What is known of one bond.
pub struct Lag {
    members: Arc<Members>,
    slaves: KVec<Slave>,
    /// What the bond did of ESP when we last looked.
    pub esp: Esp,
}

struct Slave {
    member: Member,
    /// It isn't linked any more, but may still send.
    leaving: bool,
    /// What it does of ESP because the bond has asked for it.
    borrowed: Esp,
}

impl Lag {
    /// Makes one without slaves, of which the members are to be told.
    pub fn new(members: &Arc<Members>) -> Self {
        Self {
            members: members.clone(),
            slaves: KVec::new(),
            esp: Esp::NONE,
        }
    }

    /// Notes a slave of the bond that is there.
    pub fn note(&mut self, bond: &Device, slave: &Device) -> Result {
        let slave = Slave {
            member: self.members.add(bond, slave)?,
            leaving: false,
            borrowed: Esp::NONE,
        };
        Ok(self.slaves.push(slave, GFP_KERNEL_ACCOUNT)?)
    }

    /// Notes what a slave does of ESP because the bond has asked for it.
    pub fn borrow(&mut self, slave: &Device, esp: Esp) {
        let mut slaves = self.slaves.iter_mut();
        if let Some(slave) = slaves.find(|other| other.member.device().is(slave)) {
            slave.borrowed = slave.borrowed | esp;
        }
    }

    /// Returns the slaves, also those that are leaving.
    pub fn slaves(&self) -> impl Iterator<Item = &Device> {
        self.slaves.iter().map(|slave| &**slave.member.device())
    }

    /// Says why new SAs of the bond are not ours, if so. Any context.
    pub fn reason(&self, device: &Device, bond: Bond<'_>) -> Option<Reason> {
        verdict::reason(device, bond).or(self.slaves.is_empty().then_some(Reason::NoSlaves))
    }

    /// Returns a slave whose driver doesn't follow extended sequence numbers.
    fn without_esn(&self) -> Option<&Device> {
        self.slaves().find(|slave| !lower::follows_esn(slave))
    }

    fn forget(&mut self, slave: &Device) {
        self.slaves.retain(|other| !other.member.device().is(slave));
    }
}

/// Puts an SA on a slave that does what the bond does of ESP.
///
/// Fails with what the driver says, or `EOPNOTSUPP` if the slave can't.
fn install(sa: &mut Replicated<'_>, slave: &Device, esp: Esp, extack: &mut ExtAck<'_>) -> Result {
    if !slave.esp().contains(esp) {
        return Err(not_supported());
    }
    sa.install(slave, extack)
}

impl Ops for Lag {
    fn takes(&self, upper: &Device, sa: &Sa, extack: &mut ExtAck<'_>) -> Result<bool> {
        let bond = Bond::of(upper).ok_or_else(not_supported)?;
        if !verdict::uses_all(bond) {
            return Ok(false);
        }
        if let Some(reason) = self.reason(upper, bond) {
            if sa.is_packet_offload() {
                extack.set(format_args!("The bond does not offload: {reason}"));
            }
            return Err(not_supported());
        }
        if sa.is_packet_offload() {
            let text = "Packet offload is not supported by bonds that use several slaves";
            extack.set(format_args!("{text}"));
            return Err(EINVAL);
        }
        if sa.has_esn() && !lower::DEVICE_IS_TOLD {
            let text = "This kernel has no ESN offload for bonds that use several slaves";
            extack.set(format_args!("{text}"));
            return Err(EINVAL);
        }
        if let (true, Some(slave)) = (sa.has_esn(), self.without_esn()) {
            let name = slave.name_of_now();
            extack.set(format_args!(
                "Slave {name}: its driver can't do ESN offload"
            ));
            return Err(EINVAL);
        }
        Ok(true)
    }

    fn install(
        &mut self,
        upper: &Device,
        sa: &mut Replicated<'_>,
        extack: &mut ExtAck<'_>,
    ) -> Result {
        let esp = upper.esp();
        self.slaves()
            .try_for_each(|slave| install(sa, slave, esp, extack))
    }

    fn end(&mut self) {
        self.slaves.clear();
    }

    fn may_offload(upper: &Device) -> bool {
        Bond::of(upper).is_some_and(|bond| verdict::reason(upper, bond).is_none())
    }
}

/// Why a slave can't have the SAs, in addition to what its driver says.
pub enum Misfit {
    /// Its driver isn't prepared for it.
    Driver,
    /// It doesn't do all of ESP that the bond does.
    Features,
    /// Its driver doesn't follow the sequence numbers of the SAs that the bond has.
    Esn(Name),
    /// There are too many slaves.
    TooMany,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Driver => f.write_str("its driver can't share SAs"),
            Self::Features => f.write_str("it can't do all of ESP that the bond does"),
            Self::Esn(name) => write!(f, "the driver of {name} can't do ESN"),
            Self::TooMany => write!(f, "there are more than {MAX_LOWERS} slaves"),
        }
    }
}

/// Whether a slave fits to a bond which has SAs, or does ESP.
pub fn check(lag: &mut Locked<'_, Lag>, slave: &Device, esp: Esp) -> Result<(), Misfit> {
    if lag.is_empty() && esp.is_none() {
        return Ok(());
    }
    if !lower::is_possible(slave) {
        return Err(Misfit::Driver);
    }
    if !slave.esp().contains(esp) {
        return Err(Misfit::Features);
    }
    if !lower::follows_esn(slave) && lag.sas().any(|sa| sa.sa().has_esn()) {
        return Err(Misfit::Esn(slave.name_of_now()));
    }
    if lag.data().slaves.len() >= MAX_LOWERS {
        return Err(Misfit::TooMany);
    }
    Ok(())
}

/// Puts all SAs on a slave that joins, or none.
///
/// Fails with what its driver says.
pub fn join(
    lag: &mut Locked<'_, Lag>,
    bond: &Device,
    slave: &Device,
    esp: Esp,
    extack: &mut ExtAck<'_>,
) -> Result {
    lag.data().note(bond, slave)?;
    let result = lag
        .sas()
        .try_for_each(|mut sa| install(&mut sa, slave, esp, extack));
    if result.is_err() {
        part(lag, slave);
    }
    result
}

/// Takes all SAs from a slave that doesn't send any more.
fn part(lag: &mut Locked<'_, Lag>, slave: &Device) {
    lag.sas().for_each(|mut sa| sa.remove(slave));
    lag.data().forget(slave);
}

/// Remembers that a slave is no longer linked.
pub fn leave(lag: &mut Locked<'_, Lag>, slave: &Device) {
    for other in &mut lag.data().slaves {
        other.leaving |= other.member.device().is(slave);
    }
}

/// Takes all SAs from a slave that isn't linked any more and doesn't send; with `only`, if it is
/// this one. Returns it, and what is to be taken back of ESP.
pub fn sweep(lag: &mut Locked<'_, Lag>, only: Option<&Device>) -> Option<(ARef<Device>, Esp)> {
    let wanted = |slave: &Device| only.is_none_or(|only| only.is(slave));
    let slaves = &lag.data().slaves;
    let gone = slaves
        .iter()
        .find(|s| s.leaving && wanted(s.member.device()))?;
    let (slave, borrowed) = (gone.member.device().clone(), gone.borrowed);
    part(lag, &slave);
    Some((slave, borrowed))
}
