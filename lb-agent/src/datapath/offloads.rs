//! What a device does to frames before XDP sees them, asked by `SIOCETHTOOL` in the network namespace
//! of the calling thread. Changes nothing.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
/// `ETH_SS_FEATURES`.
const FEATURE_NAMES: u32 = 4;
/// `ETH_GSTRING_LEN`.
const NAME_BYTES: usize = 32;
/// More features than any kernel has: what is read then is not what we think.
const FEATURES_MAX: u32 = 1024;
/// Words in front of the names, and in front of the features.
const NAMES_AT: usize = 3;
const FEATURES_AT: usize = 2;
/// Words about 32 features: those that are available, wanted, active, and never changed.
const FEATURE_WORDS: usize = 4;
const ACTIVE: usize = 2;

/// Features that take a VLAN tag out of a frame, where XDP does not see it.
const STRIPPING: [&[u8]; 2] = [b"rx-vlan-hw-parse", b"rx-vlan-stag-hw-parse"];

/// Whether an interface takes VLAN tags out of the frames that it receives.
pub fn strips_tags(interface: &str) -> io::Result<bool> {
    let device = Device::open(interface)?;
    let count = device.feature_count()?;
    let names = device.feature_names(count)?;
    let active = device.active_features(count)?;
    let is_active =
        |index: usize| active.get(index / 32).is_some_and(|it| it >> (index % 32) & 1 == 1);
    Ok(names
        .iter()
        .enumerate()
        .any(|(index, name)| STRIPPING.contains(&name.as_slice()) && is_active(index)))
}

struct Device {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Device {
    fn open(interface: &str) -> io::Result<Self> {
        let mut name = [0; libc::IFNAMSIZ];
        if interface.len() >= name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (place, byte) in name.iter_mut().zip(interface.bytes()) {
            *place = libc::c_char::from_ne_bytes([byte]);
        }
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        Ok(Self { socket, name })
    }

    fn feature_count(&self) -> io::Result<u32> {
        // Of the sets in the mask the kernel has these; their sizes follow.
        let mut words = [ETHTOOL_GSSET_INFO, 0, 1 << FEATURE_NAMES, 0, 0];
        self.ask(&mut words)?;
        match words[4] {
            count @ 1..=FEATURES_MAX => Ok(count),
            count => Err(io::Error::other(format!("a device with {count} features"))),
        }
    }

    fn feature_names(&self, count: u32) -> io::Result<Vec<Vec<u8>>> {
        let mut words = vec![0; NAMES_AT + count as usize * NAME_BYTES / size_of::<u32>()];
        words[..NAMES_AT].copy_from_slice(&[ETHTOOL_GSTRINGS, FEATURE_NAMES, count]);
        self.ask(&mut words)?;
        let bytes: Vec<u8> = words[NAMES_AT..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let name = |field: &[u8]| field.iter().copied().take_while(|&byte| byte != 0).collect();
        Ok(bytes.chunks(NAME_BYTES).map(name).collect())
    }

    /// A bit for each feature.
    fn active_features(&self, count: u32) -> io::Result<Vec<u32>> {
        let blocks = count.div_ceil(32);
        let mut words = vec![0; FEATURES_AT + blocks as usize * FEATURE_WORDS];
        words[..FEATURES_AT].copy_from_slice(&[ETHTOOL_GFEATURES, blocks]);
        self.ask(&mut words)?;
        Ok(words[FEATURES_AT..].chunks(FEATURE_WORDS).map(|block| block[ACTIVE]).collect())
    }

    /// The kernel writes no more than what the request in the first words has room for.
    fn ask(&self, words: &mut [u32]) -> io::Result<()> {
        let mut request = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: words.as_mut_ptr().cast() },
        };
        // SAFETY: the request and what it points to live until the call returns, and the callers' words
        // have the sizes that they state.
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::strips_tags;

    #[test]
    fn absent_devices_are_told() {
        for name in ["", "absent0", "a-name-that-is-too-long-for-any"] {
            assert!(strips_tags(name).is_err(), "{name}");
        }
    }
}
