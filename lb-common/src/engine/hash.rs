//! The flow hash: which slot of a ring a flow falls on.
//!
//! All nodes of a cluster must compute the same number for the same packet and seed, so the function
//! is part of the ABI. Two rounds of multiply and xor-shift with the constants of `MurmurHash3`'s
//! 64-bit finalizer; not cryptographic, as a client chooses its own backend at worst.

use crate::abi::FlowKeyV4;

const MULTIPLIER_A: u64 = 0xff51_afd7_ed55_8ccd;
const MULTIPLIER_B: u64 = 0xc4ce_b9fe_1a85_ec53;

/// Hash of a flow.
#[inline(always)]
#[must_use]
pub const fn flow_hash_v4(hash_seed: u64, flow: &FlowKeyV4) -> u32 {
    // In wire order on every machine, so that nodes of either byte order agree.
    let addresses = (flow.client.get() as u64) << 32 | flow.vip.get() as u64;
    let ports = (flow.client_port.get() as u64) << 16 | flow.vip_port.get() as u64;
    let mut hash = hash_seed ^ addresses;
    hash = (hash ^ (hash >> 33)).wrapping_mul(MULTIPLIER_A);
    hash ^= ports | (flow.protocol as u64) << 32;
    hash = (hash ^ (hash >> 33)).wrapping_mul(MULTIPLIER_B);
    hash = (hash ^ (hash >> 29)).wrapping_mul(MULTIPLIER_A);
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::abi::{NetU16, NetU32, PROTOCOL_TCP};

    fn flow(client: u32, client_port: u16) -> FlowKeyV4 {
        FlowKeyV4 {
            client: NetU32::new(client),
            vip: Ipv4Addr::new(192, 0, 2, 10).into(),
            client_port: NetU16::new(client_port),
            vip_port: NetU16::new(80),
            protocol: u32::from(PROTOCOL_TCP),
        }
    }

    #[test]
    fn never_changes() {
        let hash = flow_hash_v4(0x0123_4567_89ab_cdef, &flow(0xc633_6401, 40_000));
        assert_eq!(hash, 0xdbca_d01b, "a changed hash moves every flow of every cluster");
    }

    #[test]
    fn consecutive_ports_and_addresses_spread_evenly() {
        const BUCKETS: usize = 64;
        const FLOWS: usize = 64_000;
        for by_port in [true, false] {
            let mut counts = [0_usize; BUCKETS];
            for index in 0..FLOWS {
                let index = u32::try_from(index).expect("small");
                let flow = if by_port {
                    flow(0x0a00_0001, (index % 60_000 + 1024) as u16)
                } else {
                    flow(0x0a00_0000 + index, 40_000)
                };
                let hash = u64::from(flow_hash_v4(7, &flow));
                counts[usize::try_from((hash * BUCKETS as u64) >> 32).expect("small")] += 1;
            }
            // 1000 expected, standard deviation 31: five of them either way.
            for (bucket, count) in counts.iter().enumerate() {
                assert!((840..=1160).contains(count), "bucket {bucket}: {count} of {FLOWS}");
            }
        }
    }
}
