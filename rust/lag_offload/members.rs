// SPDX-License-Identifier: GPL-2.0

//! Of which bond a device is a slave, also while it is leaving and isn't linked any more.

use crate::net::{device::Identity, Device};
use kernel::{
    new_mutex,
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation},
    sync::{aref::ARef, Arc, Mutex},
};

/// All slaves of the bonds that have been taken over.
#[pin_data]
pub struct Members {
    /// The bonds, by slave. Nothing else is locked meanwhile.
    #[pin]
    bonds: Mutex<RBTree<Identity, Identity>>,
}

/// A slave; dropping it ends that it is known as one.
pub struct Member {
    slave: ARef<Device>,
    members: Arc<Members>,
}

impl Members {
    /// Makes one without slaves.
    pub fn new() -> Result<Arc<Self>> {
        let this = pin_init!(Self {
            bonds <- new_mutex!(RBTree::new(), "xfrm_next_members"),
        });
        Arc::pin_init(this, GFP_KERNEL)
    }

    /// Remembers a slave of a bond. May sleep. Fails with `EBUSY` if it is one already, or
    /// `ENOMEM`.
    pub fn add(self: &Arc<Self>, bond: &Device, slave: &Device) -> Result<Member> {
        let room = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let mut bonds = self.bonds.lock();
        if bonds.get(&slave.identity()).is_some() {
            return Err(EBUSY);
        }
        bonds.insert(room.into_node(slave.identity(), bond.identity()));
        Ok(Member {
            slave: slave.into(),
            members: self.clone(),
        })
    }

    /// Returns the bond of a device, if it is a slave. Sleeps.
    pub fn bond(&self, slave: &Device) -> Option<Identity> {
        self.bonds.lock().get(&slave.identity()).copied()
    }
}

impl Member {
    /// Returns the device. Any context.
    pub fn device(&self) -> &ARef<Device> {
        &self.slave
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let node = self
            .members
            .bonds
            .lock()
            .remove_node(&self.slave.identity());
        drop(node);
    }
}
