//! The few rtnetlink requests of the data path: clsact qdiscs, BPF filters on them, and what kind of
//! device an interface is. Synchronous, in the network namespace of the calling thread.
//!
//! Answers are read attribute by attribute, so that a foreign filter or device of a kind that we
//! know nothing about is still seen.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_packet_core::{DefaultNla, Emitable as _, NlasIterator};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

const HEADER_LENGTH: usize = 16;
const TC_HEADER_LENGTH: usize = 20;
const LINK_HEADER_LENGTH: usize = 16;

/// `TC_H_CLSACT` with nothing below: the handle of the qdisc.
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// `TC_H_CLSACT`, where the qdisc sits.
const CLSACT_PARENT: u32 = 0xffff_fff1;
/// Filters of packets that come in.
const INGRESS: u32 = 0xffff_fff2;
/// Filters of packets that go out.
const EGRESS: u32 = 0xffff_fff3;
const ETH_P_ALL: u16 = 0x0003;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const NLMSGERR_ATTR_MSG: u16 = 1;
const ARPHRD_ETHER: u16 = 1;

/// How often a list that changes meanwhile is asked for.
const LISTS_MAX: u32 = 5;
/// The list has changed meanwhile: the error that the kernel itself gives for it.
const INTERRUPTED: i32 = libc::EAGAIN;

/// A request that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{io}{}", text.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
pub(super) struct RtnlError {
    #[source]
    io: io::Error,
    /// What the kernel has to say beside the number.
    text: Option<String>,
}

impl RtnlError {
    /// The number of the error.
    pub(super) fn errno(&self) -> Option<i32> {
        self.io.raw_os_error()
    }
}

impl From<io::Error> for RtnlError {
    fn from(io: io::Error) -> Self {
        Self { io, text: None }
    }
}

/// Where a filter is: preference and handle name it among the filters of an interface's ingress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FilterPlace {
    /// Order among filters; lower runs first.
    pub(super) preference: u16,
    /// Name among filters of one preference.
    pub(super) handle: u32,
}

/// A filter of an interface's ingress.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Filter {
    /// Where it is.
    pub(super) place: FilterPlace,
    /// Name and id of its program, where it is a BPF filter.
    pub(super) program: Option<(String, u32)>,
}

/// An interface of the namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Interface {
    /// Its index.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: String,
    /// An Ethernet device that has a driver of its own: devices made by netlink tell their kind.
    pub(super) is_physical: bool,
    /// Of a VLAN interface the index of the one that it is on.
    pub(super) vlan_parent: Option<u32>,
    /// Its Ethernet address.
    pub(super) address: Option<[u8; 6]>,
    /// Index of the bond or bridge that it is a port of.
    pub(super) master: Option<u32>,
}

/// A netlink socket in one network namespace.
#[derive(Debug)]
pub(super) struct Rtnl {
    socket: Socket,
    sequence: u32,
}

/// A message of the kernel.
pub(super) struct Message {
    /// `RTM_*`.
    pub(super) kind: u16,
    payload: Vec<u8>,
}

impl Rtnl {
    /// In the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Only makes messages better: old kernels may refuse it.
        drop(socket.set_ext_ack(true));
        Ok(Self { socket, sequence: 0 })
    }

    /// Adds the clsact qdisc. `Ok(false)`: there is one already (or an ingress qdisc, which serves).
    ///
    /// The kernel gives an interface without a transmit queue, as Docker makes its veths, one of
    /// 1000 packets as soon as it gets any qdisc (`qdisc_create`); it is taken back, since
    /// it would outlive us.
    pub(super) fn add_clsact(&mut self, ifindex: u32) -> Result<bool, RtnlError> {
        let queue_length = self.transmit_queue_length(ifindex)?;
        let header = tc_header(ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0);
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        match self.request(libc::RTM_NEWQDISC, flags, &header, &[text(TCA_KIND, "clsact")]) {
            Ok(_) if queue_length == Some(0) => {
                self.set_transmit_queue_length(ifindex, 0).map(|()| true)
            }
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn transmit_queue_length(&mut self, ifindex: u32) -> Result<Option<u32>, RtnlError> {
        let messages =
            self.request(libc::RTM_GETLINK, libc::NLM_F_ACK, &link_header(ifindex), &[])?;
        let link = messages.iter().find(|message| message.kind == libc::RTM_NEWLINK);
        let Some(link) = link else { return Ok(None) };
        let (_, attributes) = link.split(LINK_HEADER_LENGTH)?;
        Ok(attribute(attributes, IFLA_TXQLEN).map(|value| number_at(value, 0)))
    }

    fn set_transmit_queue_length(&mut self, ifindex: u32, packets: u32) -> Result<(), RtnlError> {
        let length = [DefaultNla::new(IFLA_TXQLEN, packets.to_ne_bytes().to_vec())];
        let header = link_header(ifindex);
        self.request(libc::RTM_SETLINK, libc::NLM_F_ACK, &header, &length).map(drop)
    }

    /// Removes the clsact qdisc and every filter on it.
    pub(super) fn delete_clsact(&mut self, ifindex: u32) -> Result<(), RtnlError> {
        let header = tc_header(ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0);
        self.request(libc::RTM_DELQDISC, libc::NLM_F_ACK, &header, &[]).map(drop)
    }

    /// Interfaces that have a qdisc with filters of packets that come in.
    pub(super) fn ingress_qdiscs(&mut self) -> Result<Vec<u32>, RtnlError> {
        let messages =
            self.request(libc::RTM_GETQDISC, libc::NLM_F_DUMP, &tc_header(0, 0, 0, 0), &[])?;
        let mut interfaces = Vec::new();
        for message in messages.iter().filter(|message| message.kind == libc::RTM_NEWQDISC) {
            let (header, attributes) = message.split(TC_HEADER_LENGTH)?;
            let kind = attribute(attributes, TCA_KIND).map(string);
            if matches!(kind.as_deref(), Some("clsact" | "ingress")) {
                interfaces.push(number_at(header, 4));
            }
        }
        Ok(interfaces)
    }

    /// Filters of packets that come in.
    pub(super) fn ingress_filters(&mut self, ifindex: u32) -> Result<Vec<Filter>, RtnlError> {
        self.filters(ifindex, INGRESS)
    }

    /// Filters of packets that go out.
    pub(super) fn egress_filters(&mut self, ifindex: u32) -> Result<Vec<Filter>, RtnlError> {
        self.filters(ifindex, EGRESS)
    }

    fn filters(&mut self, ifindex: u32, parent: u32) -> Result<Vec<Filter>, RtnlError> {
        let header = tc_header(ifindex, 0, parent, 0);
        let messages = self.request(libc::RTM_GETTFILTER, libc::NLM_F_DUMP, &header, &[])?;
        let mut filters = Vec::new();
        for message in messages.iter().filter(|message| message.kind == libc::RTM_NEWTFILTER) {
            let (header, attributes) = message.split(TC_HEADER_LENGTH)?;
            let handle = number_at(header, 8);
            // The kernel also lists the head of each preference, with handle 0.
            if handle == 0 {
                continue;
            }
            let preference = u16::try_from(number_at(header, 16) >> 16).unwrap_or(u16::MAX);
            let is_bpf = attribute(attributes, TCA_KIND).map(string).as_deref() == Some("bpf");
            let options = attribute(attributes, TCA_OPTIONS).filter(|_| is_bpf);
            let program = options.and_then(|options| {
                let name = attribute(options, TCA_BPF_NAME).map(string)?;
                let id = attribute(options, TCA_BPF_ID).map(|value| number_at(value, 0))?;
                Some((name, id))
            });
            filters.push(Filter { place: FilterPlace { preference, handle }, program });
        }
        Ok(filters)
    }

    /// Puts a program on ingress. With `replaces` the filter must be there and gets the program
    /// instead of the one that it has, between two packets; without it must not be there.
    pub(super) fn put_bpf_filter(
        &mut self,
        ifindex: u32,
        place: FilterPlace,
        name: &str,
        program: BorrowedFd<'_>,
        replaces: bool,
    ) -> Result<(), RtnlError> {
        let options = [
            DefaultNla::new(TCA_BPF_FD, program.as_raw_fd().to_ne_bytes().to_vec()),
            text(TCA_BPF_NAME, name),
            DefaultNla::new(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes().to_vec()),
        ];
        let attributes = [text(TCA_KIND, "bpf"), DefaultNla::new(TCA_OPTIONS, emit(&options))];
        let flags =
            libc::NLM_F_ACK | if replaces { 0 } else { libc::NLM_F_CREATE | libc::NLM_F_EXCL };
        let header = tc_header(ifindex, place.handle, INGRESS, filter_info(place.preference));
        self.request(libc::RTM_NEWTFILTER, flags, &header, &attributes).map(drop)
    }

    /// Takes a filter off ingress.
    pub(super) fn delete_filter(
        &mut self,
        ifindex: u32,
        place: FilterPlace,
    ) -> Result<(), RtnlError> {
        let header = tc_header(ifindex, place.handle, INGRESS, filter_info(place.preference));
        let kind = [text(TCA_KIND, "bpf")];
        self.request(libc::RTM_DELTFILTER, libc::NLM_F_ACK, &header, &kind).map(drop)
    }

    /// All interfaces of the namespace.
    pub(super) fn interfaces(&mut self) -> Result<Vec<Interface>, RtnlError> {
        let header = [0; LINK_HEADER_LENGTH];
        let messages = self.request(libc::RTM_GETLINK, libc::NLM_F_DUMP, &header, &[])?;
        let mut interfaces = Vec::new();
        for message in messages.iter().filter(|message| message.kind == libc::RTM_NEWLINK) {
            let (header, attributes) = message.split(LINK_HEADER_LENGTH)?;
            let kind = attribute(attributes, IFLA_LINKINFO)
                .and_then(|information| attribute(information, IFLA_INFO_KIND));
            let device_type = u16::from_ne_bytes([header[2], header[3]]);
            let parent = attribute(attributes, libc::IFLA_LINK).filter(|it| it.len() >= 4);
            let is_vlan = kind.is_some_and(|kind| string(kind) == "vlan");
            interfaces.push(Interface {
                index: number_at(header, 4),
                name: attribute(attributes, IFLA_IFNAME).map(string).unwrap_or_default(),
                is_physical: device_type == ARPHRD_ETHER && kind.is_none(),
                address: attribute(attributes, IFLA_ADDRESS).and_then(|it| it.try_into().ok()),
                master: attribute(attributes, IFLA_MASTER).map(|it| number_at(it, 0)),
                vlan_parent: parent.filter(|_| is_vlan).map(|parent| number_at(parent, 0)),
            });
        }
        Ok(interfaces)
    }

    /// Whether the kernel takes the header of a question for all of something as a filter. Old kernels
    /// know no filters, and answer with all there is.
    pub(super) fn set_filters(&mut self, are_filters: bool) {
        drop(self.socket.set_netlink_get_strict_chk(are_filters));
    }

    /// Sends a request; what is answered, without the acknowledgement. A list that has changed while the
    /// kernel wrote it is asked for again.
    pub(super) fn request(
        &mut self,
        kind: u16,
        flags: libc::c_int,
        header: &[u8],
        attributes: &[DefaultNla],
    ) -> Result<Vec<Message>, RtnlError> {
        let mut tries = LISTS_MAX;
        loop {
            tries -= 1;
            match self.request_once(kind, flags, header, attributes) {
                Err(error) if error.errno() == Some(INTERRUPTED) && tries > 0 => {}
                result => return result,
            }
        }
    }

    fn request_once(
        &mut self,
        kind: u16,
        flags: libc::c_int,
        header: &[u8],
        attributes: &[DefaultNla],
    ) -> Result<Vec<Message>, RtnlError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = vec![0; HEADER_LENGTH];
        message.extend_from_slice(header);
        message.extend_from_slice(&emit(attributes));
        let length = u32::try_from(message.len()).map_err(io::Error::other)?;
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).map_err(io::Error::other)?;
        message[0..4].copy_from_slice(&length.to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&flags.to_ne_bytes());
        message[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.socket.send_to(&message, &SocketAddr::new(0, 0), 0)?;
        self.answers()
    }

    /// Everything up to the acknowledgement or the end of the dump.
    fn answers(&mut self) -> Result<Vec<Message>, RtnlError> {
        let mut messages = Vec::new();
        let mut is_interrupted = false;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while rest.len() >= HEADER_LENGTH {
                let length = (number_at(rest, 0) as usize).clamp(HEADER_LENGTH, rest.len());
                let (message, after) = rest.split_at(length);
                rest = after.get(length.next_multiple_of(4) - length..).unwrap_or_default();
                if number_at(message, 8) != self.sequence {
                    continue;
                }
                let kind = u16::from_ne_bytes([message[4], message[5]]);
                let flags = u16::from_ne_bytes([message[6], message[7]]);
                is_interrupted |= libc::c_int::from(flags) & libc::NLM_F_DUMP_INTR != 0;
                match libc::c_int::from(kind) {
                    libc::NLMSG_DONE if is_interrupted => {
                        return Err(io::Error::from_raw_os_error(INTERRUPTED).into());
                    }
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => return finish(message, messages),
                    libc::NLMSG_NOOP => {}
                    _ => {
                        let payload = message[HEADER_LENGTH..].to_vec();
                        messages.push(Message { kind, payload });
                    }
                }
            }
        }
    }
}

impl Message {
    /// The fixed part and the attributes behind it.
    pub(super) fn split(&self, header_length: usize) -> Result<(&[u8], &[u8]), RtnlError> {
        self.payload.split_at_checked(header_length).ok_or_else(|| {
            io::Error::other(format!("rtnetlink message {} is cut off", self.kind)).into()
        })
    }
}

/// The end of an answer: an error number, 0 for success; with an error possibly a text.
fn finish(message: &[u8], messages: Vec<Message>) -> Result<Vec<Message>, RtnlError> {
    let body = &message[HEADER_LENGTH..];
    let code = if body.len() >= 4 { number_at(body, 0).cast_signed() } else { 0 };
    if code == 0 {
        return Ok(messages);
    }
    // The header of the request follows (NETLINK_CAP_ACK is not set: all of it), then attributes.
    let request_length =
        if body.len() >= 8 { (number_at(body, 4) as usize).next_multiple_of(4) } else { 0 };
    let text = body
        .get(4 + request_length..)
        .and_then(|attributes| attribute(attributes, NLMSGERR_ATTR_MSG))
        .map(string);
    Err(RtnlError { io: io::Error::from_raw_os_error(code.saturating_neg()), text })
}

fn tc_header(ifindex: u32, handle: u32, parent: u32, info: u32) -> [u8; TC_HEADER_LENGTH] {
    let mut header = [0; TC_HEADER_LENGTH];
    for (position, value) in [(4, ifindex), (8, handle), (12, parent), (16, info)] {
        header[position..position + 4].copy_from_slice(&value.to_ne_bytes());
    }
    header
}

fn link_header(ifindex: u32) -> [u8; LINK_HEADER_LENGTH] {
    let mut header = [0; LINK_HEADER_LENGTH];
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header
}

fn filter_info(preference: u16) -> u32 {
    u32::from(preference) << 16 | u32::from(ETH_P_ALL.to_be())
}

fn text(kind: u16, value: &str) -> DefaultNla {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

fn emit(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// One attribute of many.
pub(super) fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == kind)
        .and_then(|attribute| {
            let end = usize::from(attribute.length());
            attribute.into_inner().get(4..end)
        })
}

pub(super) fn string(value: &[u8]) -> String {
    let length = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..length]).into_owned()
}

pub(super) fn number_at(bytes: &[u8], position: usize) -> u32 {
    bytes
        .get(position..position + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}
