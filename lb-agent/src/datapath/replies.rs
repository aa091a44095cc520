//! The defaults of replies, and the addresses for which none counts.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use aya::{
    Ebpf, Pod,
    maps::{
        HashMap, MapData,
        lpm_trie::{Key, LpmTrie},
    },
};
use lb_common::abi::{
    NetU16, PROTOCOL_TCP, PROTOCOL_UDP, REPLY_DEFAULT_AMBIGUOUS, REPLY_DEFAULT_FOREIGN,
    REPLY_DEFAULT_OTHER_WAYS, ReplyDefaultKeyV4, ReplyDefaultKeyV6, ReplyDefaultV4, ReplyDefaultV6,
    map_names,
};

use super::tables::{Refusal, is_absent, is_present, map_refusal, protocol_number, take};
use crate::{
    model::{IpPrefix, LocalKind, LocalPrefixes, Protocol},
    plan::{KernelState, ReplyDefault, ReplyPort},
};

/// The tables that say what replies without record are translated to.
pub(super) struct Replies {
    defaults_v4: HashMap<MapData, ReplyDefaultKeyV4, ReplyDefaultV4>,
    defaults_v6: HashMap<MapData, ReplyDefaultKeyV6, ReplyDefaultV6>,
    local_v4: LpmTrie<MapData, [u8; 4], u32>,
    local_v6: LpmTrie<MapData, [u8; 16], u32>,
}

impl Replies {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            defaults_v4: HashMap::try_from(take(ebpf, map_names::REPLY_DEFAULTS_V4)?)?,
            defaults_v6: HashMap::try_from(take(ebpf, map_names::REPLY_DEFAULTS_V6)?)?,
            local_v4: LpmTrie::try_from(take(ebpf, map_names::LOCAL_V4)?)?,
            local_v6: LpmTrie::try_from(take(ebpf, map_names::LOCAL_V6)?)?,
        })
    }

    /// One that is replaced may just have been marked by the data path, which knows of flows that are not
    /// ours; so what replaces another always says that there may be some.
    pub(super) fn put_default(
        &mut self,
        port: &ReplyPort,
        default: &ReplyDefault,
    ) -> Result<(), Refusal> {
        let vip_port = NetU16::new(default.vip.port());
        let ReplyDefault { backend, front_ifindex: ifindex, .. } = *default;
        let flags = flags_of(default);
        match (PortKey::of(port), default.vip.ip()) {
            (PortKey::V4(key), IpAddr::V4(vip)) => {
                let vip = vip.into();
                let value = |flags| ReplyDefaultV4 { vip, vip_port, flags, backend, ifindex };
                put(&mut self.defaults_v4, key, flags, value)
            }
            (PortKey::V6(key), IpAddr::V6(vip)) => {
                let vip = vip.into();
                let value =
                    |flags| ReplyDefaultV6 { vip, vip_port, flags, backend, ifindex, reserved: 0 };
                put(&mut self.defaults_v6, key, flags, value)
            }
            _ => Err(format!("{} and {} are of different families", default.vip, port.address)),
        }
    }

    pub(super) fn delete_default(&mut self, port: &ReplyPort) -> Result<(), Refusal> {
        let result = match PortKey::of(port) {
            PortKey::V4(key) => self.defaults_v4.remove(&key),
            PortKey::V6(key) => self.defaults_v6.remove(&key),
        };
        match result {
            Err(error) if !is_absent(&error) => Err(map_refusal(error)),
            _ => Ok(()),
        }
    }

    /// What `LOCAL_*` hold.
    fn local(&self) -> anyhow::Result<LocalPrefixes> {
        let mut local = LocalPrefixes::new();
        let mut add = |address: IpAddr, length: u32, kind| {
            let length = u8::try_from(length).unwrap_or(u8::MAX);
            local.insert(IpPrefix::of(address, length), LocalKind::from_abi(kind));
        };
        for entry in &self.local_v4 {
            let (key, kind) = entry.context("`LOCAL_V4` cannot be read")?;
            add(IpAddr::from(key.data()), key.prefix_len(), kind);
        }
        for entry in &self.local_v6 {
            let (key, kind) = entry.context("`LOCAL_V6` cannot be read")?;
            add(IpAddr::from(key.data()), key.prefix_len(), kind);
        }
        Ok(local)
    }

    pub(super) fn put_local(&mut self, prefix: &IpPrefix, kind: LocalKind) -> Result<(), Refusal> {
        let length = u32::from(prefix.length());
        let kind = kind.to_abi();
        match prefix.address() {
            IpAddr::V4(address) => {
                self.local_v4.insert(&Key::new(length, address.octets()), kind, 0)
            }
            IpAddr::V6(address) => {
                self.local_v6.insert(&Key::new(length, address.octets()), kind, 0)
            }
        }
        .map_err(map_refusal)
    }

    pub(super) fn delete_local(&mut self, prefix: &IpPrefix) -> Result<(), Refusal> {
        let length = u32::from(prefix.length());
        let result = match prefix.address() {
            IpAddr::V4(address) => self.local_v4.remove(&Key::new(length, address.octets())),
            IpAddr::V6(address) => self.local_v6.remove(&Key::new(length, address.octets())),
        };
        match result {
            Err(error) if !is_absent(&error) => Err(map_refusal(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn read(&self, state: &mut KernelState) -> anyhow::Result<()> {
        for entry in &self.defaults_v4 {
            let (key, value) = entry.context("`REPLY_DEFAULTS_V4` cannot be read")?;
            let port = (IpAddr::V4(key.backend.into()), key.backend_port);
            let vip = (IpAddr::V4(value.vip.into()), value.vip_port);
            let rest = (value.flags, value.backend, value.ifindex);
            add(state, key.ifindex, key.protocol, port, vip, rest);
        }
        for entry in &self.defaults_v6 {
            let (key, value) = entry.context("`REPLY_DEFAULTS_V6` cannot be read")?;
            let port = (IpAddr::V6(key.backend.into()), key.backend_port);
            let vip = (IpAddr::V6(value.vip.into()), value.vip_port);
            let rest = (value.flags, value.backend, value.ifindex);
            add(state, key.ifindex, key.protocol, port, vip, rest);
        }
        state.local.extend(self.local()?);
        Ok(())
    }
}

fn flags_of(default: &ReplyDefault) -> u16 {
    let mut flags = 0;
    if default.is_ambiguous {
        flags |= REPLY_DEFAULT_AMBIGUOUS;
    }
    if default.has_other_ways {
        flags |= REPLY_DEFAULT_OTHER_WAYS;
    }
    flags
}

/// `BPF_NOEXIST`.
const ONLY_NEW: u64 = 1;

fn put<K: Pod, V: Pod>(
    defaults: &mut HashMap<MapData, K, V>,
    key: K,
    flags: u16,
    value: impl Fn(u16) -> V,
) -> Result<(), Refusal> {
    let result = match defaults.insert(key, value(flags), ONLY_NEW) {
        Err(error) if is_present(&error) => {
            defaults.insert(key, value(flags | REPLY_DEFAULT_FOREIGN), 0)
        }
        result => result,
    };
    result.map_err(map_refusal)
}

/// A port as a key, by family.
enum PortKey {
    V4(ReplyDefaultKeyV4),
    V6(ReplyDefaultKeyV6),
}

impl PortKey {
    fn of(port: &ReplyPort) -> Self {
        let (ifindex, pad, reserved) = (port.ifindex, 0, 0);
        let protocol = u32::from(protocol_number(port.protocol));
        let backend_port = NetU16::new(port.address.port());
        match port.address.ip() {
            IpAddr::V4(address) => {
                let backend = address.into();
                Self::V4(ReplyDefaultKeyV4 { ifindex, backend, backend_port, pad, protocol })
            }
            IpAddr::V6(address) => {
                let backend = address.into();
                let key =
                    ReplyDefaultKeyV6 { ifindex, backend, backend_port, pad, protocol, reserved };
                Self::V6(key)
            }
        }
    }
}

fn add(
    state: &mut KernelState,
    ifindex: u32,
    protocol: u32,
    (address, port): (IpAddr, NetU16),
    (vip, vip_port): (IpAddr, NetU16),
    (flags, backend, front_ifindex): (u16, u32, u32),
) {
    let protocol = match u8::try_from(protocol) {
        Ok(PROTOCOL_TCP) => Protocol::Tcp,
        Ok(PROTOCOL_UDP) => Protocol::Udp,
        _ => {
            tracing::error!(%address, protocol, "a default of replies that we do not know");
            return;
        }
    };
    let address = SocketAddr::new(address, port.get());
    let default = ReplyDefault {
        vip: SocketAddr::new(vip, vip_port.get()),
        backend,
        front_ifindex,
        is_ambiguous: flags & REPLY_DEFAULT_AMBIGUOUS != 0,
        has_other_ways: flags & REPLY_DEFAULT_OTHER_WAYS != 0,
    };
    state.reply_defaults.insert(ReplyPort { ifindex, address, protocol }, default);
}
