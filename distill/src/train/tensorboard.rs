//! Scalars as a TensorBoard event file.
//!
//! Such a file is a sequence of TFRecords: length (u64), its masked CRC-32C, the bytes, their masked CRC-32C, all
//! little endian. The bytes are `Event` protocol buffers, of which we write three fields by hand.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use super::append_file::AppendFile;

/// The one file of a run; TensorBoard looks for `tfevents` in the name.
pub const FILE_NAME: &str = "events.out.tfevents.0.distill";

/// Appends scalars to the event file of a run.
#[derive(Debug)]
pub struct EventWriter {
    file: AppendFile,
}

impl EventWriter {
    /// Opens the file, cut to the `num_bytes` that a checkpoint vouches for. With 0, and where the file is shorter because
    /// somebody removed it, it begins anew: TensorBoard shows what follows.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(dir: &Path, num_bytes: u64) -> Result<Self> {
        let path = dir.join(FILE_NAME);
        let mut file = AppendFile::open(&path, num_bytes)?;
        if file.num_bytes() < num_bytes {
            file = AppendFile::open(&path, 0)?;
        }
        let mut writer = Self { file };
        if writer.num_bytes() == 0 {
            let mut event = event_head(0);
            put_bytes(&mut event, 3, b"brain.Event:2");
            writer.write_record(&event)?;
        }
        Ok(writer)
    }

    /// Appends the scalars of a step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, tag.as_bytes());
            put_key(&mut entry, 2, 5);
            entry.extend_from_slice(&(*value as f32).to_le_bytes());
            put_bytes(&mut summary, 1, &entry);
        }
        let mut event = event_head(step);
        put_bytes(&mut event, 5, &summary);
        self.write_record(&event)
    }

    /// Bytes in the file; what a checkpoint keeps.
    #[must_use]
    pub fn num_bytes(&self) -> u64 {
        self.file.num_bytes()
    }

    /// Brings the file to the disk.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    fn write_record(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_crc(&length).to_le_bytes());
        record.extend_from_slice(data);
        record.extend_from_slice(&masked_crc(data).to_le_bytes());
        self.file.append(&record)
    }
}

/// TensorFlow's mask keeps the checksum of data that holds checksums from being trivial.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// An event's wall time (field 1, double) and step (field 2, varint).
fn event_head(step: u64) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let mut event = Vec::new();
    put_key(&mut event, 1, 1);
    event.extend_from_slice(&now.to_le_bytes());
    put_key(&mut event, 2, 0);
    put_varint(&mut event, step);
    event
}

fn put_key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    put_varint(out, field << 3 | wire_type);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(out, field, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    //! A failed unwrap is a failed test.
    #![allow(clippy::unwrap_used)]
    use super::*;

    // The record's layout and the protocol buffer's bytes, field by field, from their specifications. These very
    // bytes, put together in Python, were read by tensorboard 2.21 as `loss` 1.5 at step 300.
    #[test]
    fn records_are_framed_and_encoded_as_specified() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::open(dir.path(), 0).unwrap();
        let head = writer.num_bytes();
        writer.scalars(300, &[("loss", 1.5)]).unwrap();
        let bytes = std::fs::read(dir.path().join(FILE_NAME)).unwrap();
        assert_eq!(bytes.len() as u64, writer.num_bytes());
        let record = &bytes[head as usize..];
        assert_eq!(record[..8], 27u64.to_le_bytes());
        assert_eq!(record[8..12], masked_crc(&record[..8]).to_le_bytes());
        let event = &record[12..39];
        assert_eq!(record[39..], masked_crc(event).to_le_bytes());
        assert_eq!(event[0], 0x09);
        assert_eq!(event[9..12], [0x10, 0xac, 0x02]);
        assert_eq!(event[12..16], [0x2a, 13, 0x0a, 11]);
        assert_eq!(&event[16..22], b"\x0a\x04loss");
        assert_eq!(event[22..], [0x15, 0x00, 0x00, 0xc0, 0x3f]);
    }

    // The CRC-32C check value of RFC 3720 (32 zero bytes), masked by hand: rotate right 15, add the constant.
    #[test]
    fn checksum_is_masked() {
        let crc: u32 = 0x8a91_36aa;
        assert_eq!(masked_crc(&[0; 32]), crc.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn reopening_cuts_what_no_checkpoint_vouches_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::open(dir.path(), 0).unwrap();
        writer.scalars(1, &[("loss", 1.0)]).unwrap();
        let kept = writer.num_bytes();
        writer.scalars(2, &[("loss", 2.0)]).unwrap();
        let reopened = EventWriter::open(dir.path(), kept).unwrap();
        assert_eq!(reopened.num_bytes(), std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().len());
    }
}
