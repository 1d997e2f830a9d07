//! Requests as they are stored: compressed, with what they were put in as, and with a checksum over both that tells damage.

use std::io::{Read, Write};

use crate::export::split::REQUEST_BYTES;

/// The quickest level that zstd is known by: points shrink to a tenth by any.
const LEVEL: i32 = 1;

/// What a request was put in as: a table or a row that is another one after damage gives nothing.
pub(super) type Mark = [u8; 17];

/// A request for the disk.
pub(super) fn close(mark: Mark, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.write_all(&mark)?;
    encoder.write_all(request)?;
    encoder.finish()
}

/// The request; none where it is not what it was, or was put in as something else.
pub(super) fn open(mark: Mark, body: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::new(body).ok()?;
    let mut found = Mark::default();
    decoder.read_exact(&mut found).ok().filter(|()| found == mark)?;
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
        let (mark, other) = ([1; 17], [2; 17]);
        let body = close(mark, &request).unwrap();
        assert_eq!((open(mark, &body).as_ref(), open(other, &body)), (Some(&request), None));
        for bit in 0..body.len() * 8 {
            let mut damaged = body.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Some bits mean nothing; none of them may change what comes out.
            assert!(open(mark, &damaged).is_none_or(|opened| opened == request), "bit {bit}");
        }
        assert_eq!(open(mark, &body[..body.len() - 1]), None);
        assert_eq!(open(mark, &[]), None);
    }
}
