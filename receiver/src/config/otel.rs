//! The standard `OTEL_*` environment variables, as far as the receiver has what they configure (OpenTelemetry
//! specification: configuration/sdk-environment-variables, protocol/exporter, resource/sdk).

use std::collections::BTreeMap;

use ::config::{Map, Value};

use super::problem::Problem;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const COMPRESSION: &str = "OTEL_EXPORTER_OTLP_COMPRESSION";
const TIMEOUT: &str = "OTEL_EXPORTER_OTLP_TIMEOUT";
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
const INTERVAL: &str = "OTEL_METRIC_EXPORT_INTERVAL";
const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";

/// The variables and what they set, for the documentation.
pub(super) const VARIABLES: [(&str, &str); 9] = [
    (ENDPOINT, "the only destination, unless the file names some"),
    (PROTOCOL, "`grpc`, of that destination"),
    (HEADERS, "`key=value,…` with percent-encoded values, of that destination"),
    (COMPRESSION, "`gzip` or `none`, of that destination"),
    (TIMEOUT, "milliseconds, of that destination"),
    (CERTIFICATE, "file of the certificate authority, of that destination when it is `https`"),
    (INTERVAL, "milliseconds; `interval`"),
    (ATTRIBUTES, "`key=value,…` with percent-encoded values; resource attributes of the receiver itself"),
    (SERVICE_NAME, "service name of the receiver itself"),
];

/// What the environment says of the receiver's own resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// `OTEL_SERVICE_NAME`; goes before a service name among the attributes.
    pub service_name: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`, decoded.
    pub attributes: BTreeMap<String, String>,
}

/// The `OTEL_*` variables of an environment. An empty one counts as not set, as the specification demands.
pub(super) struct Otel<'a>(pub(super) &'a [(String, String)]);

impl<'a> Otel<'a> {
    /// The destination of `OTEL_EXPORTER_OTLP_ENDPOINT`, if it is set.
    pub(super) fn destination(&self, problems: &mut Vec<Problem>) -> Option<Value> {
        let endpoint = self.get(ENDPOINT)?;
        Some(self.destination_at(endpoint, &origin(ENDPOINT), problems))
    }

    /// A destination at this endpoint with all else from the environment.
    pub(super) fn destination_at(
        &self,
        endpoint: &str,
        stands: &String,
        problems: &mut Vec<Problem>,
    ) -> Value {
        let mut table = Map::new();
        table.insert("endpoint".to_owned(), Value::new(Some(stands), endpoint));
        if let Some(protocol) = self.get(PROTOCOL).filter(|protocol| *protocol != "grpc") {
            problems.push(problem(PROTOCOL, Some(protocol), "allowed: grpc"));
        }
        if let Some(compression) = self.get(COMPRESSION) {
            table.insert("compression".into(), Value::new(Some(&origin(COMPRESSION)), compression));
        }
        if let Some(timeout) = self.millis(TIMEOUT, problems) {
            table.insert("timeout".into(), timeout);
        }
        if let Some(headers) = self.headers(problems) {
            table.insert("headers".into(), headers);
        }
        // Set for a whole machine, it must not make a plain destination an error.
        if let Some(file) = self.get(CERTIFICATE).filter(|_| endpoint.starts_with("https:")) {
            let tls: Map<String, Value> =
                [("ca_file".to_owned(), Value::new(Some(&origin(CERTIFICATE)), file))].into_iter().collect();
            table.insert("tls".into(), tls.into());
        }
        Value::new(Some(stands), table)
    }

    /// `OTEL_METRIC_EXPORT_INTERVAL` as a duration.
    pub(super) fn interval(&self, problems: &mut Vec<Problem>) -> Option<Value> {
        self.millis(INTERVAL, problems)
    }

    /// The receiver's own resource.
    pub(super) fn resource(&self, problems: &mut Vec<Problem>) -> Resource {
        let service_name = self.get(SERVICE_NAME).map(str::to_owned);
        let attributes = self.pairs(ATTRIBUTES, problems).unwrap_or_default().into_iter().collect();
        Resource { service_name, attributes }
    }

    fn headers(&self, problems: &mut Vec<Problem>) -> Option<Value> {
        let stands = origin(HEADERS);
        let headers = self.pairs(HEADERS, problems)?.into_iter();
        let headers: Map<String, Value> =
            headers.map(|(name, value)| (name, Value::new(Some(&stands), value))).collect();
        Some(Value::new(Some(&stands), headers))
    }

    fn millis(&self, variable: &str, problems: &mut Vec<Problem>) -> Option<Value> {
        let text = self.get(variable)?;
        if text.parse::<u64>().is_err() {
            problems.push(problem(variable, Some(text), "allowed: a whole number of milliseconds"));
            return None;
        }
        Some(Value::new(Some(&origin(variable)), format!("{text}ms")))
    }

    fn pairs(&self, variable: &str, problems: &mut Vec<Problem>) -> Option<Vec<(String, String)>> {
        let text = self.get(variable)?;
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let pairs: Option<Vec<_>> = entries.map(pair).collect();
        if pairs.is_none() {
            // The text is left out: headers carry secrets.
            problems.push(problem(
                variable,
                None,
                "allowed: key=value,key=value with percent-encoded values",
            ));
        }
        pairs
    }

    fn get(&self, variable: &str) -> Option<&'a str> {
        let (_, value) = self.0.iter().find(|(name, _)| name == variable)?;
        Some(value.trim()).filter(|value| !value.is_empty())
    }
}

fn pair(entry: &str) -> Option<(String, String)> {
    let (key, value) = entry.split_once('=')?;
    let key = decode(key.trim()).filter(|key| !key.is_empty())?;
    Some((key, decode(value.trim())?))
}

/// Percent-decoding (RFC 3986, section 2.1); None for a broken escape and for what is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            plain => plain,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn origin(variable: &str) -> String {
    format!("environment variable {variable}")
}

fn problem(variable: &str, value: Option<&str>, reason: &str) -> Problem {
    let reason = value.map_or(reason.to_owned(), |value| format!("is {value:?}; {reason}"));
    Problem { origin: origin(variable), key: String::new(), value: None, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_percent_decoded() {
        assert_eq!(decode("a%2Cb%3dc%20d"), Some("a,b=c d".to_owned()));
        assert_eq!(decode("100%"), None);
        assert_eq!(decode("%zz"), None);
        assert_eq!(decode("%ff"), None);
    }

    #[test]
    fn resource_attributes_are_all_read_or_refused() {
        let read = |text: &str| {
            let mut problems = Vec::new();
            let environment = [(ATTRIBUTES.to_owned(), text.to_owned())];
            (Otel(&environment).resource(&mut problems).attributes, problems.len())
        };
        let two = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "x=y".to_owned())];
        assert_eq!(read(" a = 1 ,b=x%3Dy,"), (BTreeMap::from(two), 0));
        assert_eq!(read("a=1,b"), (BTreeMap::new(), 1));
        assert_eq!(read(""), (BTreeMap::new(), 0));
    }

    #[test]
    fn a_broken_header_is_reported_without_its_text() {
        let mut problems = Vec::new();
        let environment = [(HEADERS.to_owned(), "authorization".to_owned())];
        Otel(&environment).destination_at("http://h:1", &"--endpoint".to_owned(), &mut problems);
        assert_eq!(problems.len(), 1);
        assert!(!problems[0].to_string().contains("authorization"), "{}", problems[0]);
    }
}
