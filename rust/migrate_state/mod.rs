// SPDX-License-Identifier: GPL-2.0

//! XFRM_MSG_MIGRATE_STATE: moving one SA.
//!
//! A request is parsed once into a [`Request`], which together with what the
//! SA is becomes a [`Plan`]; only then is anything made or changed. A clone is
//! prepared by the plan, and takes the place of the old SA under its lock.
//! Until then, any failure leaves the old SA as it was.
//!
//! Mirrors `xfrm_do_migrate_state()` of `net/xfrm/xfrm_user.c`;
//! docs/differences.md says where it differs.

#![forbid(unsafe_code)]

mod notify;
mod plan;
mod refusal;
mod request;

use crate::{
    net::{
        self,
        namespace::{PerNamespace, Registration, Setup, Slot, SlotName},
        netlink, sysctl, Namespace,
    },
    redirect::{Redirect, Redirector},
    xfrm::{
        messages,
        migrate::entry::{MigrateState, MigrateStateTarget},
        migrate::{Found, NewState},
        replaced::Replaced,
        state::{config::Config, lookup},
        stats::Counter,
        uapi, State,
    },
};
use kernel::{prelude::*, sync::Arc};
use plan::Plan;
use refusal::{Errno, Refusal};
use request::Request;
use zerocopy::FromBytes;

/// Serving the message; dropping it gives the message back to the kernel.
#[pin_data]
pub struct Service {
    #[pin]
    redirect: Redirect<MigrateStateTarget<Handler>>,
}

impl Service {
    /// Starts to serve the message in all namespaces. May sleep.
    pub fn new(redirector: &Redirector, replaced: Arc<Replaced>) -> impl PinInit<Self, Error> + '_ {
        pin_init::pin_init_scope(move || {
            messages::check_size::<uapi::MigrateState>(uapi::MSG_MIGRATE_STATE)?;
            let handler = Handler {
                settings: Arc::pin_init(Registration::new(), GFP_KERNEL)?,
                replaced,
            };
            Ok(try_pin_init!(Self {
                redirect <- Redirect::new(MigrateStateTarget(handler), redirector),
            }))
        })
    }
}

/// What each namespace can set.
#[pin_data]
struct Settings<'net> {
    /// 1: requests are served here. 0: the kernel's own handler has them.
    #[pin]
    enabled: sysctl::Int<'net>,
}

static SETTINGS: Slot = Slot::new();

static ENABLED: sysctl::Definition = sysctl::Definition {
    directory: c"net/xfrm_next",
    name: c"migrate_state",
    default: 1,
    min: 0,
    max: 1,
};

impl PerNamespace for Settings<'static> {
    type Data<'net> = Settings<'net>;

    const SLOT: SlotName = SETTINGS.name();

    fn new<'net>(net: Setup<'net>) -> impl PinInit<Settings<'net>, Error> {
        try_pin_init!(Settings {
            enabled <- sysctl::Int::new(net, &ENABLED),
        })
    }
}

/// Serves the message where a namespace wants it.
pub struct Handler {
    settings: Arc<Registration<Settings<'static>>>,
    replaced: Arc<Replaced>,
}

impl MigrateState for Handler {
    fn serves(&self, net: &Namespace) -> bool {
        self.settings.with(net, |settings| settings.enabled.get()) != 0
    }

    fn serve(&self, mut message: netlink::Request<'_>, config: &Config<'_>) -> Result {
        let result = migrate(&self.replaced, &mut message, config);
        let result = result.map_err(|failure| match failure {
            Failure::Refused(refusal) => {
                message.extack.set(format_args!("{refusal}"));
                refusal.errno().into()
            }
            Failure::Kernel(error) => error,
        });
        // Who replaces it counts those that were migrated.
        result.inspect_err(|&e| {
            let counter = match e {
                e if e == EINVAL => Counter::Invalid,
                e if e == ESRCH => Counter::NotFound,
                e if e == EEXIST => Counter::Occupied,
                _ => Counter::Failed,
            };
            self.replaced.count(config.net(), counter);
        })
    }
}

impl request::Attributes for netlink::Attributes<'_> {
    fn get(&self, kind: u16) -> Option<&[u8]> {
        self.payload(kind)
    }
}

/// Why a migration didn't happen.
enum Failure {
    /// We refuse it.
    Refused(Refusal),
    /// Something that we called failed, and may have said why.
    Kernel(Error),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Kernel(error)
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::AfNoSupport => net::no_such_family(),
            Errno::Exist => EEXIST,
            Errno::Inval => EINVAL,
            Errno::Perm => EPERM,
            Errno::Srch => ESRCH,
        }
    }
}

/// Moves the SA, and announces what it is now.
fn migrate(
    replaced: &Replaced,
    message: &mut netlink::Request<'_>,
    config: &Config<'_>,
) -> Result<(), Failure> {
    let header = uapi::MigrateState::ref_from_prefix(message.body);
    let (header, _) = header.map_err(|_| EINVAL)?;
    // Both are large, and stay where they are made.
    let request = Request::parse(header, &message.attributes, cfg!(CONFIG_IPV6));
    let request = request.as_ref().map_err(|&refusal| refusal)?;
    let old = find(config, request)?;
    let plan = Plan::new(request, &old.snapshot());
    let plan = plan.as_ref().map_err(|&refusal| refusal)?;

    if plan.moves {
        let mark = plan.changes.mark;
        let id = uapi::Id {
            daddr: plan.changes.daddr,
            family: plan.changes.family,
            ..request.header.id
        };
        let other = |state: &State| !core::ptr::eq(state, &*old);
        if lookup::find(config.net(), &id, mark.v, other).is_some() {
            return Err(Refusal::Occupied.into());
        }
    }

    let extack = &mut message.extack;
    let new = NewState::new(&old, &plan.changes, plan.offload.as_ref(), extack)?;
    let new = new.replace_old(replaced).map_err(|e| {
        old.audit_deleted(false);
        match e {
            e if e == ESRCH => Failure::Refused(Refusal::Deleted),
            e => Failure::Kernel(e),
        }
    })?;
    old.audit_deleted(true);
    new.audit_added();

    let (header, changes) = (&request.header, &plan.changes);
    if notify::announce(
        config.net(),
        &new,
        header,
        changes,
        message.portid,
        message.seq,
    )
    .is_err()
    {
        let text = format_args!("Failed to send migration notification");
        message.extack.set(text);
    }
    Ok(())
}

/// Finds the SA, if the sender may delete it.
fn find<'a>(config: &'a Config<'a>, request: &Request) -> Result<Found<'a>, Failure> {
    let header = &request.header;
    let mark = header.old_mark.masked();
    let old = Found::with_mark(config, &header.id, mark).ok_or(Refusal::NotFound)?;

    if let Err(e) = old.may_delete() {
        old.audit_deleted(false);
        return Err(e.into());
    }
    Ok(old)
}
