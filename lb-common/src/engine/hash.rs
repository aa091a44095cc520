//! The flow hash: which slot of a ring a flow falls on.
//!
//! All nodes of a cluster must compute the same number for the same packet and seed, so the function
//! is part of the ABI. Two rounds of multiply and xor-shift with the constants of `MurmurHash3`'s
//! 64-bit finalizer; not cryptographic, as a client chooses its own backend at worst.

use super::Tuple;
use crate::abi::{NetAddr6, NetU32};

const MULTIPLIER_A: u64 = 0xff51_afd7_ed55_8ccd;
const MULTIPLIER_B: u64 = 0xc4ce_b9fe_1a85_ec53;

/// Hash of a flow of IPv4. Words in wire order on every machine, so that nodes of either byte order
/// agree.
#[inline(always)]
pub(super) const fn of_flow_v4(hash_seed: u64, flow: &Tuple<NetU32>) -> u32 {
    let addresses = (flow.client.get() as u64) << 32 | flow.server.get() as u64;
    finish(
        hash_seed ^ addresses,
        ports_of(flow.client_port.get(), flow.server_port.get(), flow.protocol),
    )
}

/// Hash of a flow of IPv6.
#[inline(always)]
pub(super) fn of_flow_v6(hash_seed: u64, flow: &Tuple<NetAddr6>) -> u32 {
    let [client_high, client_low] = halves(flow.client);
    let [server_high, server_low] = halves(flow.server);
    let mut hash = mix(hash_seed ^ client_high, MULTIPLIER_A);
    hash = mix(hash ^ client_low, MULTIPLIER_B);
    hash = mix(hash ^ server_high, MULTIPLIER_A);
    finish(
        hash ^ server_low,
        ports_of(flow.client_port.get(), flow.server_port.get(), flow.protocol),
    )
}

/// Hash of a client of IPv4, as far as `prefix_bits` of its address go.
#[inline(always)]
pub(super) const fn of_client_v4(hash_seed: u64, client: NetU32, prefix_bits: u32) -> u32 {
    let mask = if prefix_bits >= 32 { u64::MAX } else { !(0xffff_ffff >> prefix_bits) };
    finish(hash_seed ^ (client.get() as u64 & mask), 0)
}

/// Hash of a client of IPv6, as far as `prefix_bits` of its address go.
#[inline(always)]
pub(super) fn of_client_v6(hash_seed: u64, client: NetAddr6, prefix_bits: u32) -> u32 {
    let [high, low] = halves(client);
    let high_mask = if prefix_bits >= 64 { u64::MAX } else { !(u64::MAX >> prefix_bits) };
    let low_mask = if prefix_bits >= 128 {
        u64::MAX
    } else if prefix_bits <= 64 {
        0
    } else {
        !(u64::MAX >> (prefix_bits - 64))
    };
    finish(mix(hash_seed ^ (high & high_mask), MULTIPLIER_A) ^ (low & low_mask), 0)
}

#[inline(always)]
const fn ports_of(client_port: u16, server_port: u16, protocol: u32) -> u64 {
    (client_port as u64) << 16 | server_port as u64 | (protocol as u64) << 32
}

#[inline(always)]
const fn finish(addresses: u64, ports: u64) -> u32 {
    let mut hash = mix(addresses, MULTIPLIER_A) ^ ports;
    hash = mix(hash, MULTIPLIER_B);
    hash = (hash ^ (hash >> 29)).wrapping_mul(MULTIPLIER_A);
    (hash >> 32) as u32
}

#[inline(always)]
const fn mix(hash: u64, multiplier: u64) -> u64 {
    (hash ^ (hash >> 33)).wrapping_mul(multiplier)
}

/// The two halves of an address as numbers.
#[inline(always)]
fn halves(address: NetAddr6) -> [u64; 2] {
    let words = address.raw();
    [
        u64::from(u32::from_be(words[0])) << 32 | u64::from(u32::from_be(words[1])),
        u64::from(u32::from_be(words[2])) << 32 | u64::from(u32::from_be(words[3])),
    ]
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::abi::{NetU16, PROTOCOL_TCP};

    fn flow(client: u32, client_port: u16) -> Tuple<NetU32> {
        Tuple {
            client: NetU32::new(client),
            server: Ipv4Addr::new(192, 0, 2, 10).into(),
            client_port: NetU16::new(client_port),
            server_port: NetU16::new(80),
            protocol: u32::from(PROTOCOL_TCP),
        }
    }

    #[test]
    fn never_changes() {
        let hash = of_flow_v4(0x0123_4567_89ab_cdef, &flow(0xc633_6401, 40_000));
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
                let hash = u64::from(of_flow_v4(7, &flow));
                counts[usize::try_from((hash * BUCKETS as u64) >> 32).expect("small")] += 1;
            }
            // 1000 expected, standard deviation 31: five of them either way.
            for (bucket, count) in counts.iter().enumerate() {
                assert!((840..=1160).contains(count), "bucket {bucket}: {count} of {FLOWS}");
            }
        }
    }
}
