//! Elementary functions in plain arithmetic, so that loops over them vectorise, and sums in eight lanes.
//!
//! The coefficients are our own least-squares fits in Chebyshev nodes, computed with 40 digits.

use super::vectorised;

/// Lanes of a sum: one AVX2 register; the baseline build adds in the same order.
const LANES: usize = 8;

/// e^x, within 1.2e-7 relative; 0 below -87.3, at most e^88.3, NaN for NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOW: f32 = -87.3;
    const HIGH: f32 = 88.3;
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with few enough bits that its multiples are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < LOW { LOW } else { x };
    let clamped = if clamped > HIGH { HIGH } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let r2 = r * r;
    let q = ((0.001_394_645_8 * r + 0.008_369_159) * r + 0.041_666_26) * r + 0.166_665_17;
    let y = ((q * r + 0.5) * r2 + r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    if x < LOW { 0.0 } else { y * power }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// (Phi(x), phi(x)): the normal distribution function, within 3e-7 relative in the lower tail, and its density.
#[inline(always)]
pub fn normal(x: f32) -> (f32, f32) {
    // erfc(z) = e^(-z^2) t P(t) with t = 1 / (1 + z / 2), z = |x| / sqrt 2.
    let t = 1.0 / (1.0 + x.abs() * (0.5 * std::f32::consts::FRAC_1_SQRT_2));
    let bell = exp(-0.5 * x * x);
    let mut p = 0.034_568_69;
    p = p * t - 0.183_895_29;
    p = p * t + 0.362_766_06;
    p = p * t - 0.261_485_8;
    p = p * t - 0.048_941_605;
    p = p * t + 0.052_609_35;
    p = p * t + 0.047_517_37;
    p = p * t + 0.187_676_61;
    p = p * t + 0.244_807_6;
    p = p * t + 0.282_290_13;
    p = p * t + 0.282_086_88;
    let tail = 0.5 * bell * t * p;
    let phi = bell * (std::f32::consts::FRAC_2_SQRT_PI * 0.5 * std::f32::consts::FRAC_1_SQRT_2);
    (if x < 0.0 { tail } else { 1.0 - tail }, phi)
}

/// Adds lanes in pairs.
#[inline(always)]
fn fold(lanes: [f32; LANES]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Sum of x\[i\] * y\[i\].
#[inline(always)]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *lane += x * y;
    }
    fold(lanes)
}

/// Sum of x\[i\].
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (xs, rest) = x.as_chunks::<LANES>();
    for x in xs {
        for i in 0..LANES {
            lanes[i] += x[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    fold(lanes)
}

/// The largest x\[i\], -inf for none.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (xs, rest) = x.as_chunks::<LANES>();
    for x in xs {
        for i in 0..LANES {
            lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
        }
    }
    let rest = rest.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    lanes.iter().fold(rest, |a, &b| if b > a { b } else { a })
}

/// Replaces x\[i\] by e^(x\[i\] - shift); returns their sum. Two passes, as the mixed one does not vectorise.
#[inline(always)]
pub fn exp_sum(x: &mut [f32], shift: f32) -> f32 {
    for x in x.iter_mut() {
        *x = exp(*x - shift);
    }
    sum(x)
}

/// Multiplies every x\[i\].
#[inline(always)]
pub fn scale(x: &mut [f32], by: f32) {
    for x in x {
        *x *= by;
    }
}

vectorised! {
    /// Softmax of one row in place.
    pub fn softmax(row: &mut [f32]) {
        let total = exp_sum(row, max(row));
        scale(row, 1.0 / total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        // Expected: f64's exp of the standard library.
        let worst = (-87_000..88_000)
            .map(|i| i as f32 * 1e-3 + 1.3e-4)
            .map(|x| (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs())
            .fold(0.0, f64::max);
        assert!(worst < 1.5e-7, "{worst:e}");
        assert_eq!((exp(0.0), exp(-100.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(exp(f32::NAN).is_nan() && exp(200.0).is_finite());
    }

    #[test]
    fn normal_distribution_matches_known_values() {
        // Expected: Abramowitz & Stegun, table 26.1, and symmetry.
        for (x, expected) in [(0.0, 0.5), (0.5, 0.691_462_46), (1.0, 0.841_344_75), (2.0, 0.977_249_87)] {
            assert!((f64::from(normal(x).0) - expected).abs() < 1e-7, "{x}");
            assert!((f64::from(normal(-x).0) - (1.0 - expected)).abs() < 1e-7, "-{x}");
        }
        // Lower tail, from the same table: Q(3), Q(4), Q(5).
        for (x, expected) in [(3.0, 1.349_898_032e-3), (4.0, 3.167_124_183e-5), (5.0, 2.866_515_719e-7)] {
            assert!((f64::from(normal(-x).0) / expected - 1.0).abs() < 2e-6, "-{x}: {}", normal(-x).0);
        }
        assert!((normal(1.0).1 - 0.241_970_72).abs() < 1e-7);
    }

    #[test]
    fn sums_take_every_element_once() {
        for n in [0, 1, 7, 8, 9, 31] {
            let x: Vec<f32> = (1..=n).map(|i| i as f32).collect();
            assert_eq!(sum(&x), (n * (n + 1) / 2) as f32);
            assert_eq!(dot(&x, &x), (n * (n + 1) * (2 * n + 1) / 6) as f32);
            assert_eq!(max(&x), if n == 0 { f32::NEG_INFINITY } else { n as f32 });
        }
    }
}
