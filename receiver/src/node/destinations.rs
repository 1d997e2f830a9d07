//! From settings to destinations.

use std::io::stdout;

use super::Format;
use crate::{
    config::Settings,
    export::{Destination, Sink, grpc::BuildError, grpc::Client, text::Text},
};

/// The destinations that the settings name; without any, standard output.
///
/// # Errors
/// A destination cannot be used as it is configured.
pub(super) fn of(settings: &Settings, format: Format) -> Result<Vec<Destination>, BuildError> {
    let mut destinations = Vec::new();
    for otlp in &settings.export.otlp {
        let queue = usize::try_from(otlp.queue_memory).unwrap_or(usize::MAX);
        let sink = Sink::Otlp(Box::new(Client::new(otlp)?), queue);
        destinations.push(Destination { name: otlp.endpoint.to_string(), sink });
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

pub(super) fn output(sink: Sink) -> Destination {
    Destination { name: "stdout".to_owned(), sink }
}
