//! gRPC as far as a unary call needs it: HTTP/2 and the message frame.

use std::sync::Arc;

use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::bytes::Bytes;

use super::{Io, Reply, State, decompressed};

/// Bytes before a message: whether it is compressed, and its length.
const FRAME: usize = 5;

pub(super) async fn serve(io: impl Io, state: Arc<State>) {
    let Ok(mut connection) = h2::server::handshake(io).await else { return };
    let mut calls = tokio::task::JoinSet::new();
    let mut cut = false;
    while !cut {
        tokio::select! {
            request = connection.accept() => match request {
                Some(Ok((request, respond))) => _ = calls.spawn(call(request, respond, Arc::clone(&state))),
                _ => return,
            },
            // A call that ends with "cut" ends the connection.
            Some(Ok(end)) = calls.join_next() => cut = end,
        }
    }
}

/// Answers one call. Whether the connection ends with it.
async fn call(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>, state: Arc<State>) -> bool {
    let (head, mut body) = request.into_parts();
    let mut frame = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        frame.extend_from_slice(&data);
    }
    let encoding = head.headers.get("grpc-encoding").and_then(|value| value.to_str().ok());
    let content = decompressed(encoding.filter(|_| frame[0] == 1), &frame[FRAME..]);
    let reply = state.take(head.uri.path().to_owned(), head.headers, &content);
    match reply {
        Reply::Taken(body) => answer(&mut respond, Some((body.len(), &body)), Some((0, "", &[]))),
        Reply::Status(code, message, details) => answer(&mut respond, None, Some((code, message, &details))),
        Reply::Answer(status, ..) => {
            let head = Response::builder().status(status).body(()).unwrap();
            let _ = respond.send_response(head, true);
        }
        Reply::Silent => std::future::pending().await,
        Reply::Cut => return true,
        Reply::CutShort => answer(&mut respond, Some((100, &[1, 2, 3])), Some((0, "", &[]))),
        Reply::NoStatus => answer(&mut respond, Some((0, &[])), None),
        Reply::Late(time) => {
            tokio::time::sleep(time).await;
            answer(&mut respond, Some((0, &[])), Some((0, "", &[])));
        }
    }
    false
}

/// Sends a message, with the length that is said of it, and a status, if there are.
fn answer(
    respond: &mut SendResponse<Bytes>,
    message: Option<(usize, &[u8])>,
    status: Option<(i32, &'static str, &[u8])>,
) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    // The client may have gone.
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    if let Some((length, content)) = message {
        let mut frame = vec![0];
        frame.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        frame.extend_from_slice(content);
        let _ = stream.send_data(frame.into(), status.is_none());
    }
    if let Some(status) = status {
        let _ = stream.send_trailers(trailers(status));
    }
}

fn trailers((code, message, details): (i32, &'static str, &[u8])) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    if !details.is_empty() {
        let details = tonic::metadata::MetadataValue::from_bytes(details);
        let encoded = HeaderValue::from_bytes(details.as_encoded_bytes()).unwrap();
        trailers.insert("grpc-status-details-bin", encoded);
    }
    trailers
}
