//! Requests of HTTP/2 by an implementation that others wrote, one step at a time, and frames that are made by hand.

use std::net::TcpStream;

use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::sync::mpsc;

use super::http::{Ids, Pair};

type Body = std::io::Cursor<Vec<u8>>;

/// Both ends of a connection of HTTP/2.
pub(crate) struct Connection {
    client: SendRequest<Body>,
    asked: mpsc::Receiver<(Request<RecvStream>, SendResponse<Body>)>,
}

/// A request that has been made, and received.
pub(crate) struct Call {
    rest: SendStream<Body>,
    answer: ResponseFuture,
    received: RecvStream,
    respond: SendResponse<Body>,
}

fn stream(of: &TcpStream) -> tokio::net::TcpStream {
    let copy = of.try_clone().unwrap();
    copy.set_nonblocking(true).unwrap();
    tokio::net::TcpStream::from_std(copy).unwrap()
}

impl Connection {
    pub(crate) async fn new(pair: &Pair) -> Self {
        let (tell, asked) = mpsc::channel(1);
        let (client, server) = (stream(&pair.client), stream(&pair.server));
        tokio::spawn(async move {
            let mut connection = h2::server::Builder::new().handshake(server).await.unwrap();
            while let Some(Ok(call)) = connection.accept().await {
                tell.send(call).await.unwrap();
            }
        });
        let (client, connection) = h2::client::Builder::new().handshake(client).await.unwrap();
        tokio::spawn(async move { connection.await.unwrap_or(()) });
        Self { client, asked }
    }

    /// Makes a request without its body and waits until it has arrived.
    pub(crate) async fn ask(&mut self, headers: &[(&'static str, &str)], is_all: bool) -> Call {
        let mut request = Request::post("http://shop/cart").body(()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let mut client = self.client.clone().ready().await.unwrap();
        let (answer, rest) = client.send_request(request, is_all).unwrap();
        let (request, respond) = self.asked.recv().await.unwrap();
        Call { rest, answer, received: request.into_body(), respond }
    }

    /// One that says all at once, and has a trace context behind some other headers.
    pub(crate) async fn get(&mut self, ids: &Ids, number: usize) -> Call {
        let (value, other) = (ids.value(), format!("id-{number}"));
        let headers = [("x-request-id", other.as_str()), ("accept", "*/*"), ("traceparent", &value)];
        self.ask(&headers, true).await
    }
}

impl Call {
    /// Sends the body, so many bytes of it, and waits until it has arrived.
    pub(crate) async fn send(&mut self, length: usize) {
        self.rest.send_data(Body::new(vec![b'b'; length]), true).unwrap();
        assert_eq!(read(&mut self.received).await, length);
    }

    /// Answers, and waits until the whole answer has arrived.
    pub(crate) async fn answer(mut self, length: usize) {
        let head = Response::builder().status(StatusCode::OK).body(()).unwrap();
        let mut body = self.respond.send_response(head, false).unwrap();
        body.send_data(Body::new(vec![b'a'; length]), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        body.send_trailers(trailers).unwrap();
        let mut received = self.answer.await.unwrap().into_body();
        assert_eq!(read(&mut received).await, length);
        assert!(received.trailers().await.unwrap().is_some());
    }

    /// The client takes the request back, and the server has learnt of it.
    pub(crate) async fn take_back(mut self) {
        self.rest.send_reset(h2::Reason::CANCEL);
        std::future::poll_fn(|context| self.respond.poll_reset(context)).await.unwrap();
    }
}

async fn read(body: &mut RecvStream) -> usize {
    let mut length = 0;
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        length += piece.len();
    }
    length
}

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const PRIORITY: u8 = 32;

/// A frame (RFC 9113, section 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field with its name, of which the first bits are these: how it goes into the table (RFC 7541, section 6.2).
pub(crate) fn field(bits: u8, name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![bits];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).unwrap());
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// A field that does not go into the table, whose name is the one of an entry of it, the 15th or a later one.
pub(crate) fn field_named_as(index: u8, value: &str) -> Vec<u8> {
    let mut bytes = vec![0x0f, index - 15, u8::try_from(value.len()).unwrap()];
    bytes.extend(value.as_bytes());
    bytes
}
