#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;

#[test]
fn digest_is_blake3_of_the_bytes() {
    // The empty input's BLAKE3, from the test vectors of the BLAKE3 specification.
    let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    assert_eq!(Digest::of(b"").to_string(), empty);
    assert_eq!(empty.parse::<Digest>().unwrap(), Digest::of(b""));
}

#[test]
fn hashes_serialise_as_hexadecimal_and_back() {
    let key = SampleKey::of("[]", &[Digest::of(b"image")]);
    let json = serde_json::to_string(&key).unwrap();
    assert_eq!(json, format!("\"{key}\""));
    assert_eq!(key.to_string().len(), 32);
    assert_eq!(serde_json::from_str::<SampleKey>(&json).unwrap(), key);
    assert_eq!(serde_json::from_reader::<_, SampleKey>(json.as_bytes()).unwrap(), key);
}

#[test]
fn hexadecimal_of_the_wrong_length_or_alphabet_is_refused() {
    let error = "+f".repeat(16).parse::<SampleKey>().unwrap_err().to_string();
    assert!(error.starts_with("expected 32 hexadecimal digits, got `+f"), "{error}");
    assert!("00".parse::<Digest>().is_err());
    assert!("é".repeat(32).parse::<Digest>().is_err());
}

#[test]
fn a_sample_key_depends_on_text_images_and_their_order() {
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let keys = [
        SampleKey::of("x", &[]),
        SampleKey::of("y", &[]),
        SampleKey::of("x", &[a]),
        SampleKey::of("x", &[a, b]),
        SampleKey::of("x", &[b, a]),
    ];
    let distinct: std::collections::HashSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
    assert_eq!(SampleKey::of("x", &[a, b]), keys[3]);
}

#[test]
fn differences_name_changed_added_and_missing_fields() {
    let (mut left, mut right) = (Fingerprint::default(), Fingerprint::default());
    left.insert("same", 1);
    right.insert("same", 1);
    assert_eq!(left.digest(), right.digest());
    left.insert("weights", "aa");
    right.insert("weights", "bb");
    left.insert("old", "x");
    right.insert("new", "y");
    let shown: Vec<_> = left.differences(&right).iter().map(ToString::to_string).collect();
    let expected =
        ["new: expected absent, got y", "old: expected x, got absent", "weights: expected aa, got bb"];
    assert_eq!(shown, expected);
    assert_ne!(left.digest(), right.digest());
}

#[test]
fn a_fingerprint_digest_keeps_names_and_values_apart() {
    let (mut left, mut right) = (Fingerprint::default(), Fingerprint::default());
    left.insert("ab", "c");
    right.insert("a", "bc");
    assert_ne!(left.digest(), right.digest());
}
