//! What each drop reason means, and where to look. The same table is in `docs/drop-reasons.md`; a
//! test compares.

use lb_common::abi::DropReason;

/// Every reason: what happened, and what to look at.
const MEANINGS: &[(DropReason, &str, &str)] = &[
    (DropReason::None, "The packet was not dropped.", ""),
    (
        DropReason::Ipv4HeaderInvalid,
        "Version, header length or total length of the IPv4 header contradict themselves or \
             the packet.",
        "The sender; a capture on the front interface.",
    ),
    (
        DropReason::TcpHeaderInvalid,
        "The TCP header is cut off, or its data offset is impossible.",
        "The sender; a capture on the front interface.",
    ),
    (
        DropReason::Fragment,
        "A later fragment of a packet to a VIP whose first fragment was not seen, or not \
             forwarded: it could be any backend's.",
        "Whether all ways of a client lead to the same node; packets that overtake each other \
             on the way; more packets in fragments at a time than are followed (8192).",
    ),
    (
        DropReason::NoBackend,
        "The service has no backend that may take the packet.",
        "`lbctl backend list`: are containers running, healthy, not draining?",
    ),
    (
        DropReason::RecordTableFull,
        "The table of recorded flows has no room.",
        "`[tables] records` in the configuration; a flood of SYNs.",
    ),
    (
        DropReason::TtlExceeded,
        "The packet's TTL is used up; this node would have been one router more.",
        "A routing loop, or a traceroute.",
    ),
    (
        DropReason::NoRoute,
        "The routing table has no way to the backend, or back to the client.",
        "`ip route get ADDRESS` on the node.",
    ),
    (
        DropReason::EditFailed,
        "The kernel refused to change the packet or its checksum.",
        "A defect; please report it with the kernel's version.",
    ),
    (
        DropReason::TablesInconsistent,
        "Frontend, ring, slot and backend do not fit together.",
        "A defect of the agent; please report it with its log.",
    ),
    (
        DropReason::TupleCollision,
        "Another living flow has the same client address, client port and backend, so replies could not be told apart.",
        "A client that uses one source port for two VIPs with one backend; it succeeds with another port. Only recorded flows are seen: while the first connection is one by the port's default, the second is not refused and waits in vain.",
    ),
    (
        DropReason::ForwardingDisabled,
        "Forwarding is switched off on the interface.",
        "`sysctl net.ipv4.ip_forward`, `net.ipv4.conf.*.forwarding`; for IPv6 \
             `net.ipv6.conf.all.forwarding`.",
    ),
    (
        DropReason::Ipv6HeaderInvalid,
        "Version or payload length of the IPv6 header contradict themselves or the packet.",
        "The sender; a capture on the front interface.",
    ),
    (
        DropReason::Ipv6ExtensionInvalid,
        "An extension header is cut off, comes twice, or is where it must not be.",
        "The sender; a capture on the front interface.",
    ),
    (
        DropReason::Ipv6TooDeeplyNested,
        "More than 4 extension headers before or 2 behind the fragment header, or more than \
             128 bytes of either.",
        "The sender: no ordinary packet has as many.",
    ),
    (
        DropReason::Ipv6RoutingHeader,
        "A routing header with segments left: the VIP would have to send the packet on to \
             somewhere else.",
        "The sender. Source routing through a VIP is refused.",
    ),
    (
        DropReason::UdpHeaderInvalid,
        "The UDP header is cut off, or its length is impossible.",
        "The sender; a capture on the front interface.",
    ),
    (
        DropReason::IcmpHeaderInvalid,
        "The header of an ICMP or ICMPv6 message is cut off.",
        "The sender; a capture on the front interface.",
    ),
    (
        DropReason::IcmpFragmented,
        "An ICMP or ICMPv6 message to a VIP came in fragments; errors never do, and an echo \
             is not put together.",
        "`ping` with a payload beyond the path's MTU.",
    ),
    (
        DropReason::IcmpEmbeddedInvalid,
        "The packet that an ICMP error quotes is cut off or broken, or its sender is not the \
             error's receiver.",
        "The router that sent the error; a forged error.",
    ),
    (
        DropReason::IcmpEmbeddedUnserved,
        "The packet that an ICMP error quotes is neither TCP nor UDP, or is a fragment \
             without ports.",
        "Nothing, as long as it is rare: the error is of no use to a backend.",
    ),
    (
        DropReason::FragmentInvalid,
        "A fragment is empty, reaches beyond 65,535 bytes, or has followers and is no \
             multiple of 8 bytes.",
        "The sender; an attack of the \"ping of death\" kind.",
    ),
    (
        DropReason::FragmentTiny,
        "A first fragment does not hold all headers up to the transport header (RFC 1858, RFC \
             7112).",
        "An attempt to get past filters.",
    ),
    (
        DropReason::FragmentOverlap,
        "A later fragment would overwrite the transport header (RFC 1858, RFC 3128).",
        "An attempt to get past filters.",
    ),
    (
        DropReason::Land,
        "Source and destination address are the same.",
        "A forged packet; filter on the router.",
    ),
    (
        DropReason::SourceImpossible,
        "No host out there can have the source address: unspecified, loopback, multicast, broadcast or reserved; or a SYN or a datagram came in by a front from an address of this node or of its containers.",
        "A forged packet; filter on the router. Or a router that sends what a container here has sent to a VIP back to the node: that has never worked, since the reply would not take the same way.",
    ),
    (
        DropReason::SourceIsVip,
        "The source address is a VIP of this node.",
        "Our own output came back (a loop in the network), or the packet is forged.",
    ),
    (
        DropReason::ProtocolNotBalanced,
        "The packet is neither TCP nor UDP nor an ICMP message that means something to a VIP.",
        "What the client tries; other protocols are not balanced.",
    ),
    (
        DropReason::NoFrontend,
        "The VIP has no frontend at this port.",
        "The client's port; `lbctl service list`.",
    ),
    (
        DropReason::TooBig,
        "The packet exceeds the MTU of the way ahead; its sender is told so.",
        "Rare: path MTU discovery at work. Often: is the sender told (a firewall that drops \
             ICMP)?",
    ),
    (
        DropReason::EchoUnanswerable,
        "An echo request with IP options or IPv6 extension headers.",
        "`ping -R` and the like; plain echo requests are answered.",
    ),
    (
        DropReason::NotVisible,
        "A socket call to a service that is not visible to the caller.",
        "The service's `visible`, and the caller's networks: `lbctl service show`.",
    ),
    (
        DropReason::OtherNetwork,
        "A socket call to a service whose backends are all on networks that the caller is not on.",
        "Connect the caller to their network, or let the host route: `routes_across` in [cgroup].",
    ),
];

/// What happened, and what to look at.
#[must_use]
pub fn meaning(reason: DropReason) -> (&'static str, &'static str) {
    let found = MEANINGS.iter().find(|(it, ..)| *it == reason);
    found.map_or(("", ""), |(_, happened, look_at)| (happened, look_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_tells_the_same() {
        let documentation = include_str!("../../../docs/drop-reasons.md");
        let documented: Vec<&str> =
            documentation.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        let expected: Vec<String> = DropReason::ALL
            .iter()
            .map(|reason| {
                let (happened, look_at) = meaning(*reason);
                let name = reason.name();
                let row = format!("| {} | `{name}` | {happened} | {look_at} |", *reason as u32);
                row.replace("|  |", "| |")
            })
            .collect();
        assert_eq!(documented, expected, "docs/drop-reasons.md");
    }
}
