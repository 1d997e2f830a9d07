//! Where a destination listens.

use std::fmt;
use std::path::PathBuf;

use http::Uri;

/// Where a destination listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://HOST:PORT/PATH`: without encryption.
    Http(Uri),
    /// `https://HOST:PORT/PATH`: with TLS.
    Https(Uri),
    /// `unix:///PATH`: a Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Reads an endpoint. None for any scheme but `http`, `https` and `unix`, and with a query or a user: they carry
    /// secrets, for which there are headers.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix://") {
            return path.starts_with('/').then(|| Self::Unix(path.into()));
        }
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let bare = uri.query().is_none() && !authority.as_str().contains('@') && !text.contains('#');
        let host = !matches!(authority.host(), "" | "[]");
        // A text that is no port is none to the parser.
        let written = authority.as_str() != authority.host();
        let port = if written { authority.port_u16().is_some_and(|port| port != 0) } else { true };
        match uri.scheme_str() {
            Some("http") if bare && host && port => Some(Self::Http(uri)),
            Some("https") if bare && host && port => Some(Self::Https(uri)),
            _ => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(uri) | Self::Https(uri) => uri.fmt(f),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_for_names_and_both_ip_versions_and_sockets() {
        assert!(matches!(Endpoint::new("http://127.0.0.1:4317"), Some(Endpoint::Http(_))));
        assert!(matches!(Endpoint::new("http://collector:4317/"), Some(Endpoint::Http(_))));
        assert!(matches!(Endpoint::new("https://[2001:db8::1]:443"), Some(Endpoint::Https(_))));
        assert_eq!(Endpoint::new("unix:///run/otel.sock"), Some(Endpoint::Unix("/run/otel.sock".into())));
    }

    #[test]
    fn an_endpoint_of_http_may_have_a_path_and_the_usual_port() {
        for text in ["http://collector", "https://[::1]/otlp", "http://collector:4318/a/b"] {
            assert!(Endpoint::new(text).is_some(), "{text:?}");
        }
    }

    #[test]
    fn an_endpoint_that_is_none_or_carries_secrets_is_refused() {
        for text in [
            "",
            "127.0.0.1:4317",
            "collector:4317",
            "http://:4317",
            "http://collector:",
            "http://collector:0",
            "http://collector:70000",
            "http://collector:4317/?a=b",
            "http://user@collector:4317",
            "ftp://collector:4317",
            "unix://run/otel.sock",
        ] {
            assert_eq!(Endpoint::new(text), None, "{text:?}");
        }
    }
}
