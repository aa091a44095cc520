//! The frontend tables of both families, changed through their mappings.
//!
//! What is stored in which order is decided in [`lb_common::frontends`]; here are the memory and the
//! clock.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::AtomicU64},
};

use aya::Ebpf;
use lb_common::{
    abi::{
        FAMILY_V4, FAMILY_V6, FRONTEND_RECORDS_REPLIES, FRONTEND_WORDS_V4, FRONTEND_WORDS_V6,
        Frontend, FrontendKeyV4, FrontendKeyV6, MAX_SERVICES, NetU16, PORT_LIST_RANGES,
        PROTOCOL_ANY, PROTOCOL_TCP, PROTOCOL_UDP, SCOPE_FRONT, map_names,
    },
    frontends::{self, Bucket, EditError, Editor, Entry, FrontendKey, FrontendMaps, PortList},
};

use super::{
    mapped::MappedArray,
    sys,
    tables::{Refusal, mapped, no_service, protocol_number},
};
use crate::{
    model::{FrontendAddress, Ports, Protocol},
    plan::KernelState,
};

/// No program runs as long as this, so no packet sees what was withdrawn so long ago.
const QUARANTINE_MS: u64 = 1000;

/// The tables of both families.
pub(super) struct Frontends {
    v4: Family<FRONTEND_WORDS_V4, FrontendKeyV4>,
    v6: Family<FRONTEND_WORDS_V6, FrontendKeyV6>,
}

struct Family<const W: usize, K> {
    maps: Maps<W>,
    editor: Editor<W, K>,
}

struct Maps<const W: usize> {
    filter: MappedArray<u64>,
    headers: Arc<MappedArray<u64>>,
    family: u32,
    buckets: MappedArray<[[u64; W]; 4]>,
    port_lists: MappedArray<[u64; PORT_LIST_RANGES]>,
}

impl<const W: usize> Maps<W> {
    fn trim(&mut self) {
        self.filter.trim();
        self.buckets.trim();
        self.port_lists.trim();
    }
}

impl<const W: usize> FrontendMaps<W> for Maps<W> {
    fn filter(&self, index: u32) -> Option<&AtomicU64> {
        self.filter.shared(index)
    }

    fn header(&self) -> Option<&AtomicU64> {
        self.headers.shared(self.family)
    }

    fn bucket(&self, index: u32) -> Option<&Bucket<W>> {
        self.buckets.shared(index)
    }

    fn port_list(&self, index: u32) -> Option<&PortList> {
        self.port_lists.shared(index)
    }
}

impl Frontends {
    /// Takes the maps out of the loaded object, with whatever they hold.
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        use map_names::{
            FRONTEND_HEADERS, FRONTENDS_V4, FRONTENDS_V6, PORT_LISTS_V4, PORT_LISTS_V6,
            VIP_FILTER_V4, VIP_FILTER_V6,
        };
        let now_ms = now_ms();
        let headers = Arc::new(mapped(ebpf, FRONTEND_HEADERS)?);
        let v4 = Maps {
            filter: mapped(ebpf, VIP_FILTER_V4)?,
            headers: Arc::clone(&headers),
            family: FAMILY_V4,
            buckets: mapped(ebpf, FRONTENDS_V4)?,
            port_lists: mapped(ebpf, PORT_LISTS_V4)?,
        };
        let v6 = Maps {
            filter: mapped(ebpf, VIP_FILTER_V6)?,
            headers,
            family: FAMILY_V6,
            buckets: mapped(ebpf, FRONTENDS_V6)?,
            port_lists: mapped(ebpf, PORT_LISTS_V6)?,
        };
        Ok(Self { v4: Family::adopt(v4, now_ms)?, v6: Family::adopt(v6, now_ms)? })
    }

    /// Gives back mappings of large parts.
    pub(super) fn trim(&mut self) {
        self.v4.maps.trim();
        self.v6.maps.trim();
    }

    pub(super) fn put_vip(&mut self, vip: IpAddr) -> Result<(), Refusal> {
        match keys(vip, PROTOCOL_ANY, 0) {
            Key::V4(key) => self.v4.editor.put_vip(&self.v4.maps, &key, 0, now_ms()),
            Key::V6(key) => self.v6.editor.put_vip(&self.v6.maps, &key, 0, now_ms()),
        }
        .map_err(refusal)
    }

    pub(super) fn delete_vip(&mut self, vip: IpAddr) -> Result<(), Refusal> {
        match keys(vip, PROTOCOL_ANY, 0) {
            Key::V4(key) => self.v4.editor.remove_vip(&self.v4.maps, &key, now_ms()),
            Key::V6(key) => self.v6.editor.remove_vip(&self.v6.maps, &key, now_ms()),
        }
        .map_err(refusal)
    }

    pub(super) fn put(
        &mut self,
        frontend: &FrontendAddress,
        service: u32,
        records_replies: bool,
        flags: u32,
    ) -> Result<(), Refusal> {
        let flags = flags | if records_replies { FRONTEND_RECORDS_REPLIES } else { 0 };
        if service >= MAX_SERVICES {
            return Err(no_service(service));
        }
        match keys_of(frontend) {
            Key::V4(key) => self.v4.put(&key, frontend.ports, service, flags),
            Key::V6(key) => self.v6.put(&key, frontend.ports, service, flags),
        }
    }

    pub(super) fn delete(&mut self, frontend: &FrontendAddress) -> Result<(), Refusal> {
        match keys_of(frontend) {
            Key::V4(key) => self.v4.delete(&key, frontend.ports),
            Key::V6(key) => self.v6.delete(&key, frontend.ports),
        }
    }

    /// What the data path finds.
    pub(super) fn lookup_v4(&self, key: FrontendKeyV4) -> Frontend {
        frontends::lookup(&self.v4.maps, &key)
    }

    /// What the data path finds.
    pub(super) fn lookup_v6(&self, key: &FrontendKeyV6) -> Frontend {
        frontends::lookup(&self.v6.maps, key)
    }

    /// Everything that the tables hold.
    pub(super) fn read(&self, state: &mut KernelState) -> anyhow::Result<()> {
        let map_error = |error: EditError| anyhow::anyhow!("the frontends cannot be read: {error}");
        for entry in self.v4.editor.read(&self.v4.maps).map_err(map_error)? {
            add(state, &entry, |key| (IpAddr::V4(key.vip.into()), key.scope));
        }
        for entry in self.v6.editor.read(&self.v6.maps).map_err(map_error)? {
            add(state, &entry, |key| (IpAddr::V6(key.vip.into()), key.scope));
        }
        Ok(())
    }
}

impl<const W: usize, K: FrontendKey<W> + std::hash::Hash> Family<W, K> {
    fn adopt(maps: Maps<W>, now_ms: u64) -> anyhow::Result<Self> {
        let editor = Editor::adopt(&maps, QUARANTINE_MS, now_ms)
            .map_err(|error| anyhow::anyhow!("the frontends cannot be adopted: {error}"))?;
        Ok(Self { maps, editor })
    }

    fn put(&mut self, key: &K, ports: Ports, service: u32, flags: u32) -> Result<(), Refusal> {
        let now_ms = now_ms();
        self.editor
            .put_frontend(&self.maps, key, ports.last(), service, flags, now_ms)
            .map_err(refusal)
    }

    fn delete(&mut self, key: &K, ports: Ports) -> Result<(), Refusal> {
        self.editor.remove_frontend(&self.maps, key, ports.last(), now_ms()).map_err(refusal)
    }
}

fn add<const W: usize, K: FrontendKey<W>>(
    state: &mut KernelState,
    entry: &Entry<K>,
    place: impl Fn(&K) -> (IpAddr, u8),
) {
    let key = match entry {
        Entry::Vip { key, .. } | Entry::Frontend { key, .. } => key,
    };
    let (vip, scope) = place(key);
    let protocol = match key.protocol() {
        PROTOCOL_TCP => Some(Protocol::Tcp),
        PROTOCOL_UDP => Some(Protocol::Udp),
        _ => None,
    };
    match (entry, protocol) {
        (Entry::Vip { .. }, _) if scope == SCOPE_FRONT => {
            state.vips.insert(vip);
        }
        (Entry::Frontend { first, last, service, flags, .. }, Some(protocol))
            if scope == SCOPE_FRONT =>
        {
            let Some(ports) = Ports::range(*first, *last) else { return };
            let frontend = FrontendAddress { vip, protocol, ports };
            state.frontends.insert(frontend, *service);
            if flags & FRONTEND_RECORDS_REPLIES != 0 {
                state.recorded_frontends.insert(frontend);
            }
            if flags & !FRONTEND_RECORDS_REPLIES != 0 {
                state.frontend_flags.insert(frontend, flags & !FRONTEND_RECORDS_REPLIES);
            }
        }
        _ => tracing::error!(?entry, "a frontend that we do not know"),
    }
}

enum Key {
    V4(FrontendKeyV4),
    V6(FrontendKeyV6),
}

fn keys(vip: IpAddr, protocol: u8, port: u16) -> Key {
    let (port, scope) = (NetU16::new(port), SCOPE_FRONT);
    match vip {
        IpAddr::V4(vip) => Key::V4(FrontendKeyV4 { vip: vip.into(), port, protocol, scope }),
        IpAddr::V6(vip) => Key::V6(FrontendKeyV6 { vip: vip.into(), port, protocol, scope }),
    }
}

fn keys_of(frontend: &FrontendAddress) -> Key {
    keys(frontend.vip, protocol_number(frontend.protocol), frontend.ports.first())
}

fn refusal(error: EditError) -> Refusal {
    error.to_string()
}

fn now_ms() -> u64 {
    sys::monotonic_ns() / 1_000_000
}
