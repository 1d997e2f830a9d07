//! Counters as data: which of the kernel's numbers a metric is made of.

use std::time::Duration;

use jitterscope_semconv::{Attribute, Instrument, Metric, Number};

use crate::{
    batch::{Emitter, attributes::Pair},
    round::counters::Counters,
};

/// A metric, the attributes of its points, and the points.
pub(super) struct Family(
    pub(super) &'static Metric,
    pub(super) &'static [&'static Attribute],
    pub(super) &'static [Row],
);

/// One point: a counter of the kernel, or what is left of it. Of a metric in seconds, a counter in milliseconds.
pub(super) struct Row {
    /// Its name, as `Counters` has it.
    pub(super) counter: &'static str,
    /// Counters that it contains and that are points of their own.
    pub(super) without: &'static [&'static str],
    /// Values of the family's attributes, in their order.
    pub(super) values: &'static [&'static str],
}

/// A counter.
pub(super) const fn row(counter: &'static str, values: &'static [&'static str]) -> Row {
    Row { counter, without: &[], values }
}

/// What is left of a counter without others that it contains.
pub(super) const fn rest(
    counter: &'static str,
    without: &'static [&'static str],
    values: &'static [&'static str],
) -> Row {
    Row { counter, without, values }
}

/// The metrics of tables, for a probe's definition.
pub(super) const fn metrics<const N: usize>(tables: &[&[Family]]) -> [&'static Metric; N] {
    let mut all = [tables[0][0].0; N];
    let (mut table, mut at, mut next) = (0, 0, 0);
    while table < tables.len() {
        if at == tables[table].len() {
            (table, at) = (table + 1, 0);
        } else {
            all[next] = tables[table][at].0;
            (at, next) = (at + 1, next + 1);
        }
    }
    assert!(next == N);
    all
}

impl Family {
    /// Emits every point whose counter one of the tables has; those of zero only where they are wanted.
    pub(super) fn emit(&self, tables: &[&Counters], zeros: bool, emit: &mut Emitter<'_, '_>) {
        self.emit_times(1, tables, zeros, emit);
    }

    /// As [`Self::emit`], of counters in units of `scale`: pages in bytes.
    pub(super) fn emit_times(
        &self,
        scale: u64,
        tables: &[&Counters],
        zeros: bool,
        emit: &mut Emitter<'_, '_>,
    ) {
        let Self(metric, keys, rows) = self;
        for row in *rows {
            let Some(value) = row.value(tables).filter(|value| zeros || *value != 0) else { continue };
            let value = value.saturating_mul(scale);
            let values = row.values.iter().map(|value| (*value).into());
            let attributes: Vec<Pair<'_>> = keys.iter().copied().zip(values).collect();
            match (metric.instrument, metric.number) {
                (Instrument::UpDownCounter, _) => emit.amount(metric, &attributes, value.cast_signed()),
                (_, Number::Double) => emit.time(metric, &attributes, Duration::from_millis(value)),
                _ => emit.counter(metric, &attributes, value),
            }
        }
    }
}

impl Row {
    /// The counters of one table are not read at one instant: a part may be ahead of its whole.
    fn value(&self, tables: &[&Counters]) -> Option<u64> {
        let get = |name: &str| tables.iter().find_map(|table| table.get(name));
        let parts = self.without.iter().filter_map(|name| get(name)).fold(0, u64::wrapping_add);
        get(self.counter).map(|whole| whole.saturating_sub(parts))
    }
}

#[cfg(test)]
mod tests {
    use jitterscope_semconv::{attribute as key, metric};
    use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value};

    use super::*;
    use crate::{
        batch::{Batch, Series},
        pods::{Entity, EntityKind},
        round::counters::Parser,
    };

    const ERRORS: Family = Family(
        &metric::TCP_SEGMENT_ERRORS,
        &[&key::TCP_SEGMENT_ERROR_REASON],
        &[row("TcpInCsumErrors", &["checksum"]), rest("TcpInErrs", &["TcpInCsumErrors"], &["other"])],
    );

    /// The values of the points of a family on a table.
    fn points(family: &Family, zeros: bool, text: &str) -> Vec<Option<Value>> {
        let entity = std::sync::Arc::new(Entity {
            kind: EntityKind::Netns,
            key: 1,
            pod: None,
            name: String::new(),
            resource: opentelemetry_proto::tonic::resource::v1::Resource::default(),
            pending_until: None,
        });
        let mut series = Series::default();
        let mut batch = Batch::new(&mut series, 100);
        let table = Parser::default().paired(text);
        family.emit(&[&table], zeros, &mut batch.entity(&entity, None));
        let Some(crate::export::Metrics { request, .. }) = batch.finish() else { return Vec::new() };
        match &request.resource_metrics[0].scope_metrics[0].metrics[0].data {
            Some(Data::Sum(sum)) => sum.data_points.iter().map(|point| point.value).collect(),
            other => panic!("a sum was expected: {other:?}"),
        }
    }

    fn whole(values: &[i64]) -> Vec<Option<Value>> {
        values.iter().map(|value| Some(Value::AsInt(*value))).collect()
    }

    #[test]
    fn a_part_with_a_point_of_its_own_is_not_in_the_rest() {
        assert_eq!(points(&ERRORS, true, "Tcp: InErrs InCsumErrors\nTcp: 7 3\n"), whole(&[3, 4]));
        assert_eq!(points(&ERRORS, true, "Tcp: InErrs InCsumErrors\nTcp: 2 3\n"), whole(&[3, 0]));
    }

    #[test]
    fn a_counter_that_the_kernel_lacks_has_no_point() {
        assert_eq!(points(&ERRORS, true, "Tcp: InErrs\nTcp: 7\n"), whole(&[7]));
        assert_eq!(points(&ERRORS, true, ""), whole(&[]));
    }

    #[test]
    fn zeros_are_told_only_where_they_are_wanted() {
        let text = "Tcp: InErrs InCsumErrors\nTcp: 5 0\n";
        assert_eq!(points(&ERRORS, false, text), whole(&[5]));
        assert_eq!(points(&ERRORS, true, text), whole(&[0, 5]));
    }

    #[test]
    fn milliseconds_of_the_kernel_are_seconds_here() {
        const TIME: Family = Family(&metric::TCP_MEMORY_PRESSURE_TIME, &[], &[row("TcpExtChrono", &[])]);
        let text = "TcpExt: Chrono\nTcpExt: 1250\n";
        assert_eq!(points(&TIME, true, text), [Some(Value::AsDouble(1.25))]);
    }
}
