//! What a container wishes for the service at one of its ports: its labels of all schemas, one behind the
//! other, and the configuration behind them.

use std::collections::BTreeMap;

use super::{super::aliyun::LabelError, Reader, Refusals, lb::LbLabels, registrator};
use crate::model::{Origin, Setting, Wishes};

/// The labels of a container by their schemas.
pub(super) struct Schemas<'a> {
    pub(super) own: LbLabels<'a>,
    pub(super) aliyun: Wishes,
    pub(super) registrator: registrator::Metadata<'a>,
    pub(super) labels: &'a BTreeMap<String, String>,
    /// Names the container.
    pub(super) object: &'a str,
}

impl Schemas<'_> {
    /// Whether the port has names of Aliyun's routing.
    fn routes(&self, port: u16) -> bool {
        self.labels.contains_key(&format!("{}{port}", super::aliyun::routing::PREFIX))
    }
}

/// Whose wishes they are: the service at a port, under a name of Registrator or its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ServiceAt {
    pub(super) port: u16,
    /// Some frontend leads there by TCP.
    pub(super) has_tcp: bool,
    /// Some frontend leads to the container by TCP, here or at another port.
    pub(super) container_has_tcp: bool,
    pub(super) is_registered: bool,
}

impl Reader {
    pub(super) fn wishes(
        &self,
        schemas: &Schemas<'_>,
        service: ServiceAt,
        refusals: &mut Refusals<'_>,
    ) -> Wishes {
        let ServiceAt { port, has_tcp, is_registered, .. } = service;
        let (mut wishes, errors) = schemas.own.wishes(port, schemas.object);
        refusals.extend(errors);
        if schemas.routes(port) {
            wishes.or_schema(&schemas.aliyun);
        } else {
            // It is about names, and this port has none.
            wishes.or_schema(&Wishes { affinity: None, ..schemas.aliyun.clone() });
        }
        let mut has_check = false;
        if is_registered {
            let (checks, errors) = schemas.registrator.wishes(port, schemas.object);
            refusals.extend(errors);
            wishes.or_schema(&checks);
            has_check = wishes.probe.is_some() && wishes.probe == checks.probe;
        }
        if has_tcp {
            wishes.or(&self.defaults);
        } else {
            refusals.extend(spare_datagrams(&mut wishes, service));
            wishes.or(&self.defaults.without_tcp());
        }
        refusals.extend(wishes.update_takes_all());
        if has_check {
            // The last word, after that of the configuration: it is a default.
            wishes
                .probe_interval_ms
                .get_or_insert_with(|| Setting::new(registrator::INTERVAL_MS, Origin::Registrator));
        }
        if let Some(Origin::Instead(written)) = wishes.probe.as_ref().map(|probe| &probe.origin) {
            let (key, what) =
                (written.key.clone(), "it asks for a probe, and for none that is known");
            let instead = if has_tcp {
                "is probed by TCP instead"
            } else {
                "is of UDP and served without a probe"
            };
            let message = format!("{what}; the port {port} {instead}, until the labels are mended");
            refusals.extend([LabelError { key, message }]);
            if !has_tcp {
                wishes.probe = None;
            }
        }
        wishes
    }
}

impl Wishes {
    /// Updates that replace all replicas at a time leave nobody to serve. One replica cannot do better.
    fn update_takes_all(&self) -> Option<LabelError> {
        let (scale, at_a_time) = (self.scale.as_ref()?.value?, self.rolling_updates.as_ref()?);
        let count = at_a_time.value.filter(|count| scale > 1 && *count >= scale)?;
        let message = format!(
            "an update that replaces {count} replicas at a time may take all {scale} that are expected at \
             once, so nothing is expected to stay; replace {} at most",
            scale - 1
        );
        Some(LabelError { key: at_a_time.origin.written()?.key.clone(), message })
    }
}

/// At a port of UDP alone nobody need listen by TCP, so who asks for a probe of the whole container asks for
/// none there; who names the port has it. Where no port is of TCP, nothing would be left of it.
pub(super) fn spare_datagrams(wishes: &mut Wishes, service: ServiceAt) -> Option<LabelError> {
    let ServiceAt { port, container_has_tcp, .. } = service;
    if !wishes.has_probe_of_traffic() {
        return None;
    }
    let key = wishes.probe.as_ref()?.origin.written()?.key.clone();
    if key.split(['.', '_']).any(|part| part.parse() == Ok(port)) {
        return None;
    }
    if container_has_tcp {
        wishes.leave_probe_out();
        return None;
    }
    wishes.probe = None;
    let own = match key.strip_prefix(registrator::PREFIX) {
        Some(rest) => format!("{}{port}_{rest}", registrator::PREFIX),
        None => format!("lb.{port}.probe"),
    };
    let message = format!(
        "the probe connects to the port of the traffic, and no frontend of the container is of TCP, so \
         nobody may be listening there and the port {port} is not probed so; where somebody listens, \
         ask for it by `{own}`, or by `lb.probe` with another port in `lb.probe.port`"
    );
    Some(LabelError { key, message })
}

/// All labels and variables of Registrator, and the labels of Aliyun, read.
pub(super) fn read<'a>(
    own: LbLabels<'a>,
    labels: &'a BTreeMap<String, String>,
    environment: &'a BTreeMap<String, String>,
    object: &'a str,
    refusals: &mut Refusals<'_>,
) -> Schemas<'a> {
    let (aliyun, errors) = super::aliyun::policy::wishes(labels, object);
    refusals.extend(errors);
    let registrator = registrator::Metadata::read(environment, labels);
    Schemas { own, aliyun, registrator, labels, object }
}
