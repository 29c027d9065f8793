//! Attention in chunks against its plain twin, values and gradients.

use super::super::attention::Mask;
use super::super::chunked::Chunked;
use super::*;

/// The operation as a GPU has it, with a forward pass in chunks of at most `scores` scores.
fn in_chunks(x: &[Tensor], segments: &Segments, mask: Mask, scale: f64, scores: usize) -> Result<Tensor> {
    let chunked = Chunked::new(segments, mask, scale).within(scores);
    let y = chunked.forward(&x[0].detach(), &x[1].detach(), &x[2].detach())?;
    chunked.differentiable(&x[0], &x[1], &x[2], y)
}

#[test]
fn attention_in_chunks_matches_its_twin() {
    // Segments without a query and without anything, with a cache before the queries, and of several chunks; two heads to a group.
    let segments = Segments { q: &[0, 3, 3, 3, 43], kv: &[0, 3, 5, 5, 50] };
    let window = |i: usize| [i.saturating_sub(2), if (2..6).contains(&i) { 6 } else { i + 1 }];
    let sights: Vec<Sight> = (0..3).map(|i| [0, i + 1]).chain((0..40).map(window)).collect();
    let shapes: [&[usize]; 3] = [&[43, 4, 6], &[50, 2, 6], &[50, 2, 6]];
    for mask in [Mask::Full, Mask::Causal, Mask::Sights(&sights)] {
        // One query at a time, some, all.
        for scores in [1, 1000, 1 << 20] {
            compare(&shapes, &|x| in_chunks(x, &segments, mask, 0.4, scores), &|x| {
                plain::masked_attention(&x[0], &x[1], &x[2], &segments, mask, 0.4)
            });
        }
    }
}

#[test]
fn what_asks_for_no_gradient_gets_no_graph() {
    let x = Noise(12).tensor(&[3, 2, 4]);
    let y = in_chunks(&[x.clone(), x.clone(), x.clone()], &Segments::same(&[0, 3]), Mask::Causal, 0.5, 100);
    assert!(!y.unwrap().track_op());
    let x = Var::from_tensor(&x).unwrap().as_tensor().clone();
    let y = in_chunks(&[x.clone(), x.detach(), x.detach()], &Segments::same(&[0, 3]), Mask::Causal, 0.5, 100);
    assert!(y.unwrap().track_op());
}
