//! The feature cache: its format, writer and reader.
