//! Files that the configuration names: looked at while it is read, so that what is wrong with one is a problem of the
//! configuration and not of a connection later.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest certificate or key file, in bytes; the bundle of a whole system's authorities has a quarter of it.
const LIMIT: u64 = 1 << 20;

/// First two bytes of a BTF file, in either byte order (`BTF_MAGIC` in include/uapi/linux/btf.h).
const BTF_MAGIC: [[u8; 2]; 2] = [0xeb9f_u16.to_le_bytes(), 0xeb9f_u16.to_be_bytes()];

/// A file with at least one certificate; else why it is none.
pub(super) fn certificate(path: &Path) -> Result<PathBuf, String> {
    pem(path, "-----BEGIN CERTIFICATE-----", "certificate")
}

/// A file with a private key of any algorithm; else why it is none.
pub(super) fn private_key(path: &Path) -> Result<PathBuf, String> {
    pem(path, "PRIVATE KEY-----", "private key")
}

/// A file of raw BTF, of which only the start is looked at: a kernel's has several megabytes.
pub(super) fn btf(path: &Path) -> Result<PathBuf, String> {
    let mut start = [0; 2];
    open(path)?.read_exact(&mut start).map_err(unreadable)?;
    if BTF_MAGIC.contains(&start) { Ok(path.to_owned()) } else { Err("is no BTF file".to_owned()) }
}

/// A directory, or where one can be made: an absolute path, whatever directory the receiver is started in.
pub(super) fn directory(path: &Path) -> Result<PathBuf, String> {
    if !path.is_absolute() {
        return Err("is no absolute path".to_owned());
    }
    // The disk may come later than the receiver.
    if path.exists() && !path.is_dir() {
        return Err("is no directory".to_owned());
    }
    Ok(path.components().collect())
}

fn pem(path: &Path, mark: &str, what: &str) -> Result<PathBuf, String> {
    let mut content = String::new();
    open(path)?.take(LIMIT).read_to_string(&mut content).map_err(unreadable)?;
    if !content.contains(mark) {
        return Err(format!("has no {what} in PEM form"));
    }
    Ok(path.to_owned())
}

/// Opens regular files only: to open a pipe would wait for its writer.
fn open(path: &Path) -> Result<File, String> {
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is no regular file".to_owned());
    }
    File::open(path).map_err(unreadable)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that map_err wants")]
fn unreadable(error: std::io::Error) -> String {
    format!("cannot be read: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn a_file_that_starts_as_btf_does_is_taken_and_a_text_is_not() {
        let text = with(b"hello");
        assert_eq!(btf(text.path()), Err("is no BTF file".to_owned()));
        let file = with(&[0x9f, 0xeb, 1, 0]);
        assert_eq!(btf(file.path()), Ok(file.path().to_owned()));
    }

    #[test]
    fn a_certificate_file_must_hold_a_certificate() {
        let key = with(b"-----BEGIN EC PRIVATE KEY-----\n");
        assert_eq!(certificate(key.path()), Err("has no certificate in PEM form".to_owned()));
        assert_eq!(private_key(key.path()).unwrap(), key.path());
    }

    #[test]
    fn a_directory_need_not_be_there_yet() {
        assert_eq!(directory(Path::new("queue")), Err("is no absolute path".to_owned()));
        assert_eq!(directory(with(b"").path()), Err("is no directory".to_owned()));
        assert_eq!(directory(Path::new("/nonexistent//queue/")), Ok(PathBuf::from("/nonexistent/queue")));
    }

    #[test]
    fn what_is_missing_or_no_file_is_said_so() {
        assert!(certificate(Path::new("/nonexistent/ca.pem")).unwrap_err().contains("No such file"));
        assert_eq!(certificate(Path::new("/")), Err("is no regular file".to_owned()));
    }
}
