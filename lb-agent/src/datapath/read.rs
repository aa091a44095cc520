//! What the kernel holds, as plain data: the other half of what [`super::tables`] writes.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use lb_common::abi::{
    BackendIdentity, MAX_BACKENDS, MAX_SERVICES, PATH_LOCAL, PATH_RECORDS_REPLIES, RingDescriptor,
    Slot,
};

use super::tables::{Tables, UNPLANNED_FLAGS};
use crate::{
    model::BackendPath,
    plan::{KernelBackend, KernelRing, KernelState},
};

impl Tables {
    /// Everything but attachments.
    pub(super) fn read(&self) -> anyhow::Result<KernelState> {
        let mut state =
            KernelState { flags: self.meta().flags & !UNPLANNED_FLAGS, ..KernelState::default() };
        for number in 0..MAX_SERVICES {
            let service = self.services.load(number).context("`SERVICES` is too short")?;
            if service.name_hash != [0; 2] {
                state.services.insert(number, service.name_hash);
            }
        }
        let mut backends = Vec::new();
        for number in 1..=MAX_BACKENDS {
            let identity =
                self.identities.load(number).context("`BACKEND_IDENTITIES` is too short")?;
            if identity.instance_hash != [0; 2] {
                backends.push((number, self.read_backend(number, &identity)));
            } else if identity.generation != 0 {
                state.free_generations.insert(number, identity.generation);
            }
        }
        state.backends = backends.into_iter().collect();
        for ring in 0..Self::ring_count() {
            let raw = self.rings.load(ring).context("`RINGS` is too short")?;
            let descriptor = RingDescriptor::from_raw(raw);
            if descriptor.size() != 0 {
                state.rings.insert(ring, self.read_ring(descriptor));
            }
        }
        self.frontends.read(&mut state)?;
        self.replies.read(&mut state)?;
        Ok(state)
    }

    fn read_backend(&self, number: u32, identity: &BackendIdentity) -> KernelBackend {
        let (ip, port, record_path, ifindex, takes) = if self.is_v4(number) {
            let record = self.backends_v4.load(number).unwrap_or_default();
            let ip = IpAddr::V4(record.address.into());
            (ip, record.port, record.path, record.ifindex, record.state)
        } else {
            let record = self.backends_v6.load(number).unwrap_or_default();
            let ip = IpAddr::V6(record.address.into());
            (ip, record.port, record.path, record.ifindex, record.state)
        };
        let is_local = record_path & !PATH_RECORDS_REPLIES == PATH_LOCAL;
        KernelBackend {
            instance_hash: identity.instance_hash,
            service: identity.service,
            generation: identity.generation,
            address: SocketAddr::new(ip, port.get()),
            path: if is_local { BackendPath::Local { ifindex } } else { BackendPath::Routed },
            state: takes,
            records_replies: record_path & PATH_RECORDS_REPLIES != 0,
        }
    }

    fn read_ring(&self, descriptor: RingDescriptor) -> KernelRing {
        let range = descriptor.start()..descriptor.start() + descriptor.size();
        KernelRing {
            start: descriptor.start(),
            epoch: descriptor.epoch(),
            slots: range
                .map_while(|index| self.ring_slots.load(index))
                .map(Slot::from_raw)
                .collect(),
        }
    }
}
