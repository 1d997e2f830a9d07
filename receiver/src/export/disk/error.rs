//! Why a queue on disk could not do something: what its user does next hangs on it.

use std::io;

use rusqlite::ErrorCode;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// There is no room. What is there can still be read.
    #[error("{0}")]
    Full(String),
    /// Parts of the file are not what they were.
    #[error("{0}")]
    Damaged(String),
    /// It cannot be used now.
    #[error("{0}")]
    Unusable(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error {
            rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::DiskFull => Self::Full(text),
                // An unknown error is one in a statement: a table is not there or not as it was.
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown => {
                    Self::Damaged(text)
                }
                _ => Self::Unusable(format!("{text} (SQLite's code {})", failure.extended_code)),
            },
            _ => Self::Damaged(text),
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(error.to_string()),
            _ => Self::Unusable(error.to_string()),
        }
    }
}
