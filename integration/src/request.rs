//! Requests of HTTP/1.1 that say which span they are of.

/// A request and what it says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Id of its trace.
    pub trace: [u8; 16],
    /// Id of its span.
    pub span: [u8; 8],
    /// Whether the span is recorded.
    pub sampled: bool,
}

impl Request {
    /// One whose ids no other number has.
    #[must_use]
    pub fn new(number: u8, sampled: bool) -> Self {
        Self { trace: [number; 16], span: [number ^ 0xa5; 8], sampled }
    }

    /// Its head, longer than any packet without data.
    #[must_use]
    pub fn text(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (trace, span, flags) = (hex(&self.trace), hex(&self.span), u8::from(self.sampled));
        let other = "o".repeat(200);
        format!(
            "GET / HTTP/1.1\r\nHost: shop\r\nX: {other}\r\ntraceparent: 00-{trace}-{span}-{flags:02x}\r\n\r\n"
        )
    }
}
