//! What is probed, for the tests of health.

use std::{net::SocketAddr, sync::Arc};

use super::{
    book::{Book, Job},
    target::Target,
    tracker::Health,
};
use crate::model::{Probe, ProbeKind, ProbePlace, ServiceName};

/// One probe decides, and one is made every two seconds.
pub(super) fn probe() -> Probe {
    Probe {
        kind: ProbeKind::Tcp { port: None },
        interval_ms: 2000,
        timeout_ms: 1000,
        initial_delay_ms: 0,
        rise: 1,
        fall: 1,
        place: ProbePlace::Auto,
    }
}

/// A container.
pub(super) fn target(number: u64, probe: Option<Arc<Probe>>, assumed: Health) -> Target {
    Target {
        key: [number, 1],
        generation: 1,
        service: ServiceName("web".into()),
        display_name: format!("web: `web-{number}`"),
        address: ([10, 0, 0, 1], 80).into(),
        instance: format!("id{number}@1"),
        probe,
        reported: None,
        assumed,
        is_watched: true,
        is_routed: false,
    }
}

/// The first probe of a container that starts.
pub(super) fn job(probe: Probe, address: SocketAddr) -> Job {
    let target = target(1, Some(Arc::new(probe)), Health::Starting);
    let mut book = Book::new(1, 1);
    book.set_targets(&[Arc::new(vec![Arc::new(Target { address, ..target })])], 0);
    book.next_job(0).expect("a backend that starts is due at once")
}
