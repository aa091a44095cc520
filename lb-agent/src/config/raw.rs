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
    pub(super) balancer: Vec<Balancer>,
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
pub(super) struct Service {
    pub(super) name: Spanned<String>,
    pub(super) frontends: Spanned<Vec<Spanned<String>>>,
    pub(super) ring_size: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) backend: Vec<Backend>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    pub(super) address: Spanned<String>,
    pub(super) weight: Option<Spanned<i64>>,
}
