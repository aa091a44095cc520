//! Which service a container belongs to, and its place in it: by its name in the orchestrator, never
//! by its id or address.

use std::net::SocketAddr;

use super::{ContainerFacts, text::name_part};
use crate::model::{FrontendAddress, PooledName, ServiceName};

/// A container's part in a service.
pub(super) struct Replica {
    /// Name of the service without the port.
    pub(super) service: String,
    /// Place within the service.
    pub(super) place: String,
    /// No orchestrator says that containers of this name belong together, only their image does.
    is_by_image: bool,
}

impl Replica {
    /// Containers of one image may be replicas or have nothing to do with each other: they are one
    /// service when they ask for the same frontend.
    pub(super) fn service_name(
        &self,
        port: u16,
        frontend: &FrontendAddress,
        pooled: Option<&PooledName>,
    ) -> ServiceName {
        let name = format!("{}:{port}", self.service);
        if !self.is_by_image {
            return ServiceName(name.into());
        }
        if let Some(pooled) = pooled {
            return ServiceName(format!("{name}@{}", pooled.name).into());
        }
        let address = SocketAddr::new(frontend.vip, frontend.ports.first());
        ServiceName(format!("{name}@{address}").into())
    }

    /// The place among replicas of other services, and of other ports.
    pub(super) fn identity(&self, port: u16) -> String {
        format!("{}/{}:{port}", self.service, self.place)
    }

    /// `None` for a container that is part of no service: one that was made for a single command.
    pub(super) fn of(facts: &ContainerFacts) -> Option<Self> {
        let name = facts.former_name.as_ref().unwrap_or(&facts.name).trim_start_matches('/');
        let label =
            |key: &str| facts.labels.get(key).map(String::as_str).filter(|value| !value.is_empty());
        if let Some(service) = label("com.docker.swarm.service.name") {
            let task = label("com.docker.swarm.task.name");
            let place = task
                .and_then(|task| swarm_slot(task, service))
                .or_else(|| label("com.docker.swarm.node.id"))
                .unwrap_or(name);
            return Some(Self {
                service: format!("swarm/{}", name_part(service)),
                place: name_part(place),
                is_by_image: false,
            });
        }
        let compose = label("com.docker.compose.project").zip(label("com.docker.compose.service"));
        if let Some((project, service)) = compose {
            if label("com.docker.compose.oneoff") == Some("True") {
                return None;
            }
            return Some(Self {
                service: format!("compose/{}/{}", name_part(project), name_part(service)),
                place: name_part(label("com.docker.compose.container-number").unwrap_or(name)),
                is_by_image: false,
            });
        }
        let image = image_base_name(&facts.image).unwrap_or(name);
        Some(Self {
            service: format!("docker/{}", name_part(image)),
            place: name_part(name),
            is_by_image: true,
        })
    }
}

/// `3` of the task `web.3.q1w2e3` of the service `web`; the node's id for a global service.
fn swarm_slot<'a>(task: &'a str, service: &str) -> Option<&'a str> {
    let (slot, _) = task.strip_prefix(service)?.strip_prefix('.')?.split_once('.')?;
    (!slot.is_empty()).then_some(slot)
}

/// `redis` of `registry:5000/team/redis:7@sha256:…`. Nothing for an image that has no name.
pub(super) fn image_base_name(image: &str) -> Option<&str> {
    let (image, _) = image.split_once('@').unwrap_or((image, ""));
    let (_, base) = image.rsplit_once('/').unwrap_or(("", image));
    let (name, _) = base.split_once(':').unwrap_or((base, ""));
    let is_id = |text: &str| {
        matches!(text.len(), 12 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    (!name.is_empty() && name != "sha256" && !is_id(name)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::image_base_name;

    #[test]
    fn images_have_a_base_name() {
        let check = |image: &str, expected: Option<&str>| {
            assert_eq!(image_base_name(image), expected, "{image}");
        };
        check("redis", Some("redis"));
        check("redis:7.2", Some("redis"));
        check("registry:5000/team/redis", Some("redis"));
        check("registry:5000/team/redis:7@sha256:0123", Some("redis"));
        check("sha256:0123abcd", None);
        check("0123456789ab", None);
        check(&"0123456789abcdef".repeat(4), None);
        check("", None);
        check("team/", None);
    }
}
