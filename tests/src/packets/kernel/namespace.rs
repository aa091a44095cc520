//! The network that the programs look up routes in.

use std::process::Command;

use anyhow::{Context as _, ensure};

/// Index of the interface that leads to backend 3 and to the clients.
pub const EGRESS_IFINDEX: u32 = 9;
/// MAC addresses of what leaves by it: destination, source.
pub const EGRESS_MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 9, 2], [2, 0, 0, 0, 9, 1]);

/// Moves this thread into a new namespace with one interface, by which backend 3 and the clients
/// are reached.
pub fn enter_namespace() -> anyhow::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .context("unshare(CLONE_NEWNET): run as root")?;
    let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
    let (far, near) = (mac(EGRESS_MACS.0), mac(EGRESS_MACS.1));
    let egress = format!("address {near} type veth peer name far");
    for command in [
        "ip link set lo up".to_owned(),
        format!("ip link add egress index {EGRESS_IFINDEX} {egress}"),
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1".to_owned(),
        "ip link set far up".to_owned(),
        "ip link set egress up".to_owned(),
        "ip address add 10.9.0.1/24 dev egress".to_owned(),
        "ip address add fd00:9::1/64 dev egress nodad".to_owned(),
        format!("ip neighbour replace 10.9.0.2 lladdr {far} dev egress"),
        format!("ip neighbour replace fd00:9::2 lladdr {far} dev egress"),
        "ip route add 198.51.100.0/24 via 10.9.0.2".to_owned(),
        "ip route add 2001:db8:c::/64 via fd00:9::2".to_owned(),
    ] {
        run(&command)?;
    }
    Ok(())
}

/// Gives the interface another MTU.
pub(super) fn set_egress_mtu(mtu: u32) -> anyhow::Result<()> {
    run(&format!("ip link set egress mtu {mtu}"))
}

fn run(command: &str) -> anyhow::Result<()> {
    let words: Vec<_> = command.split(' ').collect();
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .with_context(|| format!("running `{command}`"))?;
    ensure!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
