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
use kernel::{error::to_result, prelude::*, sync::aref::ARef, types::Opaque};

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
    pub fn hold(&self) -> Option<ARef<State>> {
        let x = self.as_ptr();
        // SAFETY: The SA is valid; the reference goes to what is returned.
        unsafe {
            raw::xfrm_next_state_hold_unless_zero(x)
                .then(|| ARef::from_raw(core::ptr::NonNull::new_unchecked(x.cast())))
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

    fn offload(&self) -> raw::xfrm_dev_offload {
        // SAFETY: The SA is valid, and a copy of any bytes of it can be made.
        unsafe { (&raw const (*self.as_ptr()).xso).read() }
    }
}

/// An SA that a device has accepted, and the driver's handle for it there.
///
/// It takes memory there until it is freed, which its owner sees to: dropping this
/// does nothing to the device. Its life is [`add`](Self::add), then
/// [`delete`](Self::delete), then [`free`](Self::free).
///
/// # Examples
///
/// ```ignore
/// /// Adds the SA to a second device, or takes it from the first as well.
/// fn add_to(second: &Device, first: &Installed, sa: &Sa, extack: &mut ExtAck<'_>) -> Result {
///     let installed = Installed::add(second, sa, extack).inspect_err(|_| {
///         first.delete(sa);
///         first.free(sa);
///     })?;
///     pr_info!("the second handle is {}\n", installed.handle());
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Installed {
    lower: ARef<Device>,
    handle: usize,
}

impl Installed {
    /// Whether the driver of the device is prepared for an SA which is also on
    /// other devices: `XFRMDEV_OPS_F_LOWER_HANDLE`. Any context.
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

    /// Lets the device accept an SA. May sleep. The caller sees to it that an SA
    /// isn't accepted by two devices at the same time, and that it isn't freed.
    ///
    /// Fails with what the driver says, `EOPNOTSUPP` if it isn't prepared.
    pub fn add(lower: &Device, sa: &Sa, extack: &mut ExtAck<'_>) -> Result<Self> {
        if !Self::is_possible(lower) {
            return Err(not_supported());
        }
        let add = ops(lower).and_then(|ops| ops.xdo_dev_state_add);
        let add = add.ok_or_else(not_supported)?;
        let x = sa.as_ptr();

        // SAFETY: Both are valid, and the driver's operations stay while the
        // device does. The driver leaves its handle in the SA, where the upper
        // device has nothing of its own.
        let handle = unsafe {
            let result = to_result(add(lower.as_ptr(), x, extack.as_ptr()));
            let place = &raw mut (*x).xso.offload_handle;
            let handle = place.read();
            place.write_volatile(0);
            result.map(|()| handle)
        }?;
        Ok(Self {
            lower: lower.into(),
            handle: handle as usize,
        })
    }

    /// Tells the device not to use the SA any more. Doesn't sleep; once only.
    /// The driver asks for its handle meanwhile.
    pub fn delete(&self, sa: &Sa) {
        if let Some(delete) = ops(&self.lower).and_then(|ops| ops.xdo_dev_state_delete) {
            // SAFETY: Both are valid, and the device has the SA.
            unsafe { delete(self.lower.as_ptr(), sa.as_ptr()) }
        }
    }

    /// Lets the device release what it kept for a deleted SA. May sleep; once
    /// only. The driver asks for its handle meanwhile.
    pub fn free(&self, sa: &Sa) {
        if let Some(free) = ops(&self.lower).and_then(|ops| ops.xdo_dev_state_free) {
            // SAFETY: Both are valid, and the device had the SA.
            unsafe { free(self.lower.as_ptr(), sa.as_ptr()) }
        }
    }

    /// Returns the device. Any context.
    pub fn lower(&self) -> &Device {
        &self.lower
    }

    /// Returns the driver's handle, what it left in `xso.offload_handle`. Any context.
    pub fn handle(&self) -> usize {
        self.handle
    }
}

/// Returns the operations of a device that is no bond: those of its driver, which
/// stay what they are.
fn ops(lower: &Device) -> Option<&raw::xfrmdev_ops> {
    // SAFETY: The device is valid, and what its driver has set stays as long.
    unsafe { (*lower.as_ptr()).xfrmdev_ops.as_ref() }
}
