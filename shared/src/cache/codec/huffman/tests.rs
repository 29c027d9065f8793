//! What a code costs, what it says, and that both ways to write it say the same. That zstd reads it is a test of `lossless`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]
use super::count::count;
use super::*;

/// Bytes of a seed, of which some are much more frequent than others: `steep` times as often as the next.
fn skewed(seed: u64, len: usize, steep: f64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let symbol = |at: f64| (at.ln() / -steep.ln()) as usize;
    (0..len).map(|_| (symbol(next()) % SYMBOLS * 37 % SYMBOLS) as u8).collect()
}

/// The Kraft sum of a complete code is one (Kraft and McMillan), and no code of whole bits is shorter than the entropy.
#[test]
fn codes_are_complete_and_near_the_entropy() {
    for steep in [1.01, 1.2, 1.7, 2.0, 3.0, 20.0] {
        let counts = count(&skewed(7, 100_000, steep));
        let code = Code::of(&counts).unwrap();
        let parts =
            code.bits.iter().filter(|&&bits| bits > 0).map(|&bits| 1usize << (MAX_BITS - bits as usize));
        assert_eq!(parts.sum::<usize>(), 1 << MAX_BITS, "steepness {steep}");
        let share = |&count: &u32| f64::from(count) / 100_000.0;
        let entropy: f64 =
            counts.iter().map(share).filter(|p| *p > 0.0).map(|p| -p * p.log2() * 100_000.0).sum();
        let cost = code.cost(&counts) as f64;
        assert!(cost >= entropy && cost < entropy + 100_000.0, "{cost} bits, entropy {entropy}");
    }
    assert!(Code::of(&count(&[5; 100])).is_none(), "one byte needs no code");
}

/// By hand: of counts 1, 1, 2, 4 the words have 3, 3, 2 and 1 bits; the longest begin at zero.
#[test]
fn words_by_hand() {
    let mut counts = [0; SYMBOLS];
    (counts[10], counts[20], counts[30], counts[40]) = (4, 1, 2, 1);
    let code = Code::of(&counts).unwrap();
    let words = [10, 20, 30, 40].map(|symbol| (code.bits[symbol], code.words[symbol]));
    assert_eq!(words, [(1, 0b1), (3, 0b000), (2, 0b01), (3, 0b001)]);
    assert_eq!(code.cost(&counts), 4 + 3 + 4 + 3);
}

/// Counts that grow like Fibonacci numbers make a tree as deep as it is wide.
#[test]
fn no_word_is_too_long() {
    let (mut counts, mut pair) = ([0; SYMBOLS], (1u32, 1u32));
    for count in counts.iter_mut().take(40) {
        (*count, pair) = (pair.0, (pair.1, pair.0 + pair.1));
    }
    let code = Code::of(&counts).unwrap();
    assert_eq!(code.longest, MAX_BITS);
    let parts = code.bits.iter().filter(|&&bits| bits > 0).map(|&bits| 1usize << (MAX_BITS - bits as usize));
    assert_eq!(parts.sum::<usize>(), 1 << MAX_BITS);
}

#[test]
fn both_ways_write_the_same() {
    for steep in [1.02, 1.5, 2.5] {
        for len in [1, 2, 63, 64, 65, 255, 256, 257, 1023, 5000, 131_072] {
            let literals = skewed(len as u64, len, steep);
            let Some(code) = Code::of(&count(&literals)) else { continue };
            let (mut wide, mut plain) = (Vec::new(), Vec::new());
            Encoder::new(&code).append(&literals, &mut wide);
            Encoder::plain(&code).append(&literals, &mut plain);
            assert!(wide == plain, "{len} bytes, steepness {steep}");
        }
    }
}

/// What was written comes back, and neither fewer nor more bytes, nor from half of it.
#[test]
fn the_decoder_reads_what_the_encoder_wrote() {
    let mut decoder = Decoder::default();
    for steep in [1.005, 1.02, 1.1, 1.5, 2.5, 20.0] {
        for len in [2, 3, 63, 255, 256, 257, 300, 1023, 5000, 40_001, 131_072] {
            let literals = skewed(len as u64, len, steep);
            let Some(code) = Code::of(&count(&literals)) else { continue };
            let Some(description) = code.description() else { continue };
            let mut bytes = description.clone();
            Encoder::new(&code).append(&literals, &mut bytes);
            let streams = decoder.learn(&bytes).unwrap();
            assert!(*streams == bytes[description.len()..], "{len} bytes, steepness {steep}");
            let is_one = len < 256;
            let read = |streams: &[u8], len: usize| {
                let mut out = vec![0; len];
                decoder.decode(streams, is_one, &mut out).map(|()| out)
            };
            assert!(read(streams, len).unwrap() == literals, "{len} bytes, steepness {steep}");
            assert!(read(streams, len - 1).is_none() && read(streams, len + 1).is_none());
            assert!(read(&streams[..streams.len() / 2], len).is_none(), "{len} bytes, steepness {steep}");
        }
    }
    decoder.forget();
    assert!(decoder.decode(&[1; 10], true, &mut [0; 2]).is_none(), "nothing is read without a code");
}

/// By hand: words of 3, 3, 2 and 1 bits have weights 1, 1, 2 and 3, and the last byte's is not told (RFC 8878, 4.2.1).
#[test]
fn weights_by_hand() {
    let read = |bytes: &[u8]| {
        let (weights, size) = read_weights::read_weights(bytes)?;
        Some((weights[..6].to_vec(), size))
    };
    assert_eq!(read(&[127 + 5, 0x10, 0x21, 0x30, 9]), Some((vec![1, 0, 2, 1, 3, 4], 4)));
    assert_eq!(read(&[127 + 3, 0x11, 0x20]), Some((vec![1, 1, 2, 3, 0, 0], 3)));
    // Two words of two bits and one of one, of which the longest would be missing; more cells than a power of two lacks; a
    // word of twelve bits; a description that is cut.
    for refused in
        [&[127 + 1, 0x20][..], &[127 + 3, 0x13, 0x30], &[127 + 2, 0xc1], &[127 + 5, 0x10, 0x21], &[]]
    {
        assert_eq!(read(refused), None, "{refused:02x?}");
    }
}

/// A mantissa is random, an exponent is not.
#[test]
fn what_looks_random() {
    let random: Vec<u8> =
        (0..131_072u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    assert!(looks_random(&random));
    assert!(!looks_random(&skewed(3, 131_072, 1.05)));
    assert!(!looks_random(&random[..10_000]), "what is short is counted");
}
