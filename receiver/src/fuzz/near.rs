//! Bytes that are nearly a sample, for blind tries seldom come beyond the first check of a format.

/// One of the samples, changed as `bytes` say, three of them for each change: where, how, to what.
pub(super) fn sample(samples: &[&[u8]], bytes: &[u8]) -> Vec<u8> {
    let Some((which, changes)) = bytes.split_first() else { return Vec::new() };
    let mut sample =
        samples.get(usize::from(*which) % samples.len().max(1)).map_or(Vec::new(), |one| one.to_vec());
    for change in changes.chunks_exact(3).take(1 + usize::from(*which) / 32) {
        let at = usize::from(change[0]) * (sample.len() + 1) / 256;
        match (change[1] % 4, sample.get_mut(at)) {
            (0, _) => sample.truncate(at),
            (1, _) => sample.insert(at, change[2]),
            (2, Some(byte)) => *byte = byte.wrapping_add(change[2] % 3).wrapping_sub(1),
            (_, Some(byte)) => *byte = change[2],
            (_, None) => {}
        }
    }
    sample
}
