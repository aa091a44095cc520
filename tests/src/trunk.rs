//! A switch and a VLAN interface, for kernels that have none: a client whose packets reach the node
//! with tags, at the parent interface.
//!
//! ```text
//!  host eth0 --- access0 [switch] trunk0 --- front1 node    tagged
//!                                 vlan0  --- sub1   node    as the parent's VLAN interface would
//! ```
//!
//! What the host sends comes to `front1` with the tags; neighbour discovery is between the host and
//! `sub1`, as on a VLAN interface, and so is what the node routes to the host. What comes back by
//! `front1` must carry the very tags.

use std::{
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    cmsg_space,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SetSockOpt, SockFlag, SockProtocol,
        SockType, bind, recvmsg, sendmsg, setsockopt, socket,
    },
};

use crate::namespace::Namespace;

/// Asks for the tag that the kernel has taken out of a frame's bytes.
#[derive(Clone, Copy, Debug)]
struct PacketAuxdata;

impl SetSockOpt for PacketAuxdata {
    type Val = bool;

    fn set<F: AsFd>(&self, socket: &F, value: &bool) -> nix::Result<()> {
        let value = libc::c_int::from(*value);
        // SAFETY: the option's value is a C int, and lives until the call returns.
        let result = unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_AUXDATA,
                (&raw const value).cast(),
                size_of_val(&value) as libc::socklen_t,
            )
        };
        nix::errno::Errno::result(result).map(|_| ())
    }
}

/// `TP_STATUS_VLAN_VALID`.
const HAS_TAG: u32 = 1 << 4;
/// The two addresses of an Ethernet header.
const MACS_BYTES: usize = 12;
const FRAME_BYTES_MAX: usize = 2048;

/// A tag: its Ethertype, and its number.
pub type Tag = (u16, u16);

/// What passed.
#[derive(Debug, Default)]
pub struct Counts {
    /// From the host, tagged.
    pub tagged: AtomicU64,
    /// To the host by `front1`, with the right tags.
    pub answered: AtomicU64,
    /// To the host by `sub1`.
    pub routed: AtomicU64,
    /// By `front1` with other tags, or none.
    pub wrong: AtomicU64,
}

/// The host and its switch. Stops when it is dropped.
#[derive(Debug)]
pub struct Trunk {
    /// Where clients run: `198.51.100.2`, `2001:db8:2::2`.
    pub host: Namespace,
    /// What passed so far.
    pub counts: Arc<Counts>,
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Result<()>>>,
    _switch: Namespace,
}

/// The node's interface at which tagged packets arrive.
pub const FRONT: &str = "front1";

impl Trunk {
    /// Connects a host to the node through these tags, the outer first.
    pub fn connect(node: &Namespace, tags: &[Tag]) -> Result<Self> {
        let (switch, host) = (Namespace::new()?, Namespace::new()?);
        host.connect(("eth0", "198.51.100.2/24"), &switch, ("access0", "192.0.2.240/32"))?;
        node.connect((FRONT, "192.0.2.241/32"), &switch, ("trunk0", "192.0.2.242/32"))?;
        node.connect(("sub1", "198.51.100.1/24"), &switch, ("vlan0", "192.0.2.243/32"))?;
        for link in ["access0", "trunk0", "vlan0"] {
            switch.ip(&format!("addr flush dev {link}"))?;
            switch.ip(&format!("link set {link} mtu 1520 arp off"))?;
        }
        node.ip(&format!("addr flush dev {FRONT}"))?;
        node.ip(&format!("link set {FRONT} mtu 1520"))?;
        host.ip("addr add 2001:db8:2::2/64 dev eth0 nodad")?;
        node.ip("addr add 2001:db8:2::1/64 dev sub1 nodad")?;
        host.ip("route add default via 198.51.100.1")?;
        host.ip("route add default via 2001:db8:2::1")?;
        // A VLAN interface has the address of its parent.
        let shown =
            node.run("cat /sys/class/net/sub1/address").or_else(|_| node.ip("link show sub1"));
        let shown = shown?;
        let mac = shown.split_whitespace().find(|word| word.matches(':').count() == 5);
        node.ip(&format!("link set {FRONT} address {}", mac.context("no address of sub1")?))?;
        // The switch copies bytes, which have to be whole.
        let whole = "tx off tso off gso off gro off";
        host.offload("eth0", whole)?;
        for link in [FRONT, "sub1"] {
            node.offload(link, whole)?;
        }
        let ports = switch.enter(|| -> Result<[Port; 3]> {
            Ok([Port::open("access0")?, Port::open("trunk0")?, Port::open("vlan0")?])
        })??;
        let (counts, is_over) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let forwarder = Switch { ports, tags: tags.to_vec(), counts: Arc::clone(&counts) };
        let until = Arc::clone(&is_over);
        let thread = Some(thread::spawn(move || forwarder.run(&until)));
        Ok(Self { host, counts, is_over, thread, _switch: switch })
    }
}

impl Drop for Trunk {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        match self.thread.take().map(thread::JoinHandle::join) {
            Some(Ok(Ok(()))) | None => {}
            Some(Ok(Err(error))) => eprintln!("the switch failed: {error:#}"),
            Some(Err(_)) => eprintln!("the switch panicked"),
        }
    }
}

/// A frame, and the tag that was taken out of it.
struct Frame {
    bytes: Vec<u8>,
    tag: Option<Tag>,
}

/// An interface whose frames are read and written.
#[derive(Debug)]
struct Port(OwnedFd);

impl Port {
    fn open(link: &str) -> Result<Self> {
        let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK);
        let socket = socket(AddressFamily::Packet, kind, flags, SockProtocol::EthAll)?;
        let mut all = nix::ifaddrs::getifaddrs()?;
        let address = all.find_map(|it| {
            let address = it.address.filter(|_| it.interface_name == link)?;
            address.as_link_addr().copied()
        });
        bind(socket.as_raw_fd(), &address.with_context(|| format!("no link {link}"))?)?;
        setsockopt(&socket, PacketAuxdata, &true)?;
        Ok(Self(socket))
    }

    /// The next frame that came in.
    fn receive(&self) -> Result<Option<Frame>> {
        /// `PACKET_OUTGOING`: what this port itself sends.
        const OUTGOING: u8 = 4;
        let mut bytes = vec![0; FRAME_BYTES_MAX];
        let mut control = cmsg_space!([u8; 64]);
        loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            let (socket, flags) = (self.0.as_raw_fd(), MsgFlags::empty());
            let message = match recvmsg::<LinkAddr>(socket, &mut into, Some(&mut control), flags) {
                Ok(message) => message,
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            if message.address.is_some_and(|address| address.pkttype() == OUTGOING) {
                continue;
            }
            let tag = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::Unknown(control) => tag_of(&control.data_bytes),
                _ => None,
            });
            let length = message.bytes;
            bytes.truncate(length);
            return Ok(Some(Frame { bytes, tag }));
        }
    }

    fn send(&self, frame: &[u8]) -> Result<()> {
        let from = [IoSlice::new(frame)];
        match sendmsg::<LinkAddr>(self.0.as_raw_fd(), &from, &[], MsgFlags::empty(), None) {
            Ok(_) | Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("a frame of {} bytes", frame.len())),
        }
    }
}

/// From `struct tpacket_auxdata`.
fn tag_of(auxdata: &[u8]) -> Option<Tag> {
    let word = |at: usize| Some(u16::from_ne_bytes([*auxdata.get(at)?, *auxdata.get(at + 1)?]));
    let status = u32::from_ne_bytes(auxdata.get(..4)?.try_into().ok()?);
    (status & HAS_TAG != 0).then_some((word(18)?, word(16)?))
}

struct Switch {
    ports: [Port; 3],
    tags: Vec<Tag>,
    counts: Arc<Counts>,
}

impl Switch {
    fn run(&self, is_over: &AtomicBool) -> Result<()> {
        let [access, trunk, vlan] = &self.ports;
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        while !is_over.load(Ordering::Relaxed) {
            let mut ready =
                self.ports.each_ref().map(|port| PollFd::new(port.0.as_fd(), PollFlags::POLLIN));
            poll(&mut ready, PollTimeout::from(50_u8))?;
            while let Some(frame) = access.receive()? {
                if is_discovery(&frame.bytes) {
                    vlan.send(&frame.bytes)?;
                } else {
                    count(&self.counts.tagged);
                    trunk.send(&self.with_tags(&frame.bytes))?;
                }
            }
            while let Some(frame) = vlan.receive()? {
                if !is_discovery(&frame.bytes) {
                    count(&self.counts.routed);
                }
                access.send(&frame.bytes)?;
            }
            while let Some(frame) = trunk.receive()? {
                match self.without_tags(&frame) {
                    Some(bytes) => {
                        count(&self.counts.answered);
                        access.send(&bytes)?;
                    }
                    // The parent has no address; what it says of itself is not for the host.
                    None if is_discovery(&frame.bytes) => {}
                    None => {
                        count(&self.counts.wrong);
                    }
                }
            }
        }
        Ok(())
    }

    fn with_tags(&self, frame: &[u8]) -> Vec<u8> {
        let mut tagged = frame[..MACS_BYTES].to_vec();
        for (ethertype, number) in &self.tags {
            tagged.extend(ethertype.to_be_bytes());
            tagged.extend(number.to_be_bytes());
        }
        tagged.extend(&frame[MACS_BYTES..]);
        tagged
    }

    fn without_tags(&self, frame: &Frame) -> Option<Vec<u8>> {
        let (outer, inner) = self.tags.split_first()?;
        let mut rest = frame.bytes.get(MACS_BYTES..)?;
        if frame.tag? != *outer {
            return None;
        }
        for (ethertype, number) in inner {
            rest =
                rest.strip_prefix(&ethertype.to_be_bytes())?.strip_prefix(&number.to_be_bytes())?;
        }
        Some([&frame.bytes[..MACS_BYTES], rest].concat())
    }
}

/// ARP, and `ICMPv6` but for echo and errors.
fn is_discovery(frame: &[u8]) -> bool {
    const ICMPV6: u8 = 58;
    let ethertype = frame.get(12..14).map(|it| u16::from_be_bytes([it[0], it[1]]));
    match ethertype {
        Some(0x0800) => false,
        Some(0x86dd) => match frame.get(20) {
            Some(&ICMPV6) => frame.get(54).is_none_or(|kind| *kind >= 130),
            // Hop-by-hop options: reports of groups.
            Some(0) => true,
            _ => false,
        },
        _ => true,
    }
}

/// Fails unless the host's packets came in with tags, and none left with others.
pub fn check(counts: &Counts) -> Result<()> {
    println!("{counts:?}");
    ensure!(counts.tagged.load(Ordering::Relaxed) > 0, "nothing was tagged: {counts:?}");
    ensure!(counts.wrong.load(Ordering::Relaxed) == 0, "wrong tags: {counts:?}");
    Ok(())
}
