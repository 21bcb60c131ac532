// SPDX-License-Identifier: GPL-2.0
//! What the running kernel and module offer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use crate::error::{strerror, FAILURE, REFUSED, SUCCESS};
use crate::extack::Ack;
use crate::layout::{SaId, Selector, AF_INET};
use crate::migrate_state::MigrateState;
use crate::module::Module;

const EPERM: i32 = 1;
const ESRCH: i32 = 3;
const EINVAL: i32 = 22;
const ENOPROTOOPT: i32 = 92;
const EPROTONOSUPPORT: i32 = 93;

/// Everything asked. A later feature (SPI scope, LAG offload) is a field here, a line in the text,
/// and its question in `command/probe.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// XFRM_MSG_MIGRATE_STATE.
    pub migrate_state: Feature,
    /// The module in this network namespace.
    pub module: Module,
}

/// Whether a feature is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    available: Available,
    #[serde(skip_serializing_if = "Option::is_none")]
    served_by: Option<Server>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Available {
    Yes,
    No,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Server {
    Kernel,
    Module,
}

/// A request that every implementation of MIGRATE_STATE answers with ESRCH.
///
/// No SA has the broadcast address and a reserved SPI, so nothing can be hit by accident.
pub fn question() -> MigrateState {
    let local = IpAddr::from(Ipv4Addr::LOCALHOST).into();
    MigrateState {
        id: SaId {
            daddr: IpAddr::from(Ipv4Addr::BROADCAST).into(),
            spi: 1,
            family: AF_INET,
            proto: 50,
        },
        new_daddr: local,
        new_saddr: local,
        new_sel: Selector {
            family: AF_INET,
            ..Selector::default()
        },
        new_family: AF_INET,
        ..MigrateState::default()
    }
}

impl Feature {
    /// Reads the kernel's answer to [`question()`].
    pub fn migrate_state(answer: &Ack, module: &Module) -> Self {
        match answer.errno {
            ESRCH if module.migrate_state => Self::served(Server::Module),
            ESRCH => Self::served(Server::Kernel),
            ENOPROTOOPT => Self::without("kernel built without CONFIG_XFRM_MIGRATE"),
            // One that knows the message says what it finds invalid.
            EINVAL if answer.text.is_none() => Self::without("kernel older than Linux 7.2"),
            EPROTONOSUPPORT => Self::without("kernel without NETLINK_XFRM"),
            EPERM => Self::unknown("needs CAP_NET_ADMIN".into()),
            0 => Self::unknown("the kernel agreed to the impossible".into()),
            errno => Self::unknown(answer.text.clone().unwrap_or_else(|| strerror(errno))),
        }
    }

    fn served(server: Server) -> Self {
        Self {
            available: Available::Yes,
            served_by: Some(server),
            reason: None,
        }
    }

    fn without(reason: &str) -> Self {
        Self {
            available: Available::No,
            served_by: None,
            reason: Some(reason.into()),
        }
    }

    fn unknown(reason: String) -> Self {
        Self {
            available: Available::Unknown,
            served_by: None,
            reason: Some(reason),
        }
    }
}

impl Report {
    /// The exit status for scripts.
    pub fn status(&self) -> u8 {
        match self.migrate_state.available {
            Available::Yes => SUCCESS,
            Available::No => FAILURE,
            Available::Unknown => REFUSED,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Feature {
            available,
            served_by,
            reason,
        } = &self.migrate_state;
        let answer = match available {
            Available::Yes => "yes",
            Available::No => "no",
            Available::Unknown => "unknown",
        };
        write!(f, "migrate-state: {answer}")?;
        let title = self.module.title();
        match served_by {
            Some(Server::Module) => write!(f, " (module {title})"),
            Some(Server::Kernel) if self.module.loaded => {
                write!(f, " (kernel; module {title} does not serve this namespace)")
            }
            Some(Server::Kernel) => write!(f, " (kernel)"),
            None => write!(f, " ({})", reason.as_deref().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    fn report(errno: i32, loaded: bool, serves: bool) -> Report {
        let module = Module {
            loaded,
            version: loaded.then(|| "0.1.0".into()),
            migrate_state: serves,
        };
        let ack = Ack { errno, text: None };
        Report {
            migrate_state: Feature::migrate_state(&ack, &module),
            module,
        }
    }

    #[test]
    fn texts_and_statuses() {
        for (errno, loaded, serves, text, status) in [
            (3, true, true, "yes (module xfrm_next 0.1.0)", 0),
            (3, false, false, "yes (kernel)", 0),
            (
                3,
                true,
                false,
                "yes (kernel; module xfrm_next 0.1.0 does not serve this namespace)",
                0,
            ),
            (
                92,
                false,
                false,
                "no (kernel built without CONFIG_XFRM_MIGRATE)",
                1,
            ),
            (22, false, false, "no (kernel older than Linux 7.2)", 1),
            (93, false, false, "no (kernel without NETLINK_XFRM)", 1),
            (1, true, true, "unknown (needs CAP_NET_ADMIN)", 2),
            (12, true, true, "unknown (Cannot allocate memory)", 2),
        ] {
            let report = report(errno, loaded, serves);
            assert_eq!(report.to_string(), format!("migrate-state: {text}"));
            assert_eq!(report.status(), status);
        }
    }

    #[test]
    fn invalid_with_a_text() {
        let text = Some("Invalid SPI 0x0".into());
        let ack = Ack {
            errno: EINVAL,
            text,
        };
        let feature = Feature::migrate_state(&ack, &Module::default());
        assert_eq!(feature.available, Available::Unknown);
        assert_eq!(feature.reason.as_deref(), Some("Invalid SPI 0x0"));
    }

    #[test]
    fn shape() {
        assert_eq!(
            to_value(report(3, true, true)).unwrap(),
            json!({
                "migrate_state": {"available": "yes", "served_by": "module"},
                "module": {"loaded": true, "version": "0.1.0", "migrate_state": true},
            })
        );
        assert_eq!(
            to_value(report(92, false, false)).unwrap(),
            json!({
                "migrate_state": {
                    "available": "no",
                    "reason": "kernel built without CONFIG_XFRM_MIGRATE",
                },
                "module": {"loaded": false, "migrate_state": false},
            })
        );
    }
}
