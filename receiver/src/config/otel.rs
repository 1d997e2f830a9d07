//! The standard `OTEL_*` environment variables, as far as the receiver has what they configure (OpenTelemetry
//! specification: configuration/sdk-environment-variables, protocol/exporter, resource/sdk).

mod values;

use std::collections::BTreeMap;

use ::config::{Map, Value, ValueKind};

use self::values::pair;
use super::problem::Problem;

const INTERVAL: &str = "OTEL_METRIC_EXPORT_INTERVAL";
const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const TEMPORALITY: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
const AGGREGATION: &str = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";
const EXEMPLAR_FILTER: &str = "OTEL_METRICS_EXEMPLAR_FILTER";
const SDK_DISABLED: &str = "OTEL_SDK_DISABLED";

/// Beginning of the variables of a destination. The general form goes on with one of the options below, the form of a
/// signal with its name and one of these.
const EXPORTER: &str = "OTEL_EXPORTER_OTLP_";
const ENDPOINT: &str = "ENDPOINT";
const PROTOCOL: &str = "PROTOCOL";
const HEADERS: &str = "HEADERS";
const COMPRESSION: &str = "COMPRESSION";
const TIMEOUT: &str = "TIMEOUT";
const CERTIFICATE: &str = "CERTIFICATE";
const CLIENT_CERTIFICATE: &str = "CLIENT_CERTIFICATE";
const CLIENT_KEY: &str = "CLIENT_KEY";
const INSECURE: &str = "INSECURE";

/// The variables and what they set, for the documentation.
pub(super) const VARIABLES: [(&str, &str); 16] = [
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "the only destination, unless the file names some; for `http/protobuf`, `/v1/metrics`, `/v1/logs` and `/v1/traces` go after its path",
    ),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "`grpc` or `http/protobuf`"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "`key=value,…` with percent-encoded values"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "`gzip`, `zstd` or `none`"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "milliseconds"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "file of the certificate authority, when it is `https`"),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "file of the client's own certificate, when it is `https`"),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "file of its key, when it is `https`"),
    (
        "OTEL_EXPORTER_OTLP_INSECURE",
        "`true`: an endpoint without a scheme is `http`, else `https`; for `grpc`",
    ),
    (TEMPORALITY, "`cumulative`, `delta` or `lowmemory`"),
    (AGGREGATION, "`explicit_bucket_histogram` or `base2_exponential_bucket_histogram`"),
    (EXEMPLAR_FILTER, "`trace_based`, `always_on` or `always_off`; `exemplars`"),
    (INTERVAL, "milliseconds; `interval`"),
    (ATTRIBUTES, "`key=value,…` with percent-encoded values; resource attributes of the receiver itself"),
    (SERVICE_NAME, "service name of the receiver itself"),
    (SDK_DISABLED, "`true`: the receiver's own metrics are not made; what it tells of the node goes on"),
];

/// What the environment says of the receiver's own resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// `OTEL_SERVICE_NAME`; goes before a service name among the attributes.
    pub service_name: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`, decoded.
    pub attributes: BTreeMap<String, String>,
    /// `OTEL_SDK_DISABLED`: the receiver makes no metrics of its own.
    pub silent: bool,
}

/// The `OTEL_*` variables of an environment. An empty one counts as not set, as the specification demands.
pub(super) struct Otel<'a>(pub(super) &'a [(String, String)]);

/// What is read for one signal: its own form of a variable goes before the general one.
#[derive(Clone, Copy)]
struct Form {
    /// As the configuration calls the signal.
    signal: &'static str,
    /// As the variables do.
    infix: &'static str,
}

const FORMS: [Form; 3] = [
    Form { signal: "metrics", infix: "METRICS_" },
    Form { signal: "logs", infix: "LOGS_" },
    Form { signal: "traces", infix: "TRACES_" },
];

/// A variable that is set.
struct Variable<'a> {
    name: String,
    value: &'a str,
    /// Whether it is of one signal.
    own: bool,
}

impl<'a> Otel<'a> {
    /// The destinations of the standard variables: one, or one for each group of signals where these differ. A signal that
    /// has no endpoint goes nowhere.
    pub(super) fn destinations(&self, problems: &mut Vec<Problem>) -> Vec<Value> {
        self.each(problems, |form| self.option(form, ENDPOINT))
    }

    /// Destinations at this endpoint with all else from the environment.
    pub(super) fn destinations_at(
        &self,
        endpoint: &str,
        stands: &str,
        problems: &mut Vec<Problem>,
    ) -> Vec<Value> {
        self.each(problems, |_| Some(Variable { name: stands.to_owned(), value: endpoint, own: false }))
    }

    fn each<'b>(
        &self,
        problems: &mut Vec<Problem>,
        endpoint: impl Fn(Form) -> Option<Variable<'b>>,
    ) -> Vec<Value> {
        let mut found = Vec::new();
        let mut destinations: Vec<(Vec<&str>, Value)> = Vec::new();
        for form in FORMS {
            let Some(endpoint) = endpoint(form) else { continue };
            let table = self.destination(form, &endpoint, &mut found);
            // A signal's own endpoint is never that of another: a value is also where it was read.
            match destinations.iter_mut().find(|(_, other)| *other == table) {
                Some((signals, _)) => signals.push(form.signal),
                None => destinations.push((vec![form.signal], table)),
            }
        }
        // What is wrong with a general form is found for all signals.
        found.dedup_by(|a, b| a.to_string() == b.to_string());
        for problem in found {
            if !problems.iter().any(|known| known.to_string() == problem.to_string()) {
                problems.push(problem);
            }
        }
        if !matches!(&destinations[..], [(signals, _)] if signals.len() == FORMS.len()) {
            destinations.iter_mut().for_each(|(signals, table)| only(signals, table));
        }
        destinations.into_iter().map(|(_, table)| table).collect()
    }

    fn destination(&self, form: Form, endpoint: &Variable<'_>, problems: &mut Vec<Problem>) -> Value {
        let mut table = Map::new();
        let protocol = self.option(form, PROTOCOL);
        let over_http = protocol.as_ref().is_some_and(|protocol| protocol.value == "http/protobuf");
        let url = self.url(form, endpoint.value, over_http, problems);
        // Set for a whole machine, certificates must not make a plain destination an error.
        let tls = self.tls(form).filter(|_| url.starts_with("https:"));
        table.insert("endpoint".to_owned(), endpoint.as_setting(&url));
        let insert = |table: &mut Map<String, Value>, key: &str, variable: Option<Variable<'_>>| {
            if let Some(variable) = variable {
                table.insert(key.to_owned(), variable.as_setting(variable.value));
            }
        };
        insert(&mut table, "protocol", protocol);
        insert(&mut table, "compression", self.option(form, COMPRESSION));
        // The endpoint of one signal is its whole URL, the general one has the signals' paths put after it.
        if over_http && endpoint.own {
            table.insert("append_path".to_owned(), endpoint.as_setting("false"));
        }
        let of =
            |name: &str| self.get(name).map(|value| Variable { name: name.to_owned(), value, own: true });
        if let Some(variable) = of(TEMPORALITY) {
            // In small and in capital letters alike.
            table.insert("temporality".to_owned(), variable.as_setting(&variable.value.to_lowercase()));
        }
        if let Some(variable) = of(AGGREGATION) {
            table.extend(histograms(&variable, problems).map(|value| ("histograms".to_owned(), value)));
        }
        let timeout = self.option(form, TIMEOUT);
        let timeout = timeout.and_then(|variable| millis(&variable.name, variable.value, problems));
        table.extend(timeout.map(|timeout| ("timeout".to_owned(), timeout)));
        table.extend(self.headers(form, problems).map(|headers| ("headers".to_owned(), headers)));
        table.extend(tls.map(|tls| ("tls".to_owned(), tls)));
        Value::new(Some(&endpoint.origin()), table)
    }

    /// An endpoint of gRPC may lack the scheme.
    fn url(&self, form: Form, text: &str, over_http: bool, problems: &mut Vec<Problem>) -> String {
        let insecure =
            self.option(form, INSECURE).map(|variable| truth(&variable.name, variable.value, problems));
        if over_http || text.contains("://") {
            return text.to_owned();
        }
        format!("{}://{text}", if insecure == Some(true) { "http" } else { "https" })
    }

    fn tls(&self, form: Form) -> Option<Value> {
        let keys = [("ca_file", CERTIFICATE), ("cert_file", CLIENT_CERTIFICATE), ("key_file", CLIENT_KEY)];
        let files = keys.into_iter().filter_map(|(key, option)| {
            let variable = self.option(form, option)?;
            Some((key.to_owned(), variable.as_setting(variable.value)))
        });
        let files: Map<String, Value> = files.collect();
        (!files.is_empty()).then(|| files.into())
    }

    /// A variable in the signal's own form, else in the general one.
    fn option(&self, form: Form, option: &str) -> Option<Variable<'a>> {
        let of = |name: String, own| self.get(&name).map(|value| Variable { name, value, own });
        of(format!("{EXPORTER}{}{option}", form.infix), true)
            .or_else(|| of(format!("{EXPORTER}{option}"), false))
    }

    /// `OTEL_METRIC_EXPORT_INTERVAL` as a duration.
    pub(super) fn interval(&self, problems: &mut Vec<Problem>) -> Option<Value> {
        millis(INTERVAL, self.get(INTERVAL)?, problems)
    }

    /// `OTEL_METRICS_EXEMPLAR_FILTER`, in small and in capital letters alike.
    pub(super) fn exemplars(&self) -> Option<Value> {
        let filter = self.get(EXEMPLAR_FILTER)?.to_lowercase();
        Some(Value::new(Some(&origin(EXEMPLAR_FILTER)), filter))
    }

    /// The receiver's own resource.
    pub(super) fn resource(&self, problems: &mut Vec<Problem>) -> Resource {
        let service_name = self.get(SERVICE_NAME).map(str::to_owned);
        let pairs = self.get(ATTRIBUTES).and_then(|text| pairs(ATTRIBUTES, text, problems));
        let attributes = pairs.unwrap_or_default().into_iter().collect();
        let silent = self.get(SDK_DISABLED).is_some_and(|text| truth(SDK_DISABLED, text, problems));
        Resource { service_name, attributes, silent }
    }

    fn headers(&self, form: Form, problems: &mut Vec<Problem>) -> Option<Value> {
        let variable = self.option(form, HEADERS)?;
        let headers = pairs(&variable.name, variable.value, problems)?.into_iter();
        let headers: Map<String, Value> =
            headers.map(|(name, value)| (name, variable.as_setting(&value))).collect();
        Some(Value::new(Some(&variable.origin()), headers))
    }

    fn get(&self, variable: &str) -> Option<&'a str> {
        let (_, value) = self.0.iter().find(|(name, _)| name == variable)?;
        Some(value.trim()).filter(|value| !value.is_empty())
    }
}

impl Variable<'_> {
    fn origin(&self) -> String {
        // A flag's name is a flag's.
        if self.name.starts_with("OTEL_") { origin(&self.name) } else { self.name.clone() }
    }

    fn as_setting(&self, value: &str) -> Value {
        Value::new(Some(&self.origin()), value)
    }
}

fn only(signals: &[&str], destination: &mut Value) {
    let origin = destination.origin().map(str::to_owned);
    if let ValueKind::Table(table) = &mut destination.kind {
        let signals: Vec<_> = signals.iter().map(|signal| Value::new(origin.as_ref(), *signal)).collect();
        table.insert("signals".to_owned(), Value::new(origin.as_ref(), signals));
    }
}

fn millis(variable: &str, text: &str, problems: &mut Vec<Problem>) -> Option<Value> {
    if text.parse::<u64>().is_err() {
        problems.push(problem(variable, Some(text), "allowed: a whole number of milliseconds"));
        return None;
    }
    Some(Value::new(Some(&origin(variable)), format!("{text}ms")))
}

fn histograms(variable: &Variable<'_>, problems: &mut Vec<Problem>) -> Option<Value> {
    let aggregations =
        [("explicit_bucket_histogram", "explicit"), ("base2_exponential_bucket_histogram", "exponential")];
    let found = aggregations.iter().find(|(name, _)| variable.value.eq_ignore_ascii_case(name));
    if found.is_none() {
        let allowed = "allowed: explicit_bucket_histogram | base2_exponential_bucket_histogram";
        problems.push(problem(&variable.name, Some(variable.value), allowed));
    }
    found.map(|(_, setting)| variable.as_setting(setting))
}

/// The specification counts everything but "true" as false; what is neither is told all the same.
fn truth(variable: &str, text: &str, problems: &mut Vec<Problem>) -> bool {
    if !["true", "false"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
        problems.push(problem(variable, Some(text), "allowed: true | false"));
    }
    text.eq_ignore_ascii_case("true")
}

fn pairs(variable: &str, text: &str, problems: &mut Vec<Problem>) -> Option<Vec<(String, String)>> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let pairs: Option<Vec<_>> = entries.map(pair).collect();
    if pairs.is_none() {
        // The text is left out: headers carry secrets.
        problems.push(problem(variable, None, "allowed: key=value,key=value with percent-encoded values"));
    }
    pairs
}

fn origin(variable: &str) -> String {
    format!("environment variable {variable}")
}

fn problem(variable: &str, value: Option<&str>, reason: &str) -> Problem {
    let reason = value.map_or(reason.to_owned(), |value| format!("is {value:?}; {reason}"));
    Problem { origin: origin(variable), key: String::new(), value: None, reason }
}

#[cfg(test)]
mod tests;
