//! What the tables of the data path hold, as plain data, and the actions that change them.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{HeldBackends, NameHash, Slots, hash::HashIndex, service_hash};
use crate::model::{
    BackendPath, FrontendAddress, IpPrefix, LocalKind, LocalPrefixes, Protocol, ServiceName,
};

/// One backend as the kernel holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelBackend {
    /// Hash of service name, instance, address and path; never zero.
    pub instance_hash: [u64; 2],
    /// Number of its service.
    pub service: u32,
    /// Generation of the number.
    pub generation: u32,
    /// Address and port.
    pub address: SocketAddr,
    /// How it is reached.
    pub path: BackendPath,
    /// `TAKES_*` bits.
    pub state: u8,
    /// Each of its flows is recorded, so that its replies can be translated.
    pub records_replies: bool,
}

/// A backend's port as a source of replies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReplyPort {
    /// Index of the host-side veth; 0 for a backend that is routed.
    pub ifindex: u32,
    /// Address and port.
    pub address: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
}

/// What replies of a port are translated to that have no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyDefault {
    /// Where its clients connect.
    pub vip: SocketAddr,
    /// Number of the backend, for counting; `BACKEND_NONE` when it has none any more.
    pub backend: u32,
    /// The front interface that replies leave by; 0: the routing table says.
    pub front_ifindex: u32,
    /// There may be recorded flows of other frontends: look for a record first.
    pub is_ambiguous: bool,
    /// Clients come without us, too: a SYN+ACK without a record is for one of them. Only where all
    /// flows through us are recorded.
    pub has_other_ways: bool,
}

/// One ring as the kernel holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelRing {
    /// First slot in `RING_SLOTS`.
    pub start: u32,
    /// Count of publications, wrapping.
    pub epoch: u32,
    /// The slots; as many as the ring's size.
    pub slots: Slots,
}

/// Everything that the agent keeps in the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KernelState {
    /// Service number -> hash of the service's name.
    pub services: BTreeMap<u32, [u64; 2]>,
    /// Backend number -> backend.
    pub backends: HeldBackends,
    /// Last generation of backend numbers that are free now and were in use before.
    pub free_generations: BTreeMap<u32, u32>,
    /// Ring number (`lb_common::abi::ring_number`) -> ring.
    pub rings: BTreeMap<u32, KernelRing>,
    /// Frontend -> service number.
    pub frontends: BTreeMap<FrontendAddress, u32>,
    /// Frontends whose flows are recorded, whatever their backend says.
    pub recorded_frontends: BTreeSet<FrontendAddress>,
    /// What else is said of a frontend: `FRONTEND_DROPS`, and the bits of `affinity_flags`. Those of
    /// which nothing is said may be left out.
    pub frontend_flags: BTreeMap<FrontendAddress, u32>,
    /// Addresses that have an entry of their own (protocol any, port 0).
    pub vips: BTreeSet<IpAddr>,
    /// Host-side veths that carry the reply program.
    pub reply_interfaces: BTreeSet<u32>,
    /// What replies without record are translated to.
    pub reply_defaults: BTreeMap<ReplyPort, ReplyDefault>,
    /// Addresses of the node and subnets of its containers, for which no reply default counts.
    pub local: LocalPrefixes,
    /// `META_*` flags.
    pub flags: u32,
}

impl KernelState {
    /// Numbers of a backend, by its service and the hash of its instance. There is more than one only
    /// where somebody else has written to the tables; a backend whose service is not in them has none.
    pub fn numbers_of(&self, service: &ServiceName, instance: &NameHash) -> Vec<u32> {
        let hash = service_hash(service);
        let services = self.services.iter().filter(|(_, other)| **other == hash);
        services.flat_map(|(number, _)| self.backends.numbers(*number, instance)).collect()
    }
}

/// State bits that the kernel holds, for those who ask for few of them.
#[derive(Debug)]
pub struct HeldStates<'a> {
    kernel: &'a KernelState,
    /// Numbers of services by their hashes, made when somebody asks.
    services: OnceCell<HashIndex<Vec<u32>>>,
}

impl<'a> HeldStates<'a> {
    /// Those of these tables.
    pub fn new(kernel: &'a KernelState) -> Self {
        Self { kernel, services: OnceCell::new() }
    }

    /// State bits of a backend, by the hash of its instance. Of several numbers of one instance, the one
    /// that takes most is the one in use.
    pub fn of(&self, service: &ServiceName, instance: &NameHash) -> Option<u8> {
        let services = self.services.get_or_init(|| {
            let mut services: HashIndex<Vec<u32>> = HashIndex::default();
            for (number, hash) in &self.kernel.services {
                services.entry(*hash).or_default().push(*number);
            }
            services
        });
        let numbers = services.get(&service_hash(service))?.iter();
        let backends = &self.kernel.backends;
        numbers.flat_map(|service| backends.doubles(*service, instance)).map(|it| it.state).max()
    }
}

/// One change. Each is idempotent; removing what is absent is not an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Put the reply program on a host-side veth.
    AttachReply {
        /// Its index.
        ifindex: u32,
    },
    /// Take the reply program off.
    DetachReply {
        /// Index of the host-side veth, which may no longer exist.
        ifindex: u32,
    },
    /// Switch data path features, `META_*`.
    SetFlags {
        /// All flags.
        flags: u32,
    },
    /// Take a service number.
    WriteService {
        /// Service number.
        number: u32,
        /// Hash of the service's name.
        name_hash: [u64; 2],
    },
    /// Give a service number back.
    ClearService {
        /// Service number.
        number: u32,
    },
    /// Take a backend number; nothing refers to it yet.
    WriteBackend {
        /// Backend number.
        number: u32,
        /// What to write.
        backend: KernelBackend,
    },
    /// Store the state byte of a backend.
    SetBackendState {
        /// Backend number.
        number: u32,
        /// `TAKES_*` bits.
        state: u8,
    },
    /// Store whether each flow of a backend is recorded.
    SetRecordsReplies {
        /// Backend number.
        number: u32,
        /// Whether it is.
        records_replies: bool,
    },
    /// Translate the replies of a port that have no record.
    PutReplyDefault {
        /// The port.
        port: ReplyPort,
        /// To what.
        default: ReplyDefault,
    },
    /// Leave the replies of a port alone that have no record.
    DeleteReplyDefault {
        /// The port.
        port: ReplyPort,
    },
    /// Let no reply default count for these destinations.
    PutLocal {
        /// Addresses of the node or its containers.
        prefix: IpPrefix,
        /// Which.
        kind: LocalKind,
    },
    /// Take these destinations for those of clients again.
    DeleteLocal {
        /// Addresses that are no longer the node's or its containers'.
        prefix: IpPrefix,
    },
    /// Give a backend number back; its generation stays.
    ClearBackend {
        /// Backend number.
        number: u32,
    },
    /// Fill an extent that no reader uses, then publish it by one store of the descriptor.
    PublishRing {
        /// Ring number.
        ring: u32,
        /// What to write.
        content: KernelRing,
    },
    /// Unpublish a ring.
    ClearRing {
        /// Ring number.
        ring: u32,
    },
    /// Recognise an address as ours.
    PutVip {
        /// The address.
        vip: IpAddr,
    },
    /// No longer recognise an address.
    DeleteVip {
        /// The address.
        vip: IpAddr,
    },
    /// Serve a frontend by a service.
    PutFrontend {
        /// The frontend.
        frontend: FrontendAddress,
        /// Service number.
        service: u32,
        /// Whether each of its flows is recorded, whatever its backend says.
        records_replies: bool,
        /// What else is said of it, as in [`KernelState::frontend_flags`].
        flags: u32,
    },
    /// Stop serving a frontend.
    DeleteFrontend {
        /// The frontend.
        frontend: FrontendAddress,
    },
}

/// An action that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {cause}")]
pub struct KernelError {
    /// What was tried, in words.
    pub action: String,
    /// What the kernel said, and what to do.
    pub cause: String,
    /// The device or object is gone: nothing to repair, the next look at the provider will tell.
    pub is_absent: bool,
}

/// The edge to the kernel. The only implementations are `datapath` and the fakes of tests.
pub trait Kernel {
    /// Executes one action. Idempotent.
    fn execute(&mut self, action: &Action) -> Result<(), KernelError>;
}
