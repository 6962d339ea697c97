//! A small seeded random generator (splitmix64) for retry jitter and scripted faults. Not cryptographically secure.

/// Yields the same numbers for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeds from the system's randomness, or from a stack address when the system has none.
    pub(crate) fn from_system() -> Self {
        let stack_byte = 0u8;
        Self(getrandom::u64().unwrap_or(std::ptr::addr_of!(stack_byte).addr() as u64))
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A uniform number in `[0, 1)`.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_uniform_numbers() {
        let (mut a, mut b) = (SplitMix64::new(7), SplitMix64::new(7));
        let mut sum = 0.0;
        for _ in 0..1000 {
            let x = a.fraction();
            assert!((0.0..1.0).contains(&x));
            assert_eq!(x.to_bits(), b.fraction().to_bits());
            sum += x;
        }
        assert!((400.0..600.0).contains(&sum), "{sum}");
    }
}
