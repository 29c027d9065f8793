//! Caches of format version 1, written once by `make_cache_fixture`, must open forever.

use std::fs;
use std::path::Path;

use shared::cache::{CacheReader, FORMAT_VERSION, verify};

use crate::{WIDTH, assert_holds, rows};

#[test]
fn caches_of_version_1_open_forever() {
    assert_eq!(
        FORMAT_VERSION, 1,
        "a new version needs a fixture of its own; the old one stays and must still open"
    );
    for (name, dtype, codec) in rows::FIXTURES {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cache_v1").join(name);
        let mut expected = rows::rows(1, 12, dtype, WIDTH);
        expected.iter_mut().for_each(|row| row.features = codec.rounded(&row.features));
        assert_holds(&dir, &expected);
        let reader = CacheReader::open(&dir).unwrap();
        assert_eq!(reader.quarantined().unwrap(), rows::quarantined());
        // The values that Python's readers are compared with, see tests/peers/cache.py.
        let (mut all, mut one) = (Vec::new(), Vec::new());
        for i in 0..reader.len() {
            reader.features_f32(i, &mut one).unwrap();
            all.extend(one.iter().flat_map(|value| value.to_le_bytes()));
        }
        assert!(all == fs::read(dir.with_extension("expected")).unwrap());
        assert!(verify(&dir, |_, _| ()).unwrap().problems.is_empty());
    }
}
