//! Requests as they are stored: compressed, with a checksum that tells damage.

use std::io::{Read, Write};

use crate::export::split::REQUEST_BYTES;

/// The quickest level that zstd is known by: points shrink to a tenth by any.
const LEVEL: i32 = 1;

/// A request for the disk.
pub(super) fn close(request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.write_all(request)?;
    encoder.finish()
}

/// The request; none where it is not what it was.
pub(super) fn open(body: &[u8]) -> Option<Vec<u8>> {
    let decoder = zstd::stream::read::Decoder::new(body).ok()?;
    let mut request = Vec::new();
    // What decompresses to more was never stored.
    decoder.take(REQUEST_BYTES as u64 + 1).read_to_end(&mut request).ok()?;
    (request.len() <= REQUEST_BYTES).then_some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_closed_opens_and_no_changed_bit_goes_unseen() {
        let request: Vec<u8> = (0..2000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        let body = close(&request).unwrap();
        assert_eq!(open(&body).as_ref(), Some(&request));
        for bit in 0..body.len() * 8 {
            let mut damaged = body.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Some bits mean nothing; none of them may change what comes out.
            assert!(open(&damaged).is_none_or(|opened| opened == request), "bit {bit}");
        }
        assert_eq!(open(&body[..body.len() - 1]), None);
        assert_eq!(open(&[]), None);
    }
}
