//! A span of a request that names its connection.

use std::net::SocketAddr;
use std::sync::Arc;

use jitterscope_semconv::{
    attribute as key,
    value::{SpanLinkRole, SpanLinkSource},
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};

use super::ends::{end, port, text};
use crate::spans::Link;

/// Names of the other end's address and port: of today, and of the semantic conventions before 1.21 and before 1.13, which
/// instrumentations in use still tell.
const PEER: [&str; 3] = [key::NETWORK_PEER_ADDRESS.key, "net.sock.peer.addr", "net.peer.ip"];
const PEER_PORT: [&str; 3] = [key::NETWORK_PEER_PORT.key, "net.sock.peer.port", "net.peer.port"];
/// Names of the socket's own port. `server.port` and `net.host.port` are none: they are what the client asked for.
const LOCAL_PORT: [&str; 2] = [key::NETWORK_LOCAL_PORT.key, "net.sock.host.port"];
/// Names of the version of HTTP.
const VERSION: [&str; 2] = ["network.protocol.version", "http.flavor"];

/// Whose a span or an event is, as far as its resource tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pod: Option<String>,
    container: Option<String>,
}

/// A request on a connection: from when to when its span lasted.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) link: Link,
    /// Nanoseconds since the epoch.
    pub(super) start: u64,
    pub(super) end: u64,
    /// The other end.
    pub(super) peer: SocketAddr,
    /// The own port, where the span tells it.
    pub(super) port: Option<u16>,
    pub(super) owner: Arc<Owner>,
}

impl Owner {
    pub(super) fn of(attributes: &[KeyValue]) -> Arc<Self> {
        let text = |name| text(attributes, name).map(ToOwned::to_owned);
        Arc::new(Self { pod: text(key::K8S_POD_UID.key), container: text(key::CONTAINER_ID.key) })
    }

    /// Whether nothing speaks against both being the same.
    pub(super) fn may_be(&self, other: &Self) -> bool {
        let agree = |one: &Option<String>, other: &Option<String>| match (one, other) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        agree(&self.pod, &other.pod) && agree(&self.container, &other.container)
    }

    /// Whether both are known to be the same.
    pub(super) fn is(&self, other: &Self) -> bool {
        let known = self
            .pod
            .as_ref()
            .and(other.pod.as_ref())
            .or(self.container.as_ref().and(other.container.as_ref()));
        known.is_some() && self.may_be(other)
    }
}

impl Request {
    /// The request that a span tells of; None unless it names its connection and has it for itself while it lasts.
    pub(super) fn of(span: &Span, owner: &Arc<Owner>) -> Option<Self> {
        let attributes = &span.attributes;
        let version = VERSION.iter().find_map(|name| text(attributes, name))?;
        if !matches!(version, "1.0" | "1.1") {
            return None;
        }
        let peer = end(attributes, &PEER, &PEER_PORT)?;
        let port = port(attributes, &LOCAL_PORT);
        let role = match span.kind() {
            SpanKind::Server => SpanLinkRole::Server,
            // Its peer is the server: only its own port says on which connection.
            SpanKind::Client if port.is_some() => SpanLinkRole::Client,
            _ => return None,
        };
        let link = Link {
            trace_id: id(&span.trace_id)?,
            span_id: id(&span.span_id)?,
            // It was exported, so that it is recorded; many SDKs leave the flag out.
            flags: (span.flags & 0xff) as u8 | 1,
            source: SpanLinkSource::Tap,
            role,
        };
        let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
        (start > 0 && start <= end).then(|| Self { link, start, end, peer, port, owner: Arc::clone(owner) })
    }
}

/// An id, which is not zero.
fn id<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok().filter(|id| *id != [0; N])
}
