//! Gzip in both directions: streams of several members in, one deterministic stream out.

use std::io::{self, BufRead, Read, Write};
use std::ops::Range;

use flate2::bufread::GzDecoder;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use rayon::prelude::*;

/// The unpacked bytes of all members of a gzip stream.
///
/// `flate2`'s own reader for several members takes padding after the last one for a broken member; the zeros that
/// some archives append are no damage, so what follows a complete member counts only if it begins like another.
pub(crate) struct Members<R> {
    /// Empty once the last member is read.
    decoder: Option<GzDecoder<R>>,
}

impl<R: BufRead> Members<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { decoder: Some(GzDecoder::new(source)) }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let count = decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            // The member is complete and its check sum right.
            if let Some(mut source) = self.decoder.take().map(GzDecoder::into_inner) {
                let next = source.fill_buf()?;
                if next.first() == Some(&0x1f) && next.get(1).is_none_or(|&b| b == 0x8b) {
                    self.decoder = Some(GzDecoder::new(source));
                }
            }
        }
        Ok(0)
    }
}

/// Bytes of input per independently compressed block. Part of the format of our files: another size gives other bytes.
const BLOCK: usize = 1 << 20;

/// Level of compression: label maps shrink a thousandfold at any level, so speed decides.
const LEVEL: u32 = 3;

/// Writes `head` and then the bytes that `fill` makes of every range of `0..items`, packed as one gzip member.
///
/// Blocks are compressed side by side, as pigz does; the bytes depend on neither the thread count nor the time.
pub(crate) fn write(
    out: &mut impl Write,
    head: &[u8],
    items: usize,
    item_size: usize,
    fill: &(impl Fn(Range<usize>, &mut Vec<u8>) + Sync),
) -> io::Result<()> {
    // No name, no time, "unknown" operating system.
    out.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
    let per_block = (BLOCK / item_size).max(1);
    let blocks = items.div_ceil(per_block).max(1);
    let mut crc = Crc::new();
    // A few blocks per thread at a time bound the memory.
    let batch = rayon::current_num_threads() * 4;
    for start in (0..blocks).step_by(batch) {
        let packed: Vec<io::Result<(Vec<u8>, Crc)>> = (start..blocks.min(start + batch))
            .into_par_iter()
            .map(|block| {
                let mut raw = Vec::with_capacity(BLOCK + head.len());
                if block == 0 {
                    raw.extend_from_slice(head);
                }
                fill(block * per_block..items.min((block + 1) * per_block), &mut raw);
                deflate(&raw, block + 1 == blocks)
            })
            .collect();
        for result in packed {
            let (bytes, block_crc) = result?;
            crc.combine(&block_crc);
            out.write_all(&bytes)?;
        }
    }
    out.write_all(&crc.sum().to_le_bytes())?;
    out.write_all(&crc.amount().to_le_bytes())
}

/// One block as raw deflate that ends on a byte boundary; `last` ends the stream.
fn deflate(raw: &[u8], last: bool) -> io::Result<(Vec<u8>, Crc)> {
    let mut crc = Crc::new();
    crc.update(raw);
    let mut compress = Compress::new(Compression::new(LEVEL), false);
    let mut packed = Vec::with_capacity(raw.len() / 2 + 1024);
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    loop {
        let taken = compress.total_in() as usize;
        let status = compress.compress_vec(&raw[taken..], &mut packed, flush).map_err(io::Error::other)?;
        let all_taken = compress.total_in() as usize == raw.len();
        let done =
            if last { status == Status::StreamEnd } else { all_taken && packed.len() < packed.capacity() };
        if done {
            return Ok((packed, crc));
        }
        packed.reserve(64 * 1024);
    }
}
