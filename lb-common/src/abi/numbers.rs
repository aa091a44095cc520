//! Numbers that are part of the interface for ever: verdicts and drop reasons.
//!
//! A number is never given another meaning; one that falls out of use stays reserved.

/// What the data path decided to do with a packet. A whole word, like every field of a decision:
/// bytes of padding beside a smaller one would be stored misaligned, which the verifier refuses.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Not ours: untouched, on to whatever comes next.
    Pass = 0,
    /// To a container on this node.
    Deliver = 1,
    /// To a backend that the routing table leads to.
    Route = 2,
    /// A backend's reply, on its way to the client.
    Reply = 3,
    /// Dropped; there is a [`DropReason`].
    Drop = 4,
    /// Answered in place of whoever it was for; there may be a [`DropReason`].
    Answer = 5,
}

impl Verdict {
    /// Every verdict there is, in order of its number.
    pub const ALL: &'static [Self] =
        &[Self::Pass, Self::Deliver, Self::Route, Self::Reply, Self::Drop, Self::Answer];

    /// The name in the command line client, the API and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Deliver => "deliver",
            Self::Route => "route",
            Self::Reply => "reply",
            Self::Drop => "drop",
            Self::Answer => "answer",
        }
    }
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal;)+) => {
        /// Why a packet was not forwarded. The number indexes the per-CPU array `DROPS`.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl DropReason {
            /// Every reason there is, in order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name in the command line client and the API.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// The packet was not dropped.
    None = 0, "none";
    /// The IPv4 header contradicts itself or the packet: version, header length or total length.
    Ipv4HeaderInvalid = 1, "ipv4_header_invalid";
    /// The TCP header is cut off or its data offset is impossible.
    TcpHeaderInvalid = 2, "tcp_header_invalid";
    /// A fragment of a packet to a VIP, whose first fragment was not seen.
    Fragment = 3, "fragment";
    /// The service has no backend that may take the packet.
    NoBackend = 4, "no_backend";
    /// The table of recorded flows has no room.
    RecordTableFull = 5, "record_table_full";
    /// TTL or hop limit is used up.
    TtlExceeded = 6, "ttl_exceeded";
    /// The routing table has no way to the backend or back to the client.
    NoRoute = 7, "no_route";
    /// The kernel refused to change the packet or its checksum.
    EditFailed = 8, "edit_failed";
    /// Frontend, ring, slot and backend do not fit together; a defect of the agent.
    TablesInconsistent = 9, "tables_inconsistent";
    /// Another living flow has the same client address, client port and backend.
    TupleCollision = 10, "tuple_collision";
    /// Forwarding is switched off on the interface (`net.ipv4.conf.*.forwarding`).
    ForwardingDisabled = 11, "forwarding_disabled";
    /// The IPv6 header contradicts itself or the packet: version or payload length.
    Ipv6HeaderInvalid = 12, "ipv6_header_invalid";
    /// An IPv6 extension header is cut off, comes twice, or is where it must not be.
    Ipv6ExtensionInvalid = 13, "ipv6_extension_invalid";
    /// More IPv6 extension headers than are followed, in number or bytes.
    Ipv6TooDeeplyNested = 14, "ipv6_too_deeply_nested";
    /// An IPv6 routing header wants the VIP to send the packet on to somewhere else.
    Ipv6RoutingHeader = 15, "ipv6_routing_header";
    /// The UDP header is cut off or its length is impossible.
    UdpHeaderInvalid = 16, "udp_header_invalid";
    /// The header of an ICMP or `ICMPv6` message is cut off.
    IcmpHeaderInvalid = 17, "icmp_header_invalid";
    /// An ICMP or `ICMPv6` message in fragments.
    IcmpFragmented = 18, "icmp_fragmented";
    /// The packet that an ICMP error quotes is cut off, broken, or not the error's receiver's.
    IcmpEmbeddedInvalid = 19, "icmp_embedded_invalid";
    /// The packet that an ICMP error quotes is neither TCP nor UDP, or a fragment without ports.
    IcmpEmbeddedUnserved = 20, "icmp_embedded_unserved";
    /// A fragment is empty, no multiple of eight bytes, or reaches beyond the longest packet.
    FragmentInvalid = 21, "fragment_invalid";
    /// A first fragment does not hold the whole transport header.
    FragmentTiny = 22, "fragment_tiny";
    /// A later fragment would overwrite the transport header.
    FragmentOverlap = 23, "fragment_overlap";
    /// Source and destination address are the same.
    Land = 24, "land";
    /// No host can have the source address: unspecified, loopback, multicast, reserved.
    SourceImpossible = 25, "source_impossible";
    /// The source address is a VIP of this node: our own output came back, or the packet is forged.
    SourceIsVip = 26, "source_is_vip";
    /// Neither TCP nor UDP nor an ICMP message that means something to a VIP.
    ProtocolNotBalanced = 27, "protocol_not_balanced";
    /// The VIP has no frontend at this port.
    NoFrontend = 28, "no_frontend";
    /// The packet exceeds the MTU of the way ahead.
    TooBig = 29, "too_big";
    /// An echo request with IP options or extension headers.
    EchoUnanswerable = 30, "echo_unanswerable";
    /// A socket call to a service that is not visible to the caller's networks.
    NotVisible = 31, "not_visible";
    /// A socket call to a service whose backends are all on other networks than the caller.
    OtherNetwork = 32, "other_network";
}

/// Entries in the per-CPU array `DROPS`; room for reasons to come.
pub const DROP_REASON_SLOTS: u32 = 64;

const _: () = assert!(DropReason::ALL.len() <= DROP_REASON_SLOTS as usize);
