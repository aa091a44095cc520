//! Packets of which not even the headers are in one piece, as some drivers hand them over: what is in
//! pages is read all the same.

use std::{net::SocketAddr, os::fd::AsRawFd as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Cluster, Namespace,
    cluster::ON,
    needs,
    packets::{PacketSpec, echo, icmp_error, tcp, udp},
    process,
    world::{CLIENT, CLIENT6, FRONT, vip, vip6},
};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket,
};

/// Of frames beyond a page, a packet socket puts no more than the Ethernet header into the linear part.
const PAYLOAD_BYTES: usize = 5000;
const MTU: u32 = 9000;
const LINK: &str = "eth0";
const DESTINATION_OPTIONS: u8 = 60;

fn mac_of(namespace: &Namespace, link: &str) -> Result<[u8; 6]> {
    let shown = namespace.ip(&format!("link show {link}"))?;
    let text = shown.split_whitespace().find(|word| word.matches(':').count() == 5);
    let text = text.context("no address")?;
    let bytes: Result<Vec<u8>, _> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes?.try_into().ok().context("not six bytes")
}

/// Sends a frame by a link.
fn send_frame(from: &Namespace, frame: &[u8]) -> Result<()> {
    from.enter(|| -> Result<()> {
        let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
        let socket = socket(AddressFamily::Packet, kind, flags, SockProtocol::EthAll)?;
        let mut all = nix::ifaddrs::getifaddrs()?;
        let address: Option<LinkAddr> = all.find_map(|it| {
            let address = it.address.filter(|_| it.interface_name == LINK)?;
            address.as_link_addr().copied()
        });
        bind(socket.as_raw_fd(), &address.context("no link")?)?;
        let sent = send(socket.as_raw_fd(), frame, MsgFlags::empty())?;
        ensure!(sent == frame.len(), "{sent} of {} bytes", frame.len());
        Ok(())
    })?
}

/// What goes to a port that nobody serves, and is told so for a reason that is counted.
fn frames(client: SocketAddr, unserved: SocketAddr) -> Vec<(&'static str, PacketSpec)> {
    // The options are padding.
    let options = |packet: PacketSpec, count: usize| {
        if unserved.is_ipv4() {
            packet.options(&[1].repeat(4 * count))
        } else {
            let padding = [&[0, 0, 1, 4][..], &[0; 4]].concat();
            (0..count).fold(packet, |it, _| it.extension(DESTINATION_OPTIONS, &padding))
        }
    };
    let about = tcp(unserved, client, ".").payload(PAYLOAD_BYTES);
    vec![
        ("TCP", tcp(client, unserved, "S").payload(PAYLOAD_BYTES)),
        ("UDP", udp(client, unserved).payload(PAYLOAD_BYTES)),
        ("TCP behind options", options(tcp(client, unserved, "S").payload(PAYLOAD_BYTES), 3)),
        ("UDP behind options", options(udp(client, unserved).payload(PAYLOAD_BYTES), 1)),
        ("an ICMP error", icmp_error(client.ip(), unserved.ip(), &about, PAYLOAD_BYTES)),
    ]
}

#[test]
fn headers_in_pages_are_read() -> Result<()> {
    needs!(namespaces);
    let cluster = Cluster::start("", &[ON])?;
    let (node, client) = (cluster.world.node(), cluster.world.client());
    client.ip(&format!("link set {LINK} mtu {MTU}"))?;
    node.ip(&format!("link set {FRONT} mtu {MTU}"))?;
    let macs = (mac_of(node, FRONT)?, mac_of(client, LINK)?);
    let no_frontend = || cluster.agent.drops("no_frontend");
    for (address, unserved) in [(CLIENT, vip(81)), (CLIENT6, vip6(81))] {
        for (name, packet) in frames(SocketAddr::new(address, 5000), unserved) {
            let before = no_frontend()?;
            let bytes = packet.macs(macs).bytes();
            ensure!(bytes.len() > PAYLOAD_BYTES, "{name}: {} bytes", bytes.len());
            send_frame(client, &bytes)?;
            process::wait_for(&format!("{name} to {unserved}"), Duration::from_secs(5), || {
                let counted = no_frontend()? - before;
                ensure!(counted == 1, "{counted} packets to a port without frontend");
                Ok(())
            })?;
        }
        let answers = || -> Result<u64> {
            let status = cluster.agent.json("status")?;
            let rows = status["verdicts"].as_array().context("no verdicts")?.clone();
            let answers = rows.iter().filter(|row| row["verdict"] == "answer");
            Ok(answers.filter_map(|row| row["packets"].as_u64()).sum())
        };
        let before = answers()?;
        let question = echo(address, unserved.ip()).payload(PAYLOAD_BYTES);
        send_frame(client, &question.macs(macs).bytes())?;
        process::wait_for("an answer to an echo request", Duration::from_secs(5), || {
            ensure!(answers()? == before + 1, "none");
            Ok(())
        })?;
    }
    Ok(())
}
