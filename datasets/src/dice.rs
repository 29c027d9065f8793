//! Seeded chance with arithmetic of our own, so that a seed means the same bytes on every machine
//! and under every version of the `rand` crates: only ChaCha's specified output is used.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of random choices.
pub struct Dice {
    rng: ChaCha8Rng,
}

impl Dice {
    /// The stream called `name` under `seed`; streams of different names are independent.
    /// Only the first 24 bytes of the name count.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        for (slot, byte) in key[8..].iter_mut().zip(name.bytes()) {
            *slot = byte;
        }
        Self { rng: ChaCha8Rng::from_seed(key) }
    }

    /// A number below `n`, which must not be zero. The bias of the multiplication is below n / 2^64.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.rng.next_u64()) * n as u128) >> 64) as usize
    }

    /// A whole number from `-reach` to `reach`, both included.
    pub fn jitter(&mut self, reach: i32) -> i32 {
        self.below(2 * reach as usize + 1) as i32 - reach
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `items`, if there are any.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() { None } else { Some(items[self.below(items.len())]) }
    }

    /// One of a fixed, non-empty list.
    pub fn one_of<T: Copy, const N: usize>(&mut self, items: [T; N]) -> T {
        items[self.below(N)]
    }

    /// A number with mean 0 and standard deviation 1: twelve uniform ones summed, so that no
    /// logarithm, whose last bit differs between maths libraries, takes part.
    pub fn normal(&mut self) -> f32 {
        let sum: i64 = (0..12).map(|_| (self.rng.next_u64() >> 40) as i64).sum();
        (sum - (6 << 24)) as f32 / (1u32 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ_by_name() {
        let draw = |name| {
            let mut dice = Dice::new(3, name);
            (0..8).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw("a"), draw("a"));
        assert_ne!(draw("a"), draw("b"));
    }

    #[test]
    fn normal_has_the_moments_of_a_standard_normal() {
        let mut dice = Dice::new(1, "moments");
        let draws: Vec<f64> = (0..40_000).map(|_| f64::from(dice.normal())).collect();
        let mean = draws.iter().sum::<f64>() / 40_000.0;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / 40_000.0;
        // Four standard errors of a sample of this size.
        assert!(mean.abs() < 0.02, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.03, "variance {variance}");
    }
}
