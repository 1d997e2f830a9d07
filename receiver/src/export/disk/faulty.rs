//! Files of a database that a disk keeps from being read and written, between `SQLite` and its system calls
//! (`sqlite3_io_methods`, <https://sqlite.org/c3ref/io_methods.html>).
#![expect(unsafe_code, reason = "a table of C functions is put in the place of another one")]

use std::{
    ffi::{c_int, c_void},
    ptr::{from_mut, null_mut},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    thread::sleep,
    time::Duration,
};

use rusqlite::{Connection, ffi};

/// What the disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Works,
    /// EIO.
    Fails,
    /// Waits until it does something else.
    Hangs,
}

/// What it does now.
#[derive(Clone)]
pub(super) struct Fault(Arc<AtomicU8>);

impl Fault {
    /// Comes between a database and its file and log.
    pub(super) fn under(db: &Connection) -> Self {
        let fault = Self(Arc::default());
        for which in [ffi::SQLITE_FCNTL_FILE_POINTER, ffi::SQLITE_FCNTL_JOURNAL_POINTER] {
            let mut file: *mut ffi::sqlite3_file = null_mut();
            // SAFETY: the connection is open, and both operations write a pointer to where `file` is. Nobody uses the
            // connection meanwhile. The former table of functions lives as long as the process, the new one is leaked.
            unsafe {
                let handle = db.handle();
                let into = from_mut(&mut file).cast::<c_void>();
                assert_eq!(ffi::sqlite3_file_control(handle, c"main".as_ptr(), which, into), ffi::SQLITE_OK);
                let original = (*file).pMethods;
                let mut methods = *original;
                methods.xRead = Some(read);
                methods.xWrite = Some(write);
                methods.xSync = Some(sync);
                let between = Box::leak(Box::new(Between { methods, original, fault: fault.clone() }));
                (*file).pMethods = from_mut(between).cast();
            }
        }
        fault
    }

    pub(super) fn set(&self, mode: Mode) {
        self.0.store(mode as u8, Relaxed);
    }

    /// Whether a call fails; waits while the disk hangs.
    fn fails(&self) -> bool {
        while self.0.load(Relaxed) == Mode::Hangs as u8 {
            sleep(Duration::from_millis(1));
        }
        self.0.load(Relaxed) == Mode::Fails as u8
    }
}

/// The new table, and behind it what its functions need.
#[repr(C)]
struct Between {
    methods: ffi::sqlite3_io_methods,
    original: *const ffi::sqlite3_io_methods,
    fault: Fault,
}

/// The table that a file has.
///
/// # Safety
/// It is one of [`Fault::under`].
unsafe fn between<'a>(file: *mut ffi::sqlite3_file) -> &'a Between {
    // SAFETY: only such files have these functions, and the table begins with what SQLite knows of it.
    unsafe { &*(*file).pMethods.cast::<Between>() }
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, length: c_int, at: i64) -> c_int {
    // SAFETY: SQLite calls it with a file that has it, and with what the original takes.
    unsafe {
        let between = between(file);
        match (*between.original).xRead {
            Some(read) if !between.fault.fails() => read(file, to, length, at),
            _ => ffi::SQLITE_IOERR_READ,
        }
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    length: c_int,
    at: i64,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let between = between(file);
        match (*between.original).xWrite {
            Some(write) if !between.fault.fails() => write(file, from, length, at),
            _ => ffi::SQLITE_IOERR_WRITE,
        }
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, how: c_int) -> c_int {
    // SAFETY: as above.
    unsafe {
        let between = between(file);
        match (*between.original).xSync {
            Some(sync) if !between.fault.fails() => sync(file, how),
            _ => ffi::SQLITE_IOERR_FSYNC,
        }
    }
}
