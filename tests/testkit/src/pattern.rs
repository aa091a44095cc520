//! The bytes that are sent, which both ends can compute: a hole, a repeat or a changed bit shows.

/// Endless reproducible bytes.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    seed: u64,
    offset: u64,
}

impl Pattern {
    /// The stream of bytes that belongs to the seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, offset: 0 }
    }

    /// Writes the next bytes.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        let mut word = self.word();
        for byte in buffer {
            if self.offset.is_multiple_of(8) {
                word = self.word();
            }
            *byte = word[usize::try_from(self.offset % 8).unwrap_or(0)];
            self.offset += 1;
        }
    }

    /// The eight bytes around the current offset.
    fn word(&self) -> [u8; 8] {
        mix(self.seed ^ (self.offset / 8)).to_le_bytes()
    }

    /// Checks that these are the next bytes; else the offset of the first wrong one in the stream.
    pub(crate) fn check(&mut self, received: &[u8]) -> Result<(), u64> {
        let start = self.offset;
        let mut expected = vec![0; received.len()];
        self.fill(&mut expected);
        if expected == received {
            return Ok(());
        }
        let right = expected.iter().zip(received).take_while(|(a, b)| a == b).count();
        Err(start + right as u64)
    }
}

/// The finaliser of splitmix64.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a over a stream: the sum that both ends print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sum(u64);

impl Default for Sum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Sum {
    /// Adds bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The sum so far.
    pub(crate) fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Pattern, Sum};

    #[test]
    fn any_cut_of_a_stream_checks() {
        let mut whole = vec![0; 1000];
        Pattern::new(7).fill(&mut whole);
        for cut in [1, 7, 8, 9, 64, 333] {
            let mut pattern = Pattern::new(7);
            assert!(whole.chunks(cut).all(|chunk| pattern.check(chunk).is_ok()), "cut {cut}");
        }
    }

    #[test]
    fn a_changed_byte_is_found_at_its_offset() {
        let mut whole = vec![0; 100];
        Pattern::new(7).fill(&mut whole);
        whole[61] ^= 1;
        let mut pattern = Pattern::new(7);
        assert_eq!(pattern.check(&whole[..50]), Ok(()));
        assert_eq!(pattern.check(&whole[50..]), Err(61));
    }

    #[test]
    fn sum_is_fnv_1a() {
        let mut sum = Sum::default();
        sum.add(b"foobar");
        assert_eq!(sum.value(), 0x8594_4171_f739_67e8);
    }
}
