//! The addresses of the cases, in each family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use lb_common::abi::{
    LOCAL_CONTAINERS, LOCAL_NODE, PATH_LOCAL, PATH_ROUTED, PROTOCOL_TCP, PROTOCOL_UDP,
};

use super::{BackendSpec, FrontendSpec, INGRESS_IFINDEX};

/// The client of every case in IPv4.
pub const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 40_000);
/// The frontend of every case in IPv4.
pub const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 10), 80);
/// Address of backend 1 in IPv4.
pub const BACKEND_ONE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 1, 1), 8080);
/// Address of backend 2 in IPv4.
pub const BACKEND_TWO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 1, 2), 80);
/// Address of backend 3 in IPv4, on another machine.
pub const BACKEND_THREE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 2), 8080);

/// Who takes part in the cases of a family.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    /// Name of the family.
    pub name: &'static str,
    /// The client.
    pub client: SocketAddr,
    /// The frontend.
    pub vip: SocketAddr,
    /// A second VIP with the same port.
    pub second_vip: SocketAddr,
    /// A VIP with the ports 8000 to 8999.
    pub range_vip: IpAddr,
    /// A VIP with all ports.
    pub all_ports_vip: IpAddr,
    /// An address that is no VIP.
    pub stranger: SocketAddr,
    /// Backend 1, a container.
    pub one: SocketAddr,
    /// Backend 2, a container with the VIP's port.
    pub two: SocketAddr,
    /// Backend 3, on another machine.
    pub three: SocketAddr,
    /// A router on the way to backend 3, or to the client.
    pub router: IpAddr,
    /// An address that no route leads to.
    pub unroutable: IpAddr,
    /// An address that no sender has.
    pub impossible: IpAddr,
    /// The node's own address, with its prefix length as a subnet of containers.
    pub own: (IpAddr, u32, u32),
    /// A subnet of containers.
    pub containers: (IpAddr, u32, u32),
    /// A container in it.
    pub container: IpAddr,
}

const fn v4(octets: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(ip4(octets), port))
}

const fn ip4([a, b, c, d]: [u8; 4]) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

const fn v6(address: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddr::V6(SocketAddrV6::new(address, port, 0, 0))
}

const fn ip6(words: [u16; 3], last: u16) -> Ipv6Addr {
    Ipv6Addr::new(words[0], words[1], words[2], 0, 0, 0, 0, last)
}

/// IPv4.
pub const V4: Net = Net {
    name: "IPv4",
    client: SocketAddr::V4(CLIENT),
    vip: SocketAddr::V4(VIP),
    second_vip: v4([192, 0, 2, 11], 80),
    range_vip: IpAddr::V4(ip4([192, 0, 2, 12])),
    all_ports_vip: IpAddr::V4(ip4([192, 0, 2, 13])),
    stranger: v4([192, 0, 2, 99], 80),
    one: SocketAddr::V4(BACKEND_ONE),
    two: SocketAddr::V4(BACKEND_TWO),
    three: SocketAddr::V4(BACKEND_THREE),
    router: IpAddr::V4(ip4([198, 51, 100, 254])),
    unroutable: IpAddr::V4(ip4([203, 0, 113, 1])),
    impossible: IpAddr::V4(ip4([224, 0, 0, 5])),
    own: (IpAddr::V4(ip4([192, 0, 2, 1])), 32, LOCAL_NODE),
    containers: (IpAddr::V4(ip4([172, 17, 0, 0])), 16, LOCAL_CONTAINERS),
    container: IpAddr::V4(ip4([172, 17, 3, 4])),
};

/// IPv6.
pub const V6: Net = Net {
    name: "IPv6",
    client: v6(ip6([0x2001, 0xdb8, 0xc], 7), 40_000),
    vip: v6(ip6([0x2001, 0xdb8, 0], 0x10), 80),
    second_vip: v6(ip6([0x2001, 0xdb8, 0], 0x11), 80),
    range_vip: IpAddr::V6(ip6([0x2001, 0xdb8, 0], 0x12)),
    all_ports_vip: IpAddr::V6(ip6([0x2001, 0xdb8, 0], 0x13)),
    stranger: v6(ip6([0x2001, 0xdb8, 0], 0x99), 80),
    one: v6(ip6([0xfd00, 9, 1], 1), 8080),
    two: v6(ip6([0xfd00, 9, 1], 2), 80),
    three: v6(ip6([0xfd00, 9, 0], 2), 8080),
    router: IpAddr::V6(ip6([0x2001, 0xdb8, 0xc], 0xfe)),
    unroutable: IpAddr::V6(ip6([0x2001, 0xdb8, 0xf], 1)),
    impossible: IpAddr::V6(ip6([0xff02, 0, 0], 5)),
    own: (IpAddr::V6(ip6([0x2001, 0xdb8, 0], 1)), 128, LOCAL_NODE),
    containers: (IpAddr::V6(ip6([0xfd00, 17, 0], 0)), 48, LOCAL_CONTAINERS),
    container: IpAddr::V6(ip6([0xfd00, 17, 0], 0x34)),
};

/// Both families.
pub const NETS: [&Net; 2] = [&V4, &V6];

/// The same address with another port.
#[must_use]
pub fn at(address: SocketAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.ip(), port)
}

impl Net {
    /// Whether it is IPv6.
    #[must_use]
    pub const fn is_v6(&self) -> bool {
        self.vip.is_ipv6()
    }

    /// What is no address.
    #[must_use]
    pub const fn nobody(&self) -> SocketAddr {
        if self.is_v6() {
            SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)
        } else {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)
        }
    }

    /// Protocol number of ICMP.
    #[must_use]
    pub const fn icmp(&self) -> u8 {
        if self.is_v6() { 58 } else { 1 }
    }

    /// Where the transport header of a plain packet begins.
    #[must_use]
    pub const fn l4_offset(&self) -> usize {
        if self.is_v6() { 54 } else { 34 }
    }

    /// Backend 1: a container behind `INGRESS_IFINDEX`, with another port than the VIP's.
    #[must_use]
    pub fn backend_one(&self, state: u8) -> BackendSpec {
        BackendSpec {
            address: self.one,
            state,
            path: PATH_LOCAL,
            ifindex: INGRESS_IFINDEX,
            generation: 5,
        }
    }

    /// Backend 2: a container with the VIP's port.
    #[must_use]
    pub fn backend_two(&self, state: u8) -> BackendSpec {
        BackendSpec { address: self.two, ..self.backend_one(state) }
    }

    /// Backend 3: on another machine.
    #[must_use]
    pub fn backend_three(&self, state: u8) -> BackendSpec {
        BackendSpec {
            address: self.three,
            path: PATH_ROUTED,
            ifindex: 0,
            ..self.backend_one(state)
        }
    }

    /// Frontends of every case, by TCP and UDP; all lead to service 0.
    #[must_use]
    pub fn frontends(&self) -> Vec<FrontendSpec> {
        let single = |vip: SocketAddr| (vip.ip(), vip.port(), vip.port());
        let mut frontends = Vec::new();
        for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
            for (vip, first, last) in [
                single(self.vip),
                single(self.second_vip),
                (self.range_vip, 8000, 8999),
                (self.all_ports_vip, 1, u16::MAX),
            ] {
                frontends.push(FrontendSpec { vip, protocol, first, last, service: 0 });
            }
        }
        frontends
    }
}
