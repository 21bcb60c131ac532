// SPDX-License-Identifier: GPL-2.0

//! SAs on lower devices: what the drivers of NICs do for an upper device.
//!
//! C headers: `include/linux/netdevice.h` (`struct xfrmdev_ops`),
//! `include/net/xfrm.h`

use crate::{
    net::{bonding::Bond, not_supported, Device, ExtAck},
    raw,
    xfrm::{state, uapi::Id, State},
};
use core::{mem, ptr::NonNull};
use kernel::{error::to_result, prelude::*, sync::aref::ARef, types::Opaque};

/// Whether the driver of a device is prepared for an SA which is also on other devices:
/// `XFRMDEV_OPS_F_LOWER_HANDLE`. Any context.
pub fn is_possible(lower: &Device) -> bool {
    // SAFETY: It returns a constant.
    let prepared = unsafe { raw::xfrm_next_lower_handle_flag() };
    Bond::of(lower).is_none()
        && ops(lower).is_some_and(|ops| {
            ops.flags & prepared != 0
                && ops.xdo_dev_state_add.is_some()
                && ops.xdo_dev_state_delete.is_some()
        })
}

/// Whether drivers are told the device that is to follow extended sequence numbers, or to bring
/// statistics up to date. If not, they can't do so for an SA which is also on other devices.
pub const DEVICE_IS_TOLD: bool = cfg!(XFRM_NEXT_LAG_DEV);

/// Whether the driver of a device follows extended sequence numbers. Any context.
pub fn follows_esn(lower: &Device) -> bool {
    DEVICE_IS_TOLD && ops(lower).is_some_and(|ops| ops.xdo_dev_state_advance_esn.is_some())
}

/// Whether the driver of a device tells what it has counted of an SA, if it counts. Any context.
pub(super) fn counts(lower: &Device) -> bool {
    cfg!(XFRM_NEXT_LAG_STATS)
        && ops(lower).is_some_and(|ops| ops.xdo_dev_state_update_stats.is_some())
}

/// An operation of a device's driver that is about an SA.
#[cfg(XFRM_NEXT_LAG_DEV)]
pub(super) type Operation =
    unsafe extern "C" fn(dev: *mut raw::net_device, x: *mut raw::xfrm_state);
/// An operation of a device's driver that is about an SA: it finds the device there.
#[cfg(not(XFRM_NEXT_LAG_DEV))]
pub(super) type Operation = unsafe extern "C" fn(x: *mut raw::xfrm_state);

/// Calls an operation.
///
/// # Safety
///
/// It is one of the driver of the device, which has the SA, and is called as the header says.
pub(super) unsafe fn call(operation: Operation, device: &Device, sa: &Sa) {
    #[cfg(XFRM_NEXT_LAG_DEV)]
    // SAFETY: The caller promises it.
    unsafe {
        operation(device.as_ptr(), sa.as_ptr())
    }
    #[cfg(not(XFRM_NEXT_LAG_DEV))]
    // SAFETY: The caller promises it; it is the device of the SA.
    unsafe {
        let _ = device;
        operation(sa.as_ptr())
    }
}

/// An SA as a device's driver gets it. It may be on its way to being freed, so
/// references can't just be taken, as of a [`State`].
///
/// # Invariants
///
/// It is valid, and what it is offloaded as doesn't change, while it is borrowed.
#[repr(transparent)]
pub struct Sa(Opaque<raw::xfrm_state>);

// SAFETY: As for `State`.
unsafe impl Send for Sa {}
// SAFETY: As for `State`.
unsafe impl Sync for Sa {}

impl Sa {
    /// Borrows an SA.
    ///
    /// # Safety
    ///
    /// `ptr` must be valid during `'a`, and what it is offloaded as not change.
    pub(in crate::xfrm) unsafe fn from_raw<'a>(ptr: *mut raw::xfrm_state) -> &'a Self {
        // SAFETY: The caller promises that it is valid; the type is transparent.
        unsafe { &*ptr.cast() }
    }

    /// For functions of the kernel and of drivers.
    pub(in crate::xfrm) fn as_ptr(&self) -> *mut raw::xfrm_state {
        self.0.get()
    }

    /// Takes a reference, unless the last one has been given up. Any context.
    pub(super) fn hold(&self) -> Option<ARef<State>> {
        let x = self.as_ptr();
        // SAFETY: The SA is valid; the reference goes to what is returned.
        unsafe {
            raw::xfrm_next_state_hold_unless_zero(x)
                .then(|| ARef::from_raw(NonNull::new_unchecked(x.cast())))
        }
    }

    /// Returns what it is found by; it never changes. Any context, like the others
    /// here.
    pub fn id(&self) -> Id {
        // SAFETY: The SA is valid.
        unsafe { state::id(self.as_ptr()) }
    }

    /// Whether it has been deleted or has expired, as it has when it is freed.
    pub(in crate::xfrm) fn is_dead(&self) -> bool {
        // SAFETY: The SA is valid.
        let phase = unsafe { (&raw const (*self.as_ptr()).km.state).read_volatile() };
        u32::from(phase) == raw::XFRM_STATE_DEAD
    }

    /// Whether it is for received packets.
    pub fn is_inbound(&self) -> bool {
        self.offload().is_inbound()
    }

    /// Whether the device is to do all of IPsec, not the ciphers only.
    pub fn is_packet_offload(&self) -> bool {
        self.offload().is_packet()
    }

    /// Whether it has extended sequence numbers.
    pub fn has_esn(&self) -> bool {
        // SAFETY: The SA is valid; its flags don't change.
        let flags = unsafe { (*self.as_ptr()).props.flags };
        u32::from(flags) & raw::XFRM_STATE_ESN != 0
    }

    /// Returns the upper half of the last sequence number, 0 if they aren't extended.
    ///
    /// # Safety
    ///
    /// The SA has a reference.
    unsafe fn upper_half(&self) -> u32 {
        if !self.has_esn() {
            return 0;
        }
        // SAFETY: An SA with such numbers has them until nobody has a reference.
        unsafe {
            let esn = (&raw const (*self.as_ptr()).replay_esn).read();
            if self.is_inbound() {
                (&raw const (*esn).seq_hi).read_volatile()
            } else {
                (&raw const (*esn).oseq_hi).read_volatile()
            }
        }
    }

    fn offload(&self) -> raw::xfrm_dev_offload {
        // SAFETY: The SA is valid, and a copy of any bytes of it can be made.
        unsafe { (&raw const (*self.as_ptr()).xso).read() }
    }
}

/// An SA that a device has accepted. Its life is [`add`](Self::add), then
/// [`delete`](Self::delete), then [`free`](Self::free), which is its end.
///
/// # Invariants
///
/// The SA is valid. The device has it and, unless it is `deleted`, may use it.
pub(super) struct Installed {
    sa: NonNull<raw::xfrm_state>,
    lower: ARef<Device>,
    deleted: bool,
    /// The upper half of sequence numbers that the driver was told last.
    upper_half: u32,
}

// SAFETY: As for `Sa`; drivers may be called on any CPU.
unsafe impl Send for Installed {}

impl Installed {
    /// Lets the device accept an SA. May sleep. Returns also the driver's handle, what it
    /// left in `xso.offload_handle`.
    ///
    /// Fails with what the driver says, `EOPNOTSUPP` if it isn't prepared, also for extended
    /// sequence numbers if the SA has these.
    ///
    /// # Safety
    ///
    /// The SA has a reference. It must stay valid until what is returned has been freed. No
    /// other device may be asked to accept it at the same time; it has an upper device, which
    /// doesn't use `xso.offload_handle`.
    pub(super) unsafe fn add(
        lower: &Device,
        sa: &Sa,
        extack: &mut ExtAck<'_>,
    ) -> Result<(Self, usize)> {
        if !is_possible(lower) || (sa.has_esn() && !follows_esn(lower)) {
            return Err(not_supported());
        }
        let add = ops(lower).and_then(|ops| ops.xdo_dev_state_add);
        let add = add.ok_or_else(not_supported)?;
        let x = sa.as_ptr();

        // SAFETY: Both are valid, and the driver's operations stay while the
        // device does. The driver leaves its handle in the SA, where the upper
        // device has nothing of its own. It has read the upper half, or will be told.
        let (sa, handle, upper_half) = unsafe {
            let upper_half = sa.upper_half();
            let result = to_result(add(lower.as_ptr(), x, extack.as_ptr()));
            let place = &raw mut (*x).xso.offload_handle;
            let handle = place.read();
            place.write_volatile(0);
            result.map(|()| (NonNull::new_unchecked(x), handle, upper_half))
        }?;
        // INVARIANT: The driver has accepted it, and the SA stays as the caller promises.
        let this = Self {
            sa,
            lower: lower.into(),
            deleted: false,
            upper_half,
        };
        Ok((this, handle))
    }

    /// Tells the device that the sequence numbers have moved on, unless it is not to use the
    /// SA any more. Doesn't sleep. The driver asks for its handle meanwhile.
    ///
    /// # Safety
    ///
    /// The SA has a reference, and is locked.
    pub(super) unsafe fn advance_esn(&mut self) {
        let advance = ops(&self.lower).and_then(|ops| ops.xdo_dev_state_advance_esn);
        if let (Some(advance), true, false) = (advance, DEVICE_IS_TOLD, self.deleted) {
            // SAFETY: By the type invariant, and as the caller promises.
            unsafe {
                let sa = Sa::from_raw(self.sa.as_ptr());
                self.upper_half = sa.upper_half();
                call(advance, &self.lower, sa);
            }
        }
    }

    /// Lets the driver bring the SA's statistics up to date, unless it is not to use the SA any
    /// more. Doesn't sleep. The driver asks for its handle meanwhile, and tells what it has
    /// counted.
    ///
    /// # Safety
    ///
    /// The SA is locked, or `xfrm_state_lock` or `xfrm_cfg_mutex` held.
    pub(super) unsafe fn update_stats(&self) {
        let update = ops(&self.lower).and_then(|ops| ops.xdo_dev_state_update_stats);
        if let (Some(update), true, false) = (update, DEVICE_IS_TOLD, self.deleted) {
            // SAFETY: By the type invariant, and as the caller promises.
            unsafe { call(update, &self.lower, Sa::from_raw(self.sa.as_ptr())) }
        }
    }

    /// Returns the upper half of sequence numbers that the driver was told last. Any context.
    pub(super) fn upper_half(&self) -> u32 {
        self.upper_half
    }

    /// Tells the device not to use the SA any more, if it hasn't been told. Doesn't sleep.
    /// The driver asks for its handle meanwhile.
    pub(super) fn delete(&mut self) {
        let delete = ops(&self.lower).and_then(|ops| ops.xdo_dev_state_delete);
        if let (Some(delete), false) = (delete, mem::replace(&mut self.deleted, true)) {
            // SAFETY: By the type invariant.
            unsafe { delete(self.lower.as_ptr(), self.sa.as_ptr()) }
        }
    }

    /// Lets the device release what it kept for the SA, which is deleted before. May
    /// sleep. The driver asks for its handle meanwhile.
    pub(super) fn free(mut self) {
        self.delete();
        if let Some(free) = ops(&self.lower).and_then(|ops| ops.xdo_dev_state_free) {
            // SAFETY: By the type invariant; this is the end of it.
            unsafe { free(self.lower.as_ptr(), self.sa.as_ptr()) }
        }
    }
}

/// Returns the operations of a device that is no bond, and so can't be taken over: those of
/// its driver, which stay what they are.
fn ops(lower: &Device) -> Option<&raw::xfrmdev_ops> {
    // SAFETY: The device is valid, and what its driver has set stays as long.
    unsafe { (*lower.as_ptr()).xfrmdev_ops.as_ref() }
}
