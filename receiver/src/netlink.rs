//! Questions to the kernel over netlink sockets, and its answers.
//!
//! A socket belongs to the network namespace of the thread that opens it, and keeps that namespace alive: it is to be
//! closed soon.

pub mod conntrack;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod message;
pub mod qdisc;
pub mod rdma;

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send,
        socket_with,
    },
};

use self::message::{Message, messages};

/// What the kernel puts into one answer at most (`net/netlink/af_netlink.c`, `netlink_dump`).
const ANSWER: usize = 32 * 1024;

/// A dump is asked for again so many times when what it goes over changed meanwhile; then it counts as unanswered.
const TRIES: usize = 3;

/// Interrupted dump (`include/uapi/linux/netlink.h`, `NLM_F_DUMP_INTR`): something may be missing or there twice.
const INTERRUPTED: u16 = 0x10;

/// Ends a dump, with an error number or 0 (`NLMSG_DONE`).
const DONE: u16 = 3;

/// Refuses, with an error number, or agrees with 0 (`NLMSG_ERROR`).
const ERROR: u16 = 2;

/// Place of the drops among the numbers of a socket's memory (`include/uapi/linux/sock_diag.h`, `SK_MEMINFO_DROPS`).
const DROPS: usize = 8;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket cannot be used.
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refuses the question.
    #[error("the kernel answers over netlink: {0}")]
    Refused(io::Error),
    /// What a dump goes over changed each time while it went.
    #[error("the netlink dump was interrupted {TRIES} times")]
    Interrupted,
    /// The answer ends before it is complete.
    #[error("the netlink answer is incomplete")]
    Incomplete,
}

impl From<Errno> for NetlinkError {
    fn from(error: Errno) -> Self {
        Self::Socket(error.into())
    }
}

/// Room for answers, to be used again and again.
pub struct Buffer(Vec<u8>);

impl Default for Buffer {
    fn default() -> Self {
        Self(vec![0; ANSWER])
    }
}

/// Which part of the kernel a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subsystem {
    /// Devices and their queues.
    Route,
    /// Connection tracking.
    Netfilter,
    /// RDMA devices.
    Rdma,
}

impl Subsystem {
    /// `NETLINK_ROUTE` is 0, which stands for no protocol.
    fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Route => None,
            Self::Netfilter => Some(netlink::NETFILTER),
            Self::Rdma => Some(netlink::RDMA),
        }
    }
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens one in the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel lacks the subsystem, or there is no descriptor left.
    pub fn open(subsystem: Subsystem) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, subsystem.protocol())?))
    }

    /// Hears what is told to these groups from now on.
    ///
    /// # Errors
    /// `CAP_NET_ADMIN` is missing.
    pub fn join(&self, groups: impl IntoIterator<Item = u32>) -> io::Result<()> {
        // Without an address of its own it is taken for the kernel's, which hears nothing of itself (`do_one_broadcast`).
        bind(&self.0, &netlink::SocketAddrNetlink::new(0, 0))?;
        groups.into_iter().try_for_each(|group| self.set(libc::NETLINK_ADD_MEMBERSHIP, group))
    }

    /// Hears no more of these groups; what waits can still be read.
    ///
    /// # Errors
    /// It was no member.
    pub fn leave(&self, groups: impl IntoIterator<Item = u32>) -> io::Result<()> {
        groups.into_iter().try_for_each(|group| self.set(libc::NETLINK_DROP_MEMBERSHIP, group))
    }

    /// Asks a question that has one message for an answer, and gives that to `take`.
    ///
    /// # Errors
    /// There is no such answer.
    pub fn ask<T>(
        &self,
        buffer: &mut Buffer,
        question: &[u8],
        take: impl FnOnce(&Message<'_>) -> Option<T>,
    ) -> Result<T, NetlinkError> {
        send(&self.0, question, SendFlags::empty())?;
        let answer = self.receive(buffer)?.ok_or(NetlinkError::Incomplete)?;
        let message = messages(answer).next().ok_or(NetlinkError::Incomplete)?;
        refusal(&message)?;
        take(&message).ok_or(NetlinkError::Incomplete)
    }

    /// Asks for a list, and gives what `read` makes of all its messages. The list is asked for again when it changed while
    /// the kernel told it.
    ///
    /// # Errors
    /// The list is not complete.
    pub fn dump<T: Default>(
        &self,
        buffer: &mut Buffer,
        question: &[u8],
        mut read: impl FnMut(&mut T, &Message<'_>),
    ) -> Result<T, NetlinkError> {
        for _ in 0..TRIES {
            let mut found = T::default();
            if !self.dump_once(buffer, question, |message| read(&mut found, message))? {
                return Ok(found);
            }
        }
        Err(NetlinkError::Interrupted)
    }

    /// Whether the dump was interrupted.
    fn dump_once(
        &self,
        buffer: &mut Buffer,
        question: &[u8],
        mut read: impl FnMut(&Message<'_>),
    ) -> Result<bool, NetlinkError> {
        send(&self.0, question, SendFlags::empty())?;
        let mut interrupted = false;
        loop {
            let answer = self.receive(buffer)?.ok_or(NetlinkError::Incomplete)?;
            for message in messages(answer) {
                interrupted |= message.flags & INTERRUPTED != 0;
                refusal(&message)?;
                if message.kind == DONE {
                    return Ok(interrupted);
                }
                read(&message);
            }
        }
    }

    /// The next datagram; `None` when none waits. The kernel answers before the question's `send` returns, and goes on with a
    /// dump within `recv`, so that nothing is ever waited for.
    ///
    /// # Errors
    /// `ENOBUFS` when events found no room; a datagram that is larger than the buffer.
    pub fn receive<'b>(&self, buffer: &'b mut Buffer) -> Result<Option<&'b [u8]>, NetlinkError> {
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        match recv(&self.0, buffer.0.as_mut_slice(), flags) {
            Ok((_, length)) => buffer.0.get(..length).map(Some).ok_or(NetlinkError::Incomplete),
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Options that rustix has no wrapper for.
#[expect(unsafe_code, reason = "rustix has no wrapper for these options")]
impl Socket {
    /// Sets a netlink option of four bytes.
    fn set(&self, option: libc::c_int, value: u32) -> io::Result<()> {
        // SAFETY: the kernel reads four bytes of `value`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const value).cast(),
                size_of::<u32>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Datagrams that found no room since it was opened (`SK_MEMINFO_DROPS`, `net/core/sock.c`, `sk_get_meminfo`).
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn drops(&self) -> io::Result<u32> {
        let mut numbers = [0_u32; DROPS + 1];
        let mut length = size_of_val(&numbers) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `numbers`, which has that size; both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                numbers.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result == 0 { Ok(numbers[DROPS]) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An error number in place of an answer, or at a dump's end.
fn refusal(message: &Message<'_>) -> Result<(), NetlinkError> {
    if !matches!(message.kind, ERROR | DONE) {
        return Ok(());
    }
    let number = message.body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if number == 0 {
        Ok(())
    } else {
        Err(NetlinkError::Refused(io::Error::from_raw_os_error(number.saturating_neg())))
    }
}
