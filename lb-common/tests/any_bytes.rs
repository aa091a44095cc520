//! Hostile packets: whatever the bytes, the engine decides, and what it does not forward it does not
//! change.

use lb_common::{
    abi::{
        BackendV4, DropReason, Frontend, FrontendKeyV4, Limits, NetU16, NetU32, PROTOCOL_ANY,
        PROTOCOL_TCP, RingDescriptor, SCOPE_FRONT, Slot, TAKES_NEW, TAKES_OLD, Verdict,
    },
    engine::{
        Context, EditKind, Family as _, checksum, front,
        host::{HostPacket, HostTables, run},
        reply,
        wire::Kind,
    },
};
use proptest::prelude::*;

const CONTEXT: Context = Context {
    now_tick: 1000,
    now_moment: 0,
    ingress_ifindex: 1,
    reply_ifindex: 1,
    hash_seed: 7,
    meta_flags: 1,
};

/// Every address whose bytes are 10.0.0.x is a VIP with port 80.
fn tables() -> HostTables<NetU32> {
    let mut tables = HostTables {
        rings: [(0, RingDescriptor::new(0, 1, 1))].into(),
        slots: vec![Slot::plain(1)],
        ..HostTables::with_room(Limits::with_cpus(1), 100, 100)
    };
    for last in 0..=255 {
        for (port, protocol) in [(80, PROTOCOL_TCP), (0, PROTOCOL_ANY)] {
            let key = FrontendKeyV4 {
                vip: std::net::Ipv4Addr::new(10, 0, 0, last).into(),
                port: NetU16::new(port),
                protocol,
                scope: SCOPE_FRONT,
            };
            tables.frontends.insert(key, Frontend::default());
        }
    }
    let backend = BackendV4 {
        address: std::net::Ipv4Addr::new(172, 17, 0, 2).into(),
        port: NetU16::new(8080),
        state: TAKES_NEW | TAKES_OLD,
        ifindex: 3,
        ..BackendV4::default()
    };
    tables.backends.insert(1, backend);
    tables
}

/// Bytes that look like Ethernet, IPv4 and TCP to a VIP, and then lie.
fn nearly_tcp() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((0_usize..80, any::<u8>()), 0..4);
    (proptest::collection::vec(any::<u8>(), 54..120), changes).prop_map(|(mut bytes, changes)| {
        bytes[12..14].copy_from_slice(&[8, 0]);
        bytes[14] = 0x45;
        let total = u16::try_from(bytes.len() - 14).expect("short");
        bytes[16..18].copy_from_slice(&total.to_be_bytes());
        bytes[20..22].copy_from_slice(&[0x40, 0]);
        bytes[22] = bytes[22].max(2);
        bytes[23] = 6;
        bytes[30..33].copy_from_slice(&[10, 0, 0]);
        bytes[36..38].copy_from_slice(&[0, 80]);
        bytes[46] = 0x50;
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes
    })
}

fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    let tables = tables();
    for is_front in [true, false] {
        let mut packet = HostPacket(bytes.to_vec());
        let decide = if is_front { front } else { reply };
        let Some(decision) = run(&mut packet, &tables, &CONTEXT, decide) else {
            prop_assert_eq!(&packet.0[..], bytes);
            continue;
        };
        prop_assert!(decision.reason == DropReason::None || decision.edit == EditKind::None);
        prop_assert!(decision.reason != DropReason::None || decision.verdict != Verdict::Drop);
        if decision.verdict == Verdict::Answer {
            continue;
        }
        if decision.edit == EditKind::None {
            prop_assert_eq!(&packet.0[..], bytes);
            continue;
        }
        // What was forwarded is still a packet, and its header checksum moved as its bytes did.
        prop_assert!(NetU32::parse(&packet, 14).kind == Kind::Tcp);
        let sum = |bytes: &[u8]| {
            let header_bytes = usize::from(bytes[14] & 15) * 4;
            checksum::fold(checksum::sum(&bytes[14..14 + header_bytes]))
        };
        prop_assert_eq!(sum(&packet.0) % 0xffff, sum(bytes) % 0xffff);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&bytes)?;
    }

    #[test]
    fn lies(bytes in nearly_tcp()) {
        check(&bytes)?;
    }
}
