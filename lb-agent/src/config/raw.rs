//! The file as it is written: names of keys, and where each value stands. No meaning.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::{TcMode, XdpMode};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) front: Vec<Spanned<String>>,
    pub(super) pin_path: Option<Spanned<String>>,
    pub(super) state_path: Option<Spanned<String>>,
    pub(super) hash_seed: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) xdp: Xdp,
    #[serde(default)]
    pub(super) tc: Tc,
    #[serde(default)]
    pub(super) cgroup: Cgroup,
    #[serde(default)]
    pub(super) names: Names,
    #[serde(default)]
    pub(super) api: Api,
    #[serde(default)]
    pub(super) docker: Docker,
    #[serde(default)]
    pub(super) metrics: Metrics,
    #[serde(default)]
    pub(super) tables: Tables,
    #[serde(default)]
    pub(super) times: Times,
    #[serde(default)]
    pub(super) label_vips: Vec<Spanned<String>>,
    pub(super) routing_pool: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) defaults: Policy,
    #[serde(default)]
    pub(super) balancer: Vec<Balancer>,
    #[serde(default)]
    pub(super) registrator: Vec<Registration>,
    #[serde(default)]
    pub(super) service: Vec<Service>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Xdp {
    #[serde(default)]
    pub(super) mode: XdpMode,
    #[serde(default)]
    pub(super) interfaces: BTreeMap<String, Spanned<XdpMode>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Tc {
    #[serde(default)]
    pub(super) mode: TcMode,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Cgroup {
    pub(super) enabled: Option<bool>,
    pub(super) path: Option<Spanned<String>>,
    pub(super) routes_across: Option<bool>,
    pub(super) refuses_unseen: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Names {
    #[serde(default)]
    pub(super) listen: Vec<Spanned<String>>,
    pub(super) ttl_seconds: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) forward: Vec<Spanned<String>>,
    pub(super) compose: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Api {
    pub(super) socket: Option<Spanned<String>>,
    pub(super) group: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Docker {
    pub(super) enabled: Option<bool>,
    pub(super) endpoint: Option<Spanned<String>>,
    pub(super) resync_seconds: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) listen: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Tables {
    pub(super) ring_slots: Option<Spanned<i64>>,
    pub(super) records: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "keys of the file, which say their unit")]
pub(super) struct Times {
    pub(super) settle_seconds: Option<Spanned<i64>>,
    pub(super) record_seconds: Option<Spanned<i64>>,
    pub(super) half_open_seconds: Option<Spanned<i64>>,
    pub(super) closing_seconds: Option<Spanned<i64>>,
    pub(super) hold_seconds: Option<Spanned<i64>>,
    pub(super) grace_seconds: Option<Spanned<i64>>,
    pub(super) udp_seconds: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Balancer {
    pub(super) name: Spanned<String>,
    pub(super) id: Option<Spanned<String>>,
    pub(super) vip: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registration {
    pub(super) name: Spanned<String>,
    pub(super) frontend: Spanned<String>,
}

/// The keys of a policy stand among those of a service and in a table of their own; serde cannot
/// refuse unknown keys of a struct that it flattens.
macro_rules! with_policy {
    ($($key:ident: $type:ty,)*) => {
        #[derive(Deserialize, Default)]
        #[serde(deny_unknown_fields)]
        pub(super) struct Policy {
            $(pub(super) $key: Option<$type>,)*
        }

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct Service {
            pub(super) name: Spanned<String>,
            pub(super) frontends: Spanned<Vec<Spanned<String>>>,
            $($key: Option<$type>,)*
            share: Option<Spanned<String>>,
            scale: Option<Spanned<i64>>,
            rolling_updates: Option<Spanned<i64>>,
            depends: Option<Spanned<String>>,
            #[serde(default)]
            pub(super) backend: Vec<Backend>,
        }

        impl Service {
            /// The keys of its policy, which are gone from it afterwards.
            pub(super) fn take_policy(&mut self) -> Policy {
                Policy { $($key: self.$key.take(),)* }
            }

            /// What makes sense of a single service only, likewise.
            pub(super) fn take_expected(&mut self) -> Expected {
                Expected {
                    share: self.share.take(),
                    scale: self.scale.take(),
                    rolling_updates: self.rolling_updates.take(),
                    depends: self.depends.take(),
                }
            }
        }
    };
}

with_policy! {
    affinity: Spanned<String>,
    unreachable: Spanned<String>,
    drain_seconds: Spanned<i64>,
    unhealthy_grace_seconds: Spanned<i64>,
    panic_percent: Spanned<i64>,
    passive: bool,
    slow_start_seconds: Spanned<i64>,
    datagrams: Spanned<String>,
    visible: Spanned<String>,
    prefer: Spanned<String>,
    ring_size: Spanned<i64>,
    probe: Spanned<Probe>,
}

/// Keys of a service that `[defaults]` has not.
pub(super) struct Expected {
    pub(super) share: Option<Spanned<String>>,
    pub(super) scale: Option<Spanned<i64>>,
    pub(super) rolling_updates: Option<Spanned<i64>>,
    pub(super) depends: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with the key `kind`")]
pub(super) struct Probe {
    pub(super) kind: Option<Spanned<String>>,
    pub(super) port: Option<Spanned<i64>>,
    pub(super) path: Option<Spanned<String>>,
    pub(super) method: Option<Spanned<String>>,
    pub(super) host: Option<Spanned<String>>,
    pub(super) status: Option<Spanned<String>>,
    pub(super) body: Option<Spanned<String>>,
    pub(super) server_name: Option<Spanned<String>>,
    pub(super) verify: Option<bool>,
    pub(super) command: Option<Spanned<Command>>,
    pub(super) interval_ms: Option<Spanned<i64>>,
    pub(super) timeout_ms: Option<Spanned<i64>>,
    pub(super) initial_delay_ms: Option<Spanned<i64>>,
    pub(super) rise: Option<Spanned<i64>>,
    pub(super) fall: Option<Spanned<i64>>,
    pub(super) place: Option<Spanned<String>>,
    pub(super) initial: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a line for the shell, or a list of words")]
pub(super) enum Command {
    Line(String),
    Words(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    pub(super) address: Spanned<String>,
    pub(super) weight: Option<Spanned<i64>>,
    pub(super) exclusive: Option<bool>,
}
