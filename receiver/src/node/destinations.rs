//! From settings to destinations.

use std::io::stdout;

use super::Format;
use crate::{
    config::Settings,
    export::{BuildError, Client, Destination, Sink, text::Text},
};

/// The destinations that the settings name; without any, standard output.
///
/// # Errors
/// A destination cannot be used as it is configured.
pub(super) fn of(settings: &Settings, format: Format) -> Result<Vec<Destination>, BuildError> {
    let mut destinations = Vec::new();
    for otlp in &settings.export.otlp {
        let sink = Sink::Otlp(Box::new(Client::new(otlp)?), Box::new(otlp.clone()));
        let name = free_name(&otlp.endpoint.to_string(), &destinations);
        destinations.push(Destination { name, sink });
    }
    let embedded = destinations.is_empty();
    match format {
        Format::Json if embedded => destinations.push(output(Sink::Json(Box::new(stdout())))),
        Format::Text if settings.prints_events() => {
            destinations.push(output(Sink::Text(Box::new(Text::new(Box::new(stdout()), embedded)))));
        }
        _ if embedded => {
            destinations.push(output(Sink::Text(Box::new(Text::new(Box::new(stdout()), true)))));
        }
        _ => {}
    }
    Ok(destinations)
}

/// The endpoint, with a number where another destination has the same: each has an account of its own.
fn free_name(endpoint: &str, taken: &[Destination]) -> String {
    let numbered = (2..).map(|number| format!("{endpoint} #{number}"));
    let mut names = std::iter::once(endpoint.to_owned()).chain(numbered);
    names.find(|name| taken.iter().all(|other| other.name != *name)).unwrap_or_default()
}

pub(super) fn output(sink: Sink) -> Destination {
    Destination { name: "stdout".to_owned(), sink }
}
