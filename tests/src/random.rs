//! Random numbers that are the same everywhere, for tests that name the seed they failed at.

/// SplitMix64 (public domain, Sebastiano Vigna), from its seed.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// 64 random bits: the whole generator.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound.max(1) as u64) as usize
    }

    /// One of several values.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Nearly normal, as features are: the sum of four uniform values, variance 1.
    pub fn normal(&mut self) -> f32 {
        let bits = self.bits();
        let uniform = |shift: u32| ((bits >> shift) & 0xffff) as f32 / 65536.0 - 0.5;
        (uniform(0) + uniform(16) + uniform(32) + uniform(48)) * 1.732_050_8
    }
}
