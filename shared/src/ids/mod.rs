//! Identity by content: sample keys, image digests and fingerprints.
