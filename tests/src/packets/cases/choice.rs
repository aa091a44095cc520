//! Which backend a flow gets, when there are several.

use std::net::{IpAddr, SocketAddr};

use lb_common::abi::{NetAddr6, NetU32, affinity_flags};

use super::{case, delivered, fragments::backend_of};
use crate::packets::{Case, Net, PacketSpec, SlotState, Step, World, tcp, udp};

/// A ring of backends 1 and 2.
fn of_two(net: &Net) -> World {
    World { more_slots: vec![(2, SlotState::Plain)], ..net.world() }
}

fn chosen(net: &Net, world: &World, packet: &PacketSpec) -> SocketAddr {
    let backend = if net.is_v6() {
        backend_of::<NetAddr6>(world, packet)
    } else {
        backend_of::<NetU32>(world, packet)
    };
    [net.one, net.two][backend as usize - 1]
}

/// Neighbours of the client, of which the prefix is the same, with a port each.
fn clients(net: &Net) -> Vec<SocketAddr> {
    let with_last = |last: u8| match net.client.ip() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            IpAddr::from([a, b, c, last])
        }
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            (octets[9], octets[15]) = (last, last);
            IpAddr::from(octets)
        }
    };
    (1..25).map(|last| SocketAddr::new(with_last(last), 1000 * u16::from(last))).collect()
}

pub(super) fn rings(net: &Net) -> Vec<Case> {
    let by_slot = |world: &World, packets: Vec<PacketSpec>| -> Vec<Step> {
        packets.iter().map(|packet| delivered(packet, chosen(net, world, packet))).collect()
    };
    let world = of_two(net);
    let flows = || clients(net).into_iter().map(|client| tcp(client, net.vip, "S"));
    let prefix_bits = if net.is_v6() { 64 } else { 24 };
    let loyal = World { frontend_flags: affinity_flags(prefix_bits), ..of_two(net) };
    let favourite = chosen(net, &loyal, &net.syn());
    let together = flows()
        .flat_map(|syn| {
            [delivered(&syn, favourite), delivered(&udp(syn.source, net.vip), favourite)]
        })
        .collect();
    let to_one = flows().filter(|syn| chosen(net, &world, syn) == net.one).count();
    assert!((4..20).contains(&to_one), "{to_one} of 24 clients on one of two backends");
    let both = by_slot(&world, flows().collect());
    vec![
        case("each flow goes to the backend of its slot", world, both, vec![], vec![]),
        case("affinity: a client's prefix goes to one backend", loyal, together, vec![], vec![]),
    ]
}
