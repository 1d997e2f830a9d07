//! What a server makes of a request that it took: the same messages over both protocols.

use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceResponse, metrics::v1::ExportMetricsServiceResponse,
    trace::v1::ExportTraceServiceResponse,
};
use prost::{Message, bytes::Bytes};

use super::Signal;

/// What a server made of a request that it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Points, records or spans that it refused for good.
    pub rejected: u64,
    /// Why, or a warning.
    pub message: String,
}

impl Accepted {
    /// Reads the body of an answer. The server has taken the request when it sends one, so a body that cannot be
    /// read is no reason to send the data twice: it is told as a warning.
    pub(super) fn read(signal: Signal, body: Bytes) -> Self {
        match partial_success(signal, body) {
            Ok((rejected, message)) => Self { rejected: rejected.try_into().unwrap_or(0), message },
            Err(error) => Self::unreadable(&error),
        }
    }

    /// The server said that it took the request, and the rest of what it said cannot be read.
    pub(super) fn unreadable(why: &dyn std::error::Error) -> Self {
        Self { rejected: 0, message: format!("taken, but the answer cannot be read: {why}") }
    }
}

fn partial_success(signal: Signal, body: Bytes) -> Result<(i64, String), prost::DecodeError> {
    let partial = match signal {
        Signal::Metrics => ExportMetricsServiceResponse::decode(body)?
            .partial_success
            .map(|partial| (partial.rejected_data_points, partial.error_message)),
        Signal::Logs => ExportLogsServiceResponse::decode(body)?
            .partial_success
            .map(|partial| (partial.rejected_log_records, partial.error_message)),
        Signal::Traces => ExportTraceServiceResponse::decode(body)?
            .partial_success
            .map(|partial| (partial.rejected_spans, partial.error_message)),
    };
    Ok(partial.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;

    use super::*;

    fn logs(rejected: i64, message: &str) -> Bytes {
        let partial =
            ExportLogsPartialSuccess { rejected_log_records: rejected, error_message: message.to_owned() };
        ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec().into()
    }

    #[test]
    fn what_was_rejected_is_read_and_a_negative_count_is_none() {
        let read = |rejected, message| Accepted::read(Signal::Logs, logs(rejected, message));
        assert_eq!(read(3, "no"), Accepted { rejected: 3, message: "no".into() });
        assert_eq!(read(0, "careful"), Accepted { rejected: 0, message: "careful".into() });
        assert_eq!(read(-1, ""), Accepted::default());
        assert_eq!(Accepted::read(Signal::Metrics, Bytes::new()), Accepted::default());
    }

    #[test]
    fn an_answer_that_is_no_protobuf_is_taken_and_told() {
        let answer = Accepted::read(Signal::Metrics, Bytes::from_static(b"<html>"));
        assert_eq!(answer.rejected, 0);
        assert!(answer.message.contains("cannot be read"), "{answer:?}");
    }
}
