//! A probe that panics ends alone, and its series with it.

use std::{
    io::{self, Write},
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc as blocking,
    },
};

use arc_swap::ArcSwap;
use jitterscope_semconv::metric;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    metrics::v1::{NumberDataPoint, metric::Data},
};
use tokio::{sync::mpsc, task::JoinHandle};

use super::*;
use crate::{
    account::{Account, State},
    config::{self, Sources},
    export::{Destination, Exporters, Sink},
    pods::{self, CriSetting, Roots},
    probe::{CollectError, PROBES, Probe},
    telemetry::Telemetry,
};

/// In what a probe panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Panics {
    Collecting,
    Reconfigured,
    Never,
}

/// A probe of one counter of the node, that panics once it is told to.
struct Fragile {
    metric: &'static jitterscope_semconv::Metric,
    panics: Panics,
    now: Arc<AtomicBool>,
}

impl Fragile {
    fn may_panic(&self, at: Panics) {
        assert!(self.panics != at || !self.now.load(Relaxed), "as it was told to");
    }
}

impl Probe for Fragile {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        batch.entity(&round.pods.node(), None).counter(self.metric, &[], 5);
        self.may_panic(Panics::Collecting);
        Ok(())
    }

    fn reconfigure(&mut self, _settings: &ProbeSettings) -> Result<(), CollectError> {
        self.may_panic(Panics::Reconfigured);
        Ok(())
    }
}

/// Where a destination's lines go.
struct Lines(blocking::Sender<Vec<u8>>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.send(line.to_vec()).map_err(io::Error::other)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A task with two probes, `tcp` and `udp`, of which the first panics.
struct Bed {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
    exporters: Exporters,
    lines: blocking::Receiver<Vec<u8>>,
    accounts: [Arc<Account>; 2],
    settings: config::Settings,
}

impl Bed {
    fn start(panics: Panics, now: &Arc<AtomicBool>) -> Self {
        let (to, lines) = blocking::channel();
        let sink = Sink::Json(Box::new(Lines(to)));
        let (exporters, outbox) = Exporters::start(vec![Destination { name: "lines".into(), sink }]);
        let roots =
            Roots { proc: "/nowhere".into(), cgroup: "/nowhere".into(), netns: vec![], host: "/".into() };
        let settings = pods::Settings { roots, cri: CriSetting::Off, ..pods::Settings::default() };
        let (pods, writer) = pods::start(&settings);
        tokio::spawn(writer);
        let counters = Setup { walk: Arc::default(), btf: None, account: Arc::default() };
        let outbox = Arc::new(ArcSwap::from_pointee(outbox));
        let around = Surroundings { pods, outbox, counters, spans: Arc::default(), ticks: false };
        let settings = Sources::default().load(PROBES).unwrap();
        let duration = Telemetry::new(&settings.resource).collect_duration();
        let accounts = ["tcp", "udp"].map(|name| {
            let definition = PROBES.iter().find(|definition| definition.name == name).unwrap();
            Arc::new(Account::new(definition, duration.clone()))
        });
        let metrics = [&metric::TCP_SEGMENT_RETRANSMITS, &metric::UDP_DATAGRAMS];
        let probes =
            accounts.iter().zip(metrics).zip([panics, Panics::Never]).map(|((account, metric), panics)| {
                let probe = Box::new(Fragile { metric, panics, now: Arc::clone(now) });
                let settings = &settings.probes[account.definition.name];
                Running::new(probe, Arc::clone(account), settings, Instant::now() + Duration::from_secs(3600))
            });
        let (commands, receiver) = mpsc::channel(1);
        let task = tokio::spawn(Task::new(probes.collect(), around, receiver).unwrap().run());
        Self { commands, task, exporters, lines, accounts, settings }
    }

    async fn collect(&self) {
        let (done, finished) = tokio::sync::oneshot::channel();
        self.commands.send(Command::Collect(done)).await.unwrap();
        finished.await.unwrap();
    }

    async fn reconfigure(&self, name: &'static str) {
        let settings = Box::new(self.settings.probes[name].clone());
        self.commands.send(Command::Reconfigure(name, settings)).await.unwrap();
    }

    /// Ends all; the points of each metric, in the order in which they came.
    async fn end(self) -> [Vec<NumberDataPoint>; 2] {
        drop(self.commands);
        self.task.await.unwrap();
        self.exporters.drain(Duration::from_secs(60)).await;
        let mut points = [Vec::new(), Vec::new()];
        for line in self.lines.try_iter() {
            let request: ExportMetricsServiceRequest = serde_json::from_slice(&line).unwrap();
            let scopes = request.resource_metrics.into_iter().flat_map(|of| of.scope_metrics);
            for metric in scopes.flat_map(|scope| scope.metrics) {
                let Some(Data::Sum(sum)) = metric.data else { panic!("a sum") };
                points[usize::from(metric.name == metric::UDP_DATAGRAMS.name)].extend(sum.data_points);
            }
        }
        points
    }
}

async fn ends_alone(panics: Panics) {
    let now = Arc::default();
    let bed = Bed::start(panics, &now);
    bed.collect().await;
    assert_eq!(bed.accounts[0].series(), 1);
    now.store(true, Relaxed);
    bed.reconfigure("tcp").await;
    bed.collect().await;
    bed.collect().await;
    assert!(matches!(**bed.accounts[0].state.load(), State::Failed(_)));
    assert!(matches!(**bed.accounts[1].state.load(), State::Running(_)));
    assert_eq!(bed.accounts.each_ref().map(|account| account.series()), [0, 1]);
    let [broken, whole] = bed.end().await;
    let (end, told) = broken.split_last().unwrap();
    assert!(!told.is_empty() && told.iter().all(|point| point.flags == 0), "{panics:?} {told:?}");
    assert_eq!((end.flags, end.value), (1, None), "{panics:?} {broken:?}");
    assert_eq!(end.start_time_unix_nano, told[0].start_time_unix_nano);
    assert!(told.iter().all(|point| point.time_unix_nano < end.time_unix_nano));
    // Three collections and the last one.
    assert_eq!(whole.iter().map(|point| point.flags).collect::<Vec<_>>(), [0; 4], "{panics:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_series_of_a_probe_that_panics_end_and_those_of_others_go_on() {
    ends_alone(Panics::Collecting).await;
    ends_alone(Panics::Reconfigured).await;
}
