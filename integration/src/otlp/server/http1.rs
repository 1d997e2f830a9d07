//! HTTP/1.1, written by hand so that answers can be as broken as a test wants them.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::{Io, Reply, State, decompressed};

pub(super) async fn serve(io: impl Io, state: Arc<State>) {
    let mut io = BufReader::new(io);
    while let Some((path, headers)) = head(&mut io).await {
        let length = headers.get("content-length").unwrap().to_str().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        if io.read_exact(&mut body).await.is_err() {
            return;
        }
        let encoding = headers.get("content-encoding").and_then(|value| value.to_str().ok());
        let content = decompressed(encoding, &body);
        let Some(answer) = answer(state.take(path, headers, &content)).await else { return };
        let cut_short = answer.windows(7).any(|part| part == b"partial");
        if io.write_all(&answer).await.is_err() || io.flush().await.is_err() || cut_short {
            return;
        }
    }
}

/// The target of a request and its headers; none at the end.
async fn head(io: &mut BufReader<impl Io>) -> Option<(String, HeaderMap)> {
    let first = line(io).await?;
    let mut words = first.split(' ');
    assert_eq!(words.next(), Some("POST"), "{first}");
    let path = words.next()?.to_owned();
    let mut headers = HeaderMap::new();
    loop {
        let line = line(io).await?;
        let Some((name, value)) = line.split_once(": ") else { return Some((path, headers)) };
        let name: HeaderName = name.parse().unwrap();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
    }
}

async fn line(io: &mut BufReader<impl Io>) -> Option<String> {
    let mut line = String::new();
    io.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    Some(line.trim_end().to_owned())
}

/// The bytes of an answer; none to close the connection without.
async fn answer(reply: Reply) -> Option<Vec<u8>> {
    match reply {
        Reply::Taken(body) => {
            Some(bytes(200, &[("content-type", "application/x-protobuf".to_owned())], &body))
        }
        Reply::Answer(status, headers, body) => Some(bytes(status, &headers, &body)),
        Reply::Silent => std::future::pending().await,
        Reply::CutShort => Some(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npartial".to_vec()),
        Reply::Late(time) => {
            tokio::time::sleep(time).await;
            Some(bytes(200, &[], &[]))
        }
        Reply::Cut | Reply::NoStatus | Reply::Status(..) => None,
    }
}

fn bytes(status: u16, headers: &[(&'static str, String)], body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 {status} \r\n").into_bytes();
    for (name, value) in headers {
        answer.extend(format!("{name}: {value}\r\n").into_bytes());
    }
    // These have no body by definition (RFC 9110, section 6.4.1).
    if status != 204 && status != 304 {
        answer.extend(format!("content-length: {}\r\n", body.len()).into_bytes());
    }
    answer.extend(b"\r\n");
    answer.extend(body);
    answer
}
