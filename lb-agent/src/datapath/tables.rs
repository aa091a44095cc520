//! The maps, typed, and how an [`Action`](crate::plan::Action) changes them.
//!
//! Arrays are memory and written word by word, in an order that never shows a reader half of a
//! change. What is not true of a number in the array `BACKEND_IDENTITIES` or `SERVICES` is not true
//! at all: these are written last when a number is taken, and first when it is given back.

use std::{collections::BTreeMap, mem::offset_of, net::IpAddr, os::fd::AsFd as _};

use anyhow::Context as _;
use aya::{
    Ebpf, Pod,
    maps::{Map, MapData, MapError, PerCpuArray, PerCpuValues},
};
use lb_common::abi::{
    BACKEND_NONE, BackendCounters, BackendIdentity, BackendV4, BackendV6, Limits, MAX_BACKENDS,
    MAX_SERVICES, META_ROUTES_REPLIES, META_TRACES, Meta, NetU16, PATH_LOCAL, PATH_RECORDS_REPLIES,
    PATH_ROUTED, PROTOCOL_TCP, PROTOCOL_UDP, RINGS_PER_SERVICE, Refusals, RingDescriptor,
    ServiceIdentity, TraceFilter, XdpInterface, map_names,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    extents::Extents, frontends::Frontends, mapped::MappedArray, records::Records, replies::Replies,
};
use crate::{
    model::{BackendPath, Protocol},
    plan::{KernelBackend, KernelRing},
};

/// The word of [`BackendV4`] with address, port and state.
const STATE_WORD_V4: usize = offset_of!(BackendV4, state) / 8;
/// The word of [`BackendV6`] with port, state and interface.
const STATE_WORD_V6: usize = offset_of!(BackendV6, state) / 8;
/// The first word of the hash, without which the number is free.
const IDENTITY_WORD: usize = offset_of!(BackendIdentity, instance_hash) / 8;
/// The word with version and flags.
const FLAGS_WORD: usize = offset_of!(Meta, flags) / 8;

/// Flags that are no plan's business: whether somebody traces, and whether there are several fronts.
pub(super) const UNPLANNED_FLAGS: u32 = META_TRACES | META_ROUTES_REPLIES;

/// Why a table could not be changed, in words.
pub(super) type Refusal = String;

/// Every map of the data path.
pub(super) struct Tables {
    pub(super) meta: MappedArray<Meta>,
    pub(super) services: MappedArray<ServiceIdentity>,
    pub(super) frontends: Frontends,
    pub(super) rings: MappedArray<u64>,
    pub(super) ring_slots: MappedArray<u64>,
    pub(super) backends_v4: MappedArray<BackendV4>,
    pub(super) backends_v6: MappedArray<BackendV6>,
    pub(super) identities: MappedArray<BackendIdentity>,
    pub(super) backend_counters: PerCpuArray<MapData, BackendCounters>,
    pub(super) drops: PerCpuArray<MapData, u64>,
    pub(super) verdicts: PerCpuArray<MapData, u64>,
    pub(super) xdp_interfaces: MappedArray<u64>,
    pub(super) refusals: MappedArray<Refusals>,
    pub(super) records: Box<Records>,
    pub(super) replies: Replies,
    pub(super) trace_filters: MappedArray<TraceFilter>,
    extents: Extents,
}

impl Tables {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let rings = mapped(ebpf, map_names::RINGS)?;
        Ok(Self {
            extents: Extents::read(&rings),
            meta: mapped(ebpf, map_names::META)?,
            services: mapped(ebpf, map_names::SERVICES)?,
            frontends: Frontends::take(ebpf)?,
            rings,
            ring_slots: mapped(ebpf, map_names::RING_SLOTS)?,
            backends_v4: mapped(ebpf, map_names::BACKENDS_V4)?,
            backends_v6: mapped(ebpf, map_names::BACKENDS_V6)?,
            identities: mapped(ebpf, map_names::BACKEND_IDENTITIES)?,
            backend_counters: PerCpuArray::try_from(take(ebpf, map_names::BACKEND_COUNTERS)?)?,
            drops: PerCpuArray::try_from(take(ebpf, map_names::DROPS)?)?,
            verdicts: PerCpuArray::try_from(take(ebpf, map_names::VERDICTS)?)?,
            xdp_interfaces: mapped(ebpf, map_names::XDP_INTERFACES)?,
            refusals: mapped(ebpf, map_names::REFUSALS)?,
            records: Box::new(Records::take(ebpf)?),
            replies: Replies::take(ebpf)?,
            trace_filters: mapped(ebpf, map_names::TRACE_FILTERS)?,
        })
    }

    /// Gives back mappings of large parts of the tables, which count as the agent's memory.
    pub(super) fn trim(&mut self) {
        self.services.trim();
        self.frontends.trim();
        self.rings.trim();
        self.ring_slots.trim();
        self.backends_v4.trim();
        self.backends_v6.trim();
        self.identities.trim();
        self.refusals.trim();
    }

    /// What the tables are.
    pub(super) fn meta(&self) -> Meta {
        self.meta.load(0).unwrap_or_default()
    }

    pub(super) fn set_flags(&self, flags: u32) -> Result<(), Refusal> {
        let meta = self.meta();
        let flags = flags & !UNPLANNED_FLAGS | meta.flags & UNPLANNED_FLAGS;
        let meta = Meta { flags, ..meta };
        self.meta.store(0, &meta, FLAGS_WORD).ok_or_else(|| "META is empty".to_owned())
    }

    /// Sets or clears one of the [`UNPLANNED_FLAGS`].
    pub(super) fn set_flag(&self, flag: u32, is_on: bool) -> Result<(), Refusal> {
        let meta = self.meta();
        let flags = if is_on { meta.flags | flag } else { meta.flags & !flag };
        let meta = Meta { flags, ..meta };
        self.meta.store(0, &meta, FLAGS_WORD).ok_or_else(|| "META is empty".to_owned())
    }

    /// Puts other limits of records in force. Says whether they were others.
    pub(super) fn set_limits(&self, limits: Limits) -> bool {
        let meta = self.meta();
        if meta.limits == limits {
            return false;
        }
        self.meta.store(0, &Meta { limits, ..meta }, FLAGS_WORD).is_some()
    }

    pub(super) fn write_service(&self, number: u32, name_hash: [u64; 2]) -> Result<(), Refusal> {
        if name_hash == [0; 2] {
            return Err("a service's hash is not zero, which stands for a free number".to_owned());
        }
        self.services
            .store(number, &ServiceIdentity { name_hash }, 0)
            .ok_or_else(|| no_service(number))
    }

    pub(super) fn clear_service(&self, number: u32) -> Result<(), Refusal> {
        self.services
            .store(number, &ServiceIdentity::default(), 0)
            .ok_or_else(|| no_service(number))
    }

    pub(super) fn write_backend(
        &mut self,
        number: u32,
        backend: &KernelBackend,
    ) -> Result<(), Refusal> {
        check_backend(number, backend)?;
        let identity = BackendIdentity {
            instance_hash: backend.instance_hash,
            service: backend.service,
            generation: backend.generation,
        };
        let previous = self.identity(number);
        // Counters of a number that had another backend begin anew.
        if previous.generation != 0 && previous != identity {
            // From here on a socket that is closed and was the former one's counts for nothing.
            let begun = BackendIdentity { generation: identity.generation, ..previous };
            let stored = self.identities.store(number, &begun, IDENTITY_WORD);
            stored.ok_or_else(|| no_backend(number))?;
            self.reset_counters(number)?;
        }
        let (path, ifindex) = match backend.path {
            BackendPath::Local { ifindex } => (PATH_LOCAL, ifindex),
            BackendPath::Routed => (PATH_ROUTED, 0),
        };
        let path = path | if backend.records_replies { PATH_RECORDS_REPLIES } else { 0 };
        let port = NetU16::new(backend.address.port());
        let KernelBackend { state, generation, .. } = *backend;
        // Nothing refers to the number. The state goes last all the same, with the address or after
        // it, and a record of the other family does not stay.
        let stored = match backend.address.ip() {
            IpAddr::V4(address) => {
                let address = address.into();
                let record = BackendV4 { address, port, state, path, ifindex, generation };
                self.backends_v6
                    .store(number, &BackendV6::default(), STATE_WORD_V6)
                    .and_then(|()| self.backends_v4.store(number, &record, STATE_WORD_V4))
            }
            IpAddr::V6(address) => {
                let address = address.into();
                let record =
                    BackendV6 { address, port, state, path, ifindex, generation, reserved: 0 };
                self.backends_v4
                    .store(number, &BackendV4::default(), STATE_WORD_V4)
                    .and_then(|()| self.backends_v6.store(number, &record, STATE_WORD_V6))
            }
        };
        stored
            .and_then(|()| self.identities.store(number, &identity, IDENTITY_WORD))
            .ok_or_else(|| no_backend(number))
    }

    pub(super) fn set_backend_state(&self, number: u32, state: u8) -> Result<(), Refusal> {
        if self.identity(number).instance_hash == [0; 2] {
            return Ok(());
        }
        let stored = if self.is_v4(number) {
            self.backends_v4.store_byte(number, offset_of!(BackendV4, state), state)
        } else {
            self.backends_v6.store_byte(number, offset_of!(BackendV6, state), state)
        };
        stored.ok_or_else(|| no_backend(number))
    }

    /// One store of the path byte.
    pub(super) fn set_records_replies(
        &self,
        number: u32,
        is_recorded: bool,
    ) -> Result<(), Refusal> {
        if self.identity(number).instance_hash == [0; 2] {
            return Ok(());
        }
        let changed = |path: u8| {
            let bit = if is_recorded { PATH_RECORDS_REPLIES } else { 0 };
            path & !PATH_RECORDS_REPLIES | bit
        };
        let stored = if self.is_v4(number) {
            let path = self.backends_v4.load(number).unwrap_or_default().path;
            self.backends_v4.store_byte(number, offset_of!(BackendV4, path), changed(path))
        } else {
            let path = self.backends_v6.load(number).unwrap_or_default().path;
            self.backends_v6.store_byte(number, offset_of!(BackendV6, path), changed(path))
        };
        stored.ok_or_else(|| no_backend(number))
    }

    /// Gone at once for the data path. The record stays otherwise as it is: a packet may be in the
    /// middle of reading it.
    pub(super) fn clear_backend(&self, number: u32) -> Result<(), Refusal> {
        let identity = BackendIdentity {
            instance_hash: [0; 2],
            service: 0,
            generation: self.identity(number).generation,
        };
        self.set_backend_state(number, 0)?;
        self.identities
            .store(number, &identity, IDENTITY_WORD)
            .filter(|()| number != BACKEND_NONE)
            .ok_or_else(|| no_backend(number))
    }

    /// Slots first, into an extent that no reader uses, then one store that publishes them.
    pub(super) fn publish_ring(&mut self, ring: u32, content: &KernelRing) -> Result<(), Refusal> {
        let size = u32::try_from(content.slots.len()).unwrap_or(u32::MAX);
        self.check_ring(ring)?;
        self.extents.claim(ring, content.start, size, self.ring_slots.entries())?;
        for (index, slot) in (content.start..).zip(&content.slots) {
            if self.ring_slots.store(index, &slot.raw(), 0).is_none() {
                return Err(format!("slot {index} is beyond the table"));
            }
        }
        self.ring_slots.trim();
        let descriptor = RingDescriptor::new(content.start, size, content.epoch);
        self.rings.store(ring, &descriptor.raw(), 0).ok_or_else(|| no_ring(ring))
    }

    pub(super) fn clear_ring(&mut self, ring: u32) -> Result<(), Refusal> {
        self.check_ring(ring)?;
        self.rings
            .store(ring, &RingDescriptor::NONE.raw(), 0)
            .map(|()| self.extents.release(ring))
            .ok_or_else(|| no_ring(ring))
    }

    /// XDP forwards between these interfaces, and leaves all others alone.
    pub(super) fn set_xdp_interfaces(&self, interfaces: &BTreeMap<u32, XdpInterface>) {
        for ifindex in 0..self.xdp_interfaces.entries() {
            let value = interfaces.get(&ifindex).copied().unwrap_or_default().raw();
            if self.xdp_interfaces.load(ifindex) != Some(value) {
                self.xdp_interfaces.store(ifindex, &value, 0);
            }
        }
    }

    pub(super) fn identity(&self, number: u32) -> BackendIdentity {
        self.identities.load(number).unwrap_or_default()
    }

    /// A number is in use in one family; the record of the other is zero.
    pub(super) fn is_v4(&self, number: u32) -> bool {
        self.backends_v4.load(number).is_some_and(|record| record.address.raw() != 0)
    }

    /// Whether a backend takes nothing any more, or is none.
    pub(super) fn is_gone(&self, number: u32) -> bool {
        self.backends_v4.load(number).is_none_or(|record| record.state == 0)
            && self.backends_v6.load(number).is_none_or(|record| record.state == 0)
    }

    /// Rings that could be published.
    pub(super) fn ring_count() -> u32 {
        MAX_SERVICES * RINGS_PER_SERVICE
    }

    fn check_ring(&self, ring: u32) -> Result<(), Refusal> {
        if ring < Self::ring_count().min(self.rings.entries()) {
            Ok(())
        } else {
            Err(no_ring(ring))
        }
    }

    fn reset_counters(&mut self, number: u32) -> Result<(), Refusal> {
        let cpus = aya::util::nr_cpus().map_err(|(path, error)| format!("{path}: {error}"))?;
        PerCpuValues::try_from(vec![BackendCounters::default(); cpus])
            .map_err(|error| error.to_string())
            .and_then(|zero| self.backend_counters.set(number, zero, 0).map_err(map_refusal))
    }
}

/// IP protocol number of a protocol.
pub(super) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => PROTOCOL_TCP,
        Protocol::Udp => PROTOCOL_UDP,
    }
}

/// Whether a map has no such key.
pub(super) fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

/// Whether a map has such a key already.
pub(super) fn is_present(error: &MapError) -> bool {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::EEXIST),
        _ => false,
    }
}

/// Takes a map out of the loaded object.
pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Map> {
    ebpf.take_map(name).with_context(|| format!("the embedded BPF object has no map `{name}`"))
}

/// Takes an array out of the loaded object, as memory.
pub(super) fn mapped<T: FromBytes + IntoBytes + Immutable + Pod>(
    ebpf: &mut Ebpf,
    name: &str,
) -> anyhow::Result<MappedArray<T>> {
    let Map::Array(map) = take(ebpf, name)? else {
        anyhow::bail!("map `{name}` of the embedded BPF object is no array");
    };
    MappedArray::new(map.fd().as_fd(), map.info()?.max_entries())
        .with_context(|| format!("map `{name}` cannot be mapped"))
}

fn check_backend(number: u32, backend: &KernelBackend) -> Result<(), Refusal> {
    if number == BACKEND_NONE || number > MAX_BACKENDS {
        return Err(no_backend(number));
    }
    if backend.service >= MAX_SERVICES {
        return Err(no_service(backend.service));
    }
    if backend.instance_hash == [0; 2] {
        return Err("a backend's hash is not zero, which stands for a free number".to_owned());
    }
    if backend.address.ip().is_unspecified() {
        return Err(format!("{} is no address of a backend", backend.address));
    }
    Ok(())
}

pub(super) fn map_refusal(error: MapError) -> Refusal {
    match error {
        MapError::SyscallError(error) => match error.io_error.raw_os_error() {
            Some(libc::E2BIG) => "the table is full".to_owned(),
            _ => format!("{}: {}", error.call, error.io_error),
        },
        error => error.to_string(),
    }
}

pub(super) fn no_service(number: u32) -> Refusal {
    format!("service number {number} is not below {MAX_SERVICES}")
}

fn no_backend(number: u32) -> Refusal {
    format!("backend number {number} is not from 1 to {MAX_BACKENDS}")
}

fn no_ring(ring: u32) -> Refusal {
    format!("ring number {ring} is not below {}", Tables::ring_count())
}
