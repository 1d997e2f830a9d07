//! Requests of HTTP, as tests ask backends.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};

/// The body of what a server answers.
///
/// # Errors
/// It cannot be asked, or refuses; its answer is in the message.
pub fn get(address: &str, target: &str) -> Result<String> {
    request(address, &format!("GET {target}"), "", "")
}

/// The same for a form.
///
/// # Errors
/// It cannot be asked, or refuses; its answer is in the message.
pub fn post_form(address: &str, target: &str, form: &str) -> Result<String> {
    request(
        address,
        &format!("POST {target}"),
        &format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", form.len()),
        form,
    )
}

/// As forms are written: every byte that is no letter or digit by its number.
#[must_use]
pub fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// By HTTP/1.0: an answer ends with its connection.
fn request(address: &str, what: &str, headers: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "{what} HTTP/1.0\r\nHost: {address}\r\n{headers}\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{what}: {head}: {body}");
    Ok(body.to_owned())
}
