// SPDX-License-Identifier: GPL-2.0

//! Being told what happens to network devices.
//!
//! C header: `include/linux/netdevice.h`

use super::{device::OpsLocked, Device, ExtAck, Rtnl};
use crate::raw;
use core::{mem::offset_of, pin::Pin};
use kernel::{
    error::to_result,
    ffi::{c_int, c_ulong, c_void},
    prelude::*,
    types::Opaque,
};

/// What has happened to a device: the `NETDEV_*` that we know something to do about.
pub enum Event<'a> {
    /// It is there. Also told of each device when one begins to watch.
    Appears,
    /// It is about to go. Also told of each device when one ends to watch, and
    /// again each second while somebody keeps a reference.
    Goes,
    /// It has been shut down, with the lock of its operations held. Also told of each device
    /// that is up when one ends to watch.
    Down(&'a OpsLocked),
    /// Something about it has changed.
    Changes,
    /// Its features have changed, or may have. If the device has a lock for its
    /// operations it may be held. Told before the kernel's own watchers hear of
    /// it, of which xfrm's ends the round if it doesn't like what it sees.
    Features,
    /// It is being linked below `.0`, which doesn't use it yet, and may object.
    Joins(&'a Device),
    /// It is no longer linked below `.0`, which may still use it for a moment.
    Leaves(&'a Device),
}

/// Watches network devices.
///
/// # Examples
///
/// ```ignore
/// struct Watcher(Arc<Bonds>);
///
/// impl Watch for Watcher {
///     fn event(
///         &self,
///         rtnl: &Rtnl,
///         device: &Device,
///         event: Event<'_>,
///         extack: &mut ExtAck<'_>,
///     ) -> Result {
///         match event {
///             Event::Appears if Bond::of(device).is_some() => self.0.take(rtnl, device)?,
///             Event::Goes => self.0.give_back(rtnl, device),
///             Event::Joins(bond) if self.0.find(bond).is_some() => {
///                 extack.set(format_args!("The slave can't take the bond's SAs"));
///                 return Err(EOPNOTSUPP);
///             }
///             _ => {}
///         }
///         Ok(())
///     }
/// }
///
/// /// Watches while this is there.
/// #[pin_data]
/// struct Service {
///     #[pin]
///     notifier: Registration<Watcher>,
/// }
///
/// impl Service {
///     fn new(bonds: Arc<Bonds>) -> impl PinInit<Self, Error> {
///         try_pin_init!(Self {
///             notifier <- Registration::new(Watcher(bonds)),
///         })
///     }
/// }
/// ```
pub trait Watch: Send + Sync + 'static {
    /// Called for each event, after the kernel's own watchers, but for
    /// [`Event::Features`]. May sleep; RTNL is held.
    ///
    /// An error prevents what is about to happen, if that is possible: that a device
    /// appears or joins.
    fn event(
        &self,
        rtnl: &Rtnl,
        device: &Device,
        event: Event<'_>,
        extack: &mut ExtAck<'_>,
    ) -> Result;
}

/// The registration of `W`, to be told about all devices in all namespaces. Dropping
/// it takes RTNL; afterwards `W` isn't called any more.
#[pin_data]
pub struct Registration<W: Watch> {
    // Dropped in this order.
    /// Is told after everybody else.
    #[pin]
    last: Block,
    /// Is told before.
    #[pin]
    first: Block,
    watch: W,
}

// SAFETY: The list that the blocks are in is protected by RTNL.
unsafe impl<W: Watch> Send for Registration<W> {}
// SAFETY: As above, and `W` is `Sync`.
unsafe impl<W: Watch> Sync for Registration<W> {}

impl<W: Watch> Registration<W> {
    /// Starts to watch. Takes RTNL.
    ///
    /// Fails with what [`Watch::event`] fails with for an [`Event::Appears`]. Mirrors
    /// `register_netdevice_notifier()`.
    pub fn new(watch: W) -> impl PinInit<Self, Error> {
        pin_init!(Self {
            watch,
            // No features change unseen of what has been told to have appeared.
            first <- Block::new(Self::first, c_int::MAX),
            last <- Block::new(Self::last, c_int::MIN),
        }? Error)
    }

    /// # Safety
    ///
    /// As for [`Self::call`], with `last` of a registration.
    unsafe extern "C" fn last(
        block: *mut raw::notifier_block,
        event: c_ulong,
        info: *mut c_void,
    ) -> c_int {
        let event = event as raw::netdev_cmd;
        if event == raw::netdev_cmd_NETDEV_FEAT_CHANGE {
            return 0;
        }
        // SAFETY: The caller promises it; a `Block` is where its block is.
        unsafe { Self::call(block.byte_sub(offset_of!(Self, last)).cast(), event, info) }
    }

    /// # Safety
    ///
    /// As for [`Self::call`], with `first` of a registration.
    unsafe extern "C" fn first(
        block: *mut raw::notifier_block,
        event: c_ulong,
        info: *mut c_void,
    ) -> c_int {
        let event = event as raw::netdev_cmd;
        if event != raw::netdev_cmd_NETDEV_FEAT_CHANGE {
            return 0;
        }
        // SAFETY: The caller promises it; a `Block` is where its block is.
        unsafe { Self::call(block.byte_sub(offset_of!(Self, first)).cast(), event, info) }
    }

    /// # Safety
    ///
    /// RTNL is held, the registration is there, or is being made after `watch`,
    /// and `info` is what belongs to the event.
    unsafe fn call(this: *const Self, event: raw::netdev_cmd, info: *mut c_void) -> c_int {
        // SAFETY: The caller promises it; the device is valid during the call.
        let (watch, rtnl, device, mut extack) = unsafe {
            let info = info.cast::<raw::netdev_notifier_info>();
            (
                &(*this).watch,
                Rtnl::assume(),
                Device::from_raw((*info).dev),
                ExtAck::from_raw((*info).extack),
            )
        };
        // SAFETY: It is held where this is used: NETDEV_DOWN comes under it
        // (`Documentation/networking/netdevices.rst`).
        let locked = unsafe { OpsLocked::assume(device) };
        let event = match event {
            raw::netdev_cmd_NETDEV_REGISTER => Event::Appears,
            raw::netdev_cmd_NETDEV_UNREGISTER => Event::Goes,
            raw::netdev_cmd_NETDEV_DOWN => Event::Down(&locked),
            raw::netdev_cmd_NETDEV_CHANGE | raw::netdev_cmd_NETDEV_CHANGEINFODATA => Event::Changes,
            raw::netdev_cmd_NETDEV_FEAT_CHANGE => Event::Features,
            raw::netdev_cmd_NETDEV_CHANGEUPPER => {
                let info: *const raw::netdev_notifier_changeupper_info = info.cast();
                // SAFETY: Both devices are valid during the call.
                unsafe {
                    let upper = Device::from_raw((*info).upper_dev);
                    if (*info).linking {
                        Event::Joins(upper)
                    } else {
                        Event::Leaves(upper)
                    }
                }
            }
            _ => return 0,
        };
        let result = watch.event(rtnl, device, event, &mut extack);
        let errno = result.map_or_else(|e| e.to_errno(), |()| 0);
        // SAFETY: It only computes.
        unsafe { raw::xfrm_next_notifier_from_errno(errno) }
    }
}

/// One registration.
///
/// # Invariants
///
/// The block is registered.
#[repr(transparent)]
#[pin_data(PinnedDrop)]
struct Block {
    #[pin]
    block: Opaque<raw::notifier_block>,
}

impl Block {
    /// Registers `call`, to be told of all events, by the address of the block.
    ///
    /// The block is part of a [`Registration`], where `call` looks for `watch`; that
    /// has been initialized before, and goes after the block.
    fn new(
        call: unsafe extern "C" fn(*mut raw::notifier_block, c_ulong, *mut c_void) -> c_int,
        priority: c_int,
    ) -> impl PinInit<Self, Error> {
        let register = Opaque::try_ffi_init(move |block: *mut raw::notifier_block| {
            // SAFETY: `block` is ours to write and won't move; `drop` unregisters
            // it before it goes.
            unsafe {
                block.write(raw::notifier_block {
                    notifier_call: Some(call),
                    priority,
                    ..pin_init::zeroed()
                });
                to_result(raw::register_netdevice_notifier(block))
            }
        });
        pin_init!(Self { block <- register }? Error)
    }
}

#[pinned_drop]
impl PinnedDrop for Block {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered. Afterwards nobody is in
        // `call`, nor will be.
        unsafe { raw::unregister_netdevice_notifier(self.block.get()) };
    }
}

#[kernel::macros::kunit_tests(xfrm_next_notifier)]
mod tests {
    use super::*;
    use crate::net::{bonding::Bond, Namespace};
    use kernel::{
        str::CString,
        sync::{
            atomic::{ordering, Atomic},
            Arc,
        },
    };

    /// What has been told of the loopback device of the first namespace, which is
    /// always there.
    struct Seen {
        appears: Atomic<i32>,
        goes: Atomic<i32>,
    }

    struct Watcher(Arc<Seen>);

    impl Watch for Watcher {
        fn event(
            &self,
            rtnl: &Rtnl,
            device: &Device,
            event: Event<'_>,
            _extack: &mut ExtAck<'_>,
        ) -> Result {
            if device.ifindex() != 1 || !core::ptr::eq(device.net(rtnl), Namespace::first()) {
                return Ok(());
            }
            match event {
                Event::Appears => {
                    let name = CString::try_from_fmt(fmt!("{}", device.name(rtnl)))?;
                    let alone = rtnl.master(device).is_none()
                        && rtnl.lowers(device).next().is_none()
                        && Bond::of(device).is_none();
                    let seen = i32::from(&*name == c"lo" && alone);
                    self.0.appears.fetch_add(seen, ordering::Relaxed);
                }
                Event::Goes => {
                    self.0.goes.fetch_add(1, ordering::Relaxed);
                }
                _ => {}
            }
            Ok(())
        }
    }

    #[test]
    fn devices_come_and_go_with_the_registration() -> Result {
        let seen = Arc::new(
            Seen {
                appears: Atomic::new(0),
                goes: Atomic::new(0),
            },
            GFP_KERNEL,
        )?;
        let told = || {
            (
                seen.appears.load(ordering::Relaxed),
                seen.goes.load(ordering::Relaxed),
            )
        };
        let watch = Registration::new(Watcher(seen.clone()));
        let registration = KBox::pin_init(watch, GFP_KERNEL)?;
        assert_eq!(told(), (1, 0));
        drop(registration);
        assert_eq!(told(), (1, 1));
        Ok(())
    }

    struct Objector;

    impl Watch for Objector {
        fn event(
            &self,
            _rtnl: &Rtnl,
            _device: &Device,
            event: Event<'_>,
            _extack: &mut ExtAck<'_>,
        ) -> Result {
            match event {
                Event::Appears => Err(EPERM),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn who_objects_is_not_registered() {
        let registration = KBox::pin_init(Registration::new(Objector), GFP_KERNEL);
        assert_eq!(registration.err(), Some(EPERM));
    }
}
