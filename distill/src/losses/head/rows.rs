//! The chunks on the CPU: products on slices, then one vectorised pass per row of logits.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;
use shared::models::layers::cpu::math::{exp, exp_sum, max};
use shared::models::layers::cpu::{Mat, MatMut, Product, matmul, parallelism, with_slices};

use super::{HeadLossOptions, Problem, Sums, Weight};
use crate::losses::divergence::term;
use crate::losses::frozen_head::Values;

/// Scores all chunks and forms the wanted gradients.
pub(super) fn solve(problem: &Problem) -> Result<Sums> {
    let (v, d) = problem.dims;
    // A placeholder where there is no teacher: never read.
    let teacher = problem.teacher.as_ref().unwrap_or(&problem.features);
    let has_teacher = problem.teacher.is_some();
    let sums = match &problem.head {
        Weight::Tensor(head) => with_slices([&problem.features, head, teacher], |[x, w, z]| {
            Slices { x, w: Values::Slice(w), z: has_teacher.then_some(z), v, d }.solve(problem)
        }),
        Weight::Mapped(head) => with_slices([&problem.features, teacher], |[x, z]| {
            Slices { x, w: Values::Mapped(head), z: has_teacher.then_some(z), v, d }.solve(problem)
        }),
    }?;
    let cpu = &Device::Cpu;
    Ok(Sums {
        ce: sums.ce,
        kl: sums.kl,
        features: sums.gx.map(|g| Tensor::from_vec(g, (problem.targets.len(), d), cpu)).transpose()?,
        head: sums.gw.map(|g| Tensor::from_vec(g, (v, d), cpu)).transpose()?,
    })
}

/// Features x (N, D), head w (V, D), teacher features z (N, D).
struct Slices<'a> {
    x: &'a [f32],
    w: Values<'a>,
    z: Option<&'a [f32]>,
    v: usize,
    d: usize,
}

struct RawSums {
    ce: f64,
    kl: f64,
    gx: Option<Vec<f32>>,
    gw: Option<Vec<f32>>,
}

impl Slices<'_> {
    fn solve(&self, problem: &Problem) -> Result<RawSums> {
        let (tokens, v, d) = (problem.targets.len(), self.v, self.d);
        let rows = problem.chunk.min(tokens);
        let mut logits = vec![0f32; rows * v];
        let mut teacher = vec![0f32; if self.z.is_some() { rows * v } else { 0 }];
        let mut tile = Vec::new();
        let mut sums = RawSums {
            ce: 0.0,
            kl: 0.0,
            gx: problem.wants.features.then(|| vec![0f32; tokens * d]),
            gw: problem.wants.head.then(|| vec![0f32; v * d]),
        };
        for start in (0..tokens).step_by(rows.max(1)) {
            let n = rows.min(tokens - start);
            let x = Mat::new(&self.x[start * d..], n, d, d);
            let z = self.z.map(|z| Mat::new(&z[start * d..], n, d, d));
            self.w.for_each_tile((v, d), &mut tile, |tokens, w| {
                let (w, count) = (Mat::new(w, tokens.len(), d, d).t(), tokens.len());
                let out = MatMut::new(&mut logits[tokens.start..], n, count, v);
                matmul(out, Product::of(x, w).on(parallelism()));
                if let Some(z) = z {
                    let out = MatMut::new(&mut teacher[tokens.start..], n, count, v);
                    matmul(out, Product::of(z, w).on(parallelism()));
                }
            })?;
            let targets = &problem.targets[start..start + n];
            let (ce, kl) = score_rows(&mut logits[..n * v], &teacher, targets, v, &problem.options);
            sums.ce += ce;
            sums.kl += kl;
            if let Some(gx) = &mut sums.gx {
                self.w.for_each_tile((v, d), &mut tile, |tokens, w| {
                    let gradient = Mat::new(&logits[tokens.start..], n, tokens.len(), v);
                    let (w, keep) = (Mat::new(w, tokens.len(), d, d), f32::from(tokens.start > 0));
                    let product = Product { keep, ..Product::of(gradient, w).on(parallelism()) };
                    matmul(MatMut::new(&mut gx[start * d..], n, d, d), product);
                })?;
            }
            if let Some(gw) = &mut sums.gw {
                let gradient = Mat::new(&logits, n, v, v);
                matmul(MatMut::new(gw, v, d, d), Product::of(gradient.t(), x).added().on(parallelism()));
            }
        }
        Ok(sums)
    }
}

/// Scores a chunk and turns its logits into their gradient; returns (ce, kl), summed over rows in order.
fn score_rows(
    logits: &mut [f32],
    teacher: &[f32],
    targets: &[u32],
    v: usize,
    options: &HeadLossOptions,
) -> (f64, f64) {
    let scores: Vec<(f64, f64)> = if teacher.is_empty() {
        let rows = logits.par_chunks_mut(v).zip(targets);
        rows.map(|(row, &target)| (cross_entropy(row, target as usize, options.ce_weight as f32), 0.0))
            .collect()
    } else {
        let rows = logits.par_chunks_mut(v).zip(teacher.par_chunks(v)).zip(targets);
        rows.map(|((row, teacher), &target)| both(row, teacher, target as usize, options)).collect()
    };
    scores.iter().fold((0.0, 0.0), |(ce, kl), row| (ce + row.0, kl + row.1))
}

/// Cross entropy of one row, which becomes its gradient times `weight`.
fn cross_entropy(row: &mut [f32], target: usize, weight: f32) -> f64 {
    let (shift, at_target) = (maximum(row), row[target]);
    let total = shifted_exp(row, shift);
    rescale(row, weight / total);
    row[target] -= weight;
    f64::from(shift) + f64::from(total).ln() - f64::from(at_target)
}

/// Both terms of one row, which becomes the gradient of their weighted sum.
fn both(row: &mut [f32], teacher: &[f32], target: usize, options: &HeadLossOptions) -> (f64, f64) {
    let (t, ce_weight, kl_weight) =
        (options.temperature as f32, options.ce_weight as f32, options.kl_weight as f32);
    let at_target = row[target];
    let shift = maximum(row);
    let total = exp_total(row, shift, 1.0);
    let ce = f64::from(shift) + f64::from(total).ln() - f64::from(at_target);
    let soft_total = if t == 1.0 { total } else { exp_total(row, shift, 1.0 / t) };
    let teacher_shift = maximum(teacher);
    let teacher_total = exp_total(teacher, teacher_shift, 1.0 / t);
    let factors = Factors {
        inverse_t: 1.0 / t,
        shift,
        hard: ce_weight / total,
        soft_inverse: 1.0 / soft_total,
        teacher_shift,
        teacher_inverse: 1.0 / teacher_total,
        log_ratio: (f64::from(teacher_total).ln() - f64::from(soft_total).ln()) as f32,
        soft_weight: kl_weight * t,
    };
    let kl = f64::from(combine(row, teacher, &factors));
    row[target] -= ce_weight;
    (ce, kl * f64::from(t) * f64::from(t))
}

/// What [`combine`] multiplies and shifts by.
struct Factors {
    inverse_t: f32,
    shift: f32,
    hard: f32,
    soft_inverse: f32,
    teacher_shift: f32,
    teacher_inverse: f32,
    /// log (Z_p / Z_q), of the softmaxes' sums at the temperature.
    log_ratio: f32,
    soft_weight: f32,
}

shared::vectorised! {
    fn maximum(row: &[f32]) -> f32 {
        max(row)
    }
}

shared::vectorised! {
    fn shifted_exp(row: &mut [f32], shift: f32) -> f32 {
        exp_sum(row, shift)
    }
}

shared::vectorised! {
    fn rescale(row: &mut [f32], by: f32) {
        for x in row {
            *x *= by;
        }
    }
}

shared::vectorised! {
    /// Sum of e^((x - shift) by), in eight lanes.
    fn exp_total(row: &[f32], shift: f32, by: f32) -> f32 {
        let mut lanes = [0f32; 8];
        let (chunks, rest) = row.as_chunks::<8>();
        for chunk in chunks {
            for i in 0..8 {
                lanes[i] += exp((chunk[i] - shift) * by);
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += exp((x - shift) * by);
        }
        lanes.iter().sum()
    }
}

shared::vectorised! {
    /// Replaces logits by the gradient of both terms, the target's 1 left out; returns KL(p || q).
    fn combine(row: &mut [f32], teacher: &[f32], f: &Factors) -> f32 {
        let mut lanes = [0f32; 8];
        let (rows, row_rest) = row.as_chunks_mut::<8>();
        let (teachers, teacher_rest) = teacher.as_chunks::<8>();
        for (row, teacher) in rows.iter_mut().zip(teachers) {
            for i in 0..8 {
                lanes[i] += combine_one(&mut row[i], teacher[i], f);
            }
        }
        for ((x, &z), lane) in row_rest.iter_mut().zip(teacher_rest).zip(&mut lanes) {
            *lane += combine_one(x, z, f);
        }
        lanes.iter().sum()
    }
}

#[inline(always)]
fn combine_one(x: &mut f32, z: f32, f: &Factors) -> f32 {
    let r = *x - f.shift;
    let z = (z - f.teacher_shift) * f.inverse_t;
    let soft = r * f.inverse_t;
    let (p, q) = (exp(z) * f.teacher_inverse, exp(soft) * f.soft_inverse);
    *x = exp(r) * f.hard + (q - p) * f.soft_weight;
    term(p, q, soft - z + f.log_ratio)
}
