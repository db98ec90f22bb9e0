//! Curves for `TensorBoard`: a file of events, each a length, a checksum, a message and its checksum.
//!
//! The few messages needed are written by hand; a protocol-buffer library would be many times their size. A training
//! that continues writes its file again from its history, so nothing stands in it twice.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use super::EpochRecord;

/// The file's name: `TensorBoard` looks for `tfevents`, and what follows says which program wrote it.
pub(super) const FILE: &str = "events.out.tfevents.0.glioseg";

/// An open file of events.
#[derive(Debug)]
pub(super) struct Events {
    file: File,
    classes: Vec<String>,
}

impl Events {
    /// Starts the file again with the epochs so far.
    pub(super) fn create(path: &Path, classes: &[String], history: &[EpochRecord]) -> io::Result<Self> {
        let mut events = Self { file: File::create(path)?, classes: classes.to_vec() };
        let started = history.first().map_or(0.0, |r| r.ended - r.seconds);
        let mut first = fixed64(1, started);
        first.extend(bytes(3, b"brain.Event:2"));
        events.record(&first)?;
        history.iter().try_for_each(|record| events.add(record))?;
        Ok(events)
    }

    /// Adds the numbers of an epoch.
    pub(super) fn add(&mut self, record: &EpochRecord) -> io::Result<()> {
        let mut values = vec![
            ("loss/train".to_owned(), Some(record.train_loss)),
            ("loss/validation".to_owned(), Some(record.val_loss)),
            ("dice/mean".to_owned(), record.mean_dice),
            ("dice/moving average".to_owned(), record.ema_dice),
            ("learning rate".to_owned(), Some(record.lr)),
            ("gradient norm".to_owned(), Some(record.gradient_norm)),
            ("seconds".to_owned(), Some(record.seconds)),
        ];
        values.extend(self.classes.iter().map(|c| format!("dice/{c}")).zip(record.dice.iter().copied()));
        let mut summary = vec![];
        for (tag, value) in values {
            let Some(value) = value else { continue };
            let mut entry = bytes(1, tag.as_bytes());
            // Field 2, a 32-bit number.
            entry.push(2 << 3 | 5);
            entry.extend((value as f32).to_le_bytes());
            summary.extend(bytes(1, &entry));
        }
        let mut event = fixed64(1, record.ended);
        event.push(2 << 3);
        event.extend(varint(record.epoch as u64));
        event.extend(bytes(5, &summary));
        self.record(&event)?;
        self.file.flush()
    }

    fn record(&mut self, message: &[u8]) -> io::Result<()> {
        let length = (message.len() as u64).to_le_bytes();
        let mut out = Vec::with_capacity(message.len() + 16);
        out.extend(length);
        out.extend(masked_crc(&length).to_le_bytes());
        out.extend(message);
        out.extend(masked_crc(message).to_le_bytes());
        self.file.write_all(&out)
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = vec![];
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    out.extend(varint(content.len() as u64));
    out.extend(content);
    out
}

fn fixed64(field: u8, value: f64) -> Vec<u8> {
    let mut out = vec![field << 3 | 1];
    out.extend(value.to_le_bytes());
    out
}

/// CRC-32C, rotated and shifted as the format wants it.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // RFC 3720, B.4: 32 bytes of zeros, and of ones.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(varint(300), [0xac, 0x02]);
    }

    #[test]
    fn records_can_be_walked_and_hold_the_numbers() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        let record = EpochRecord {
            epoch: 300,
            lr: 0.01,
            train_loss: -0.25,
            val_loss: 0.5,
            dice: vec![Some(0.75), None],
            mean_dice: Some(0.75),
            ema_dice: Some(0.75),
            best: true,
            gradient_norm: 1.5,
            seconds: 2.0,
            ended: 1000.0,
        };
        let classes = ["whole".to_owned(), "core".to_owned()];
        let mut events = Events::create(&path, &classes, std::slice::from_ref(&record)).expect("written");
        events.add(&EpochRecord { epoch: 301, ..record }).expect("written");
        let data = std::fs::read(&path).expect("the file");
        let (mut at, mut messages) = (0, vec![]);
        while at < data.len() {
            let word = |i: usize| u32::from_le_bytes(data[i..i + 4].try_into().expect("four bytes"));
            let length = u64::from_le_bytes(data[at..at + 8].try_into().expect("eight bytes")) as usize;
            assert_eq!(word(at + 8), masked_crc(&data[at..at + 8]));
            let message = &data[at + 12..at + 12 + length];
            assert_eq!(word(at + 12 + length), masked_crc(message));
            messages.push(message.to_vec());
            at += 16 + length;
        }
        assert_eq!(messages.len(), 3);
        assert!(messages[0].ends_with(b"brain.Event:2"));
        let has = |message: &[u8], part: &[u8]| message.windows(part.len()).any(|w| w == part);
        assert!(has(&messages[1], b"dice/whole") && !has(&messages[1], b"dice/core"));
        assert!(has(&messages[1], &(-0.25f32).to_le_bytes()));
        assert!(has(&messages[2], &[2 << 3, 0xad, 0x02]), "step 301");
    }
}
