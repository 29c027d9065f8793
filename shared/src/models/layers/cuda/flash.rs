//! Flash attention (arXiv 2307.08691) over packed segments, by candle-flash-attn: which attention it serves, and how.

#[cfg(any(test, feature = "flash-attn"))]
use candle_core::DType;
#[cfg(feature = "cuda")]
use candle_core::{Result, Tensor};

use super::super::Segments;
use super::super::attention::Mask;

/// The kernels that shared/build_cuda.sh had compiled, such as `hdim64_bf16_causal`; a build that names none has all.
#[cfg(feature = "flash-attn")]
const COMPILED: Option<&str> = option_env!("FLASH_KERNELS");

/// Head widths that kernels are made for; each serves the widths down to the one before it.
#[cfg(any(test, feature = "flash-attn"))]
const WIDTHS: [usize; 8] = [32, 64, 96, 128, 160, 192, 224, 256];

/// Its result, or none where it does not serve.
#[cfg(feature = "flash-attn")]
pub(super) fn attention(
    [q, k, v]: [&Tensor; 3],
    segments: &Segments,
    mask: Mask,
    scale: f64,
) -> Result<Option<Tensor>> {
    let is_causal = match mask {
        Mask::Full => false,
        Mask::Causal => true,
        Mask::Sights(_) => return Ok(None),
    };
    let width = q.dim(2)?;
    let Some(padded) = served_width(width, q.dtype(), is_causal, COMPILED) else { return Ok(None) };
    if q.dim(0)? == 0 {
        return Ok(None);
    }
    let pad =
        |x: &Tensor| if padded == width { Ok(x.clone()) } else { x.pad_with_zeros(2, 0, padded - width) };
    let bounds = |cu: &[usize]| -> Result<(Tensor, usize)> {
        let longest = cu.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        let cu: Vec<u32> = cu.iter().map(|&bound| bound as u32).collect();
        Ok((Tensor::new(cu, q.device())?, longest))
    };
    let ((cu_q, most_q), (cu_kv, most_kv)) = (bounds(segments.q)?, bounds(segments.kv)?);
    let (q, k, v) = (pad(q)?, pad(k)?, pad(v)?);
    let y = candle_flash_attn::flash_attn_varlen(
        &q,
        &k,
        &v,
        &cu_q,
        &cu_kv,
        most_q,
        most_kv,
        scale as f32,
        is_causal,
    )?;
    // Columns of zeros add nothing to a score, and make columns of zeros.
    if padded == width { Ok(Some(y)) } else { y.narrow(2, 0, width)?.contiguous().map(Some) }
}

/// None: this build has no flash attention.
#[cfg(all(feature = "cuda", not(feature = "flash-attn")))]
pub(super) fn attention(_: [&Tensor; 3], _: &Segments, _: Mask, _: f64) -> Result<Option<Tensor>> {
    Ok(None)
}

/// The head width to pad to, which is the own one where a kernel takes it; none where no kernel does.
#[cfg(any(test, feature = "flash-attn"))]
fn served_width(width: usize, dtype: DType, is_causal: bool, compiled: Option<&str>) -> Option<usize> {
    let dtype = match dtype {
        DType::BF16 => "bf16",
        DType::F16 => "fp16",
        _ => return None,
    };
    let suffix = if is_causal { "_causal" } else { "" };
    let is_compiled = |kernel: usize| {
        let name = format!("hdim{kernel}_{dtype}{suffix}");
        compiled.is_none_or(|list| list.split_whitespace().any(|compiled| compiled == name))
    };
    let kernel = WIDTHS.into_iter().find(|&kernel| kernel >= width && is_compiled(kernel))?;
    let takes_it = width.is_multiple_of(8) && width > kernel - 32;
    Some(if takes_it { width } else { kernel })
}

/// The simplest mask that says the same: a window that is longer than all segments is none.
pub(super) fn simplest<'a>(mask: Mask<'a>, segments: &Segments) -> Mask<'a> {
    let Mask::Sights(sights) = mask else { return mask };
    let says = |other: Mask| {
        segments.ranges().all(|(queries, keys)| {
            let (n, m) = (queries.len(), keys.len());
            n <= m && queries.enumerate().all(|(i, query)| sights[query] == other.sight(query, i, n, m))
        })
    };
    [Mask::Causal, Mask::Full].into_iter().find(|other| says(*other)).unwrap_or(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What shared/build_cuda.sh compiles unless it is told otherwise.
    const DEFAULT: &str = "hdim64_bf16 hdim64_bf16_causal hdim96_bf16 hdim128_bf16 hdim128_bf16_causal";

    #[test]
    fn the_families_heads_are_served() {
        let vision = |width| served_width(width, DType::BF16, false, Some(DEFAULT));
        // 64: CLIP, InternViT-300M; 72: SigLIP; 80: Qwen2-VL; 128: InternViT-6B. None of them is padded.
        assert_eq!([64, 72, 80, 128].map(vision), [Some(64), Some(72), Some(80), Some(128)]);
        let text = |width| served_width(width, DType::BF16, true, Some(DEFAULT));
        assert_eq!([64, 128].map(text), [Some(64), Some(128)]);
        // A width between goes to the next kernel, which takes it as it is if it is the kernel's own; narrow ones are padded.
        assert_eq!([96, 80, 16, 20, 33].map(text), [Some(128), Some(128), Some(64), Some(64), Some(64)]);
        assert_eq!(text(256), None, "Gemma's heads go in chunks");
        assert_eq!(served_width(64, DType::F16, true, Some(DEFAULT)), None);
        assert_eq!(served_width(64, DType::F32, true, None), None);
        assert_eq!(served_width(256, DType::F16, true, None), Some(256), "a build of all kernels");
    }

    #[test]
    fn a_window_longer_than_the_segments_is_none() {
        let segments = Segments::same(&[0, 2, 5]);
        let simple = |sights: &[[usize; 2]]| match simplest(Mask::Sights(sights), &segments) {
            Mask::Full => "full",
            Mask::Causal => "causal",
            Mask::Sights(_) => "sights",
        };
        assert_eq!(simple(&[[0, 1], [0, 2], [0, 1], [0, 2], [0, 3]]), "causal");
        assert_eq!(simple(&[[0, 2], [0, 2], [0, 3], [0, 3], [0, 3]]), "full");
        assert_eq!(simple(&[[0, 1], [0, 2], [0, 1], [0, 2], [1, 3]]), "sights");
    }
}
