//! Requests of HTTP/1.1 with known trace contexts, and connections on which they are made.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use jitterscope_ebpf::abi::span_link;

use super::Namespace;

/// The ids of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ids {
    pub(crate) trace: [u8; 16],
    pub(crate) span: [u8; 8],
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Ids {
    /// Ids that nobody else has, with all digits in them.
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut trace = [0; 16];
        trace[..8].copy_from_slice(&spread.to_be_bytes());
        trace[8..].copy_from_slice(&(!spread.rotate_left(29)).to_be_bytes());
        Self { trace, span: number.wrapping_mul(0xd1b5_4a32_d192_ed03).to_be_bytes() }
    }

    /// Of a link; `None`: there is none.
    pub(crate) fn of(link: &span_link) -> Option<Self> {
        (link.source != 0).then_some(Self { trace: link.trace_id, span: link.span_id })
    }

    /// Those that a request names.
    pub(crate) fn asked(request: &[u8]) -> Self {
        let text = str::from_utf8(request).unwrap();
        let mut parts = text.split_once("traceparent: 00-").unwrap().1.split('-');
        let mut next = || parts.next().unwrap();
        let trace = u128::from_str_radix(next(), 16).unwrap().to_be_bytes();
        Self { trace, span: u64::from_str_radix(next(), 16).unwrap().to_be_bytes() }
    }

    pub(crate) fn trace_text(&self) -> String {
        hex(&self.trace)
    }

    pub(crate) fn span_text(&self) -> String {
        hex(&self.span)
    }

    /// `00-…-…-01`.
    pub(crate) fn value(&self) -> String {
        format!("00-{}-{}-01", self.trace_text(), self.span_text())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request whose last header is the traceparent, behind so many bytes of others.
pub(crate) fn get(ids: &Ids, others: usize) -> String {
    format!(
        "GET /cart HTTP/1.1\r\nHost: shop\r\nCookie: {}\r\ntraceparent: {}\r\n\r\n",
        "c".repeat(others),
        ids.value()
    )
}

/// Both ends of a connection within a namespace.
pub(crate) struct Pair {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

impl Pair {
    /// On the loopback interface of a namespace.
    pub(crate) fn new(within: &Namespace, family: u8) -> Self {
        let address: IpAddr = if family == 4 { "127.0.0.1" } else { "::1" }.parse().unwrap();
        within.inside(|| {
            let listener = TcpListener::bind((address, 0)).unwrap();
            Self::to(&listener, listener.local_addr().unwrap())
        })
    }

    fn to(listener: &TcpListener, address: SocketAddr) -> Self {
        let client = TcpStream::connect(address).unwrap();
        client.set_nodelay(true).unwrap();
        let server = listener.accept().unwrap().0;
        server.set_nodelay(true).unwrap();
        Self { client, server }
    }

    /// Lets the client send some bytes as one packet, and the server receive them.
    pub(crate) fn ask(&mut self, text: impl AsRef<[u8]>) {
        send(&mut self.client, &mut self.server, text.as_ref());
    }

    /// Lets the server answer, and the client receive it.
    pub(crate) fn answer(&mut self, text: impl AsRef<[u8]>) {
        send(&mut self.server, &mut self.client, text.as_ref());
    }

    /// A short answer.
    pub(crate) fn ok(&mut self) {
        self.answer("HTTP/1.1 204 No Content\r\n\r\n");
    }
}

fn send(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) {
    from.write_all(text).unwrap();
    let mut received = vec![0; text.len()];
    to.read_exact(&mut received).unwrap();
    assert_eq!(received, text);
}
