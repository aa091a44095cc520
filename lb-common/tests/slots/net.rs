//! What histories need of an address family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{
    abi::{BackendV4, BackendV6, NetAddr6, NetU32},
    engine::{
        Backend, Family,
        host::{HostTables, RecordTable},
    },
};

/// A family in which histories take place.
pub(crate) trait Net: Family + Into<IpAddr> {
    /// Who sends, and to whom.
    fn ends() -> [Self; 2];
    /// A backend, at no address.
    fn record(state: u8, generation: u32, ifindex: u32) -> Self::BackendRecord;
    /// Gives it another state.
    fn set_state(record: &mut Self::BackendRecord, state: u8);
}

impl Net for NetU32 {
    fn ends() -> [Self; 2] {
        [Ipv4Addr::new(198, 51, 100, 1).into(), Ipv4Addr::new(192, 0, 2, 10).into()]
    }

    fn record(state: u8, generation: u32, ifindex: u32) -> BackendV4 {
        BackendV4 { state, generation, ifindex, ..BackendV4::default() }
    }

    fn set_state(record: &mut BackendV4, state: u8) {
        record.state = state;
    }
}

impl Net for NetAddr6 {
    fn ends() -> [Self; 2] {
        let address = |subnet, last| Ipv6Addr::new(0x2001, 0xdb8, subnet, 0, 0, 0, 0, last);
        [address(0xc, 1).into(), address(0, 0x10).into()]
    }

    fn record(state: u8, generation: u32, ifindex: u32) -> BackendV6 {
        BackendV6 { state, generation, ifindex, ..BackendV6::default() }
    }

    fn set_state(record: &mut BackendV6, state: u8) {
        record.state = state;
    }
}

/// A table of records.
pub(crate) type Records<A> = RecordTable<<A as Family>::FlowKey, lb_common::abi::FlowRecord>;

/// A backend that has been given a number.
pub(crate) fn backend<A: Net>(tables: &HostTables<A>, number: u32) -> Backend<A> {
    A::backend(&tables.backends[&number])
}
