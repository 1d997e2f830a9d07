//! What a queue does while its disk fails or does not answer.

use jitterscope_semconv::value::ExporterDropCause;

use super::{
    faulty::{Fault, Mode},
    *,
};

/// A queue on disk and what is counted of it.
struct Bed {
    disk: Disk,
    account: Arc<DestinationAccount>,
    owners: Owners,
    _directory: tempfile::TempDir,
}

/// Requests that do not fit into memory together: to be read, they come from the disk.
const BYTES: usize = 400_000;

impl Bed {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (path, max_age) = (directory.path().join("queue"), Duration::from_secs(3600));
        let account = Arc::new(DestinationAccount::new("bed".into()));
        let settings = DiskQueue { path, size: WAL_BYTES + (64 << 20), max_age };
        let mut disk = Disk::new(settings, Arc::clone(&account), watch::channel(None).1);
        disk.open().await;
        Self { disk, account, owners: Owners::default(), _directory: directory }
    }

    fn fault(&self) -> Fault {
        Fault::under(self.disk.store.as_ref().unwrap().database())
    }

    /// Puts requests in; whether each of them was.
    async fn append(&mut self, numbers: std::ops::RangeInclusive<i64>) -> Vec<bool> {
        let mut put = Vec::new();
        for number in numbers {
            let noise = (0..BYTES).map(|at| (at.wrapping_mul(0x9e37_79b1).wrapping_add(at >> 3) >> 11) as u8);
            let request = Encoded { bytes: noise.collect::<Vec<_>>().into(), items: 1 };
            self.account.produced(Signal::Logs, 1);
            let item = Item { number, ..Item::new(Signal::Logs, request, None) };
            put.push(self.disk.append(&item, &self.owners).await);
        }
        put
    }

    /// Takes and delivers all that comes out; the numbers.
    async fn deliver(&mut self) -> Vec<i64> {
        let mut numbers = Vec::new();
        while let Some(item) = self.disk.take(Signal::Logs, i64::MAX, &self.owners).await {
            assert_eq!(item.request.bytes.len(), BYTES);
            self.disk.done(Signal::Logs, item.number).await;
            self.account.delivered(Signal::Logs, 1);
            numbers.push(item.number);
        }
        numbers
    }

    /// Waits until the disk is used again.
    async fn recover(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.disk.store.is_none() {
            assert!(Instant::now() < deadline, "{:?}", self.account.disk_error());
            self.disk.retry = Instant::now();
            self.disk.open().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.disk.retry = Instant::now();
    }

    /// Produced, on disk, delivered; nothing was given up.
    fn terms(&self) -> (u64, u64, u64) {
        let terms = self.account.terms(Signal::Logs);
        assert!(ExporterDropCause::ALL.iter().all(|cause| terms.dropped(*cause) == 0), "{terms:?}");
        assert_eq!(terms.recovered, 0);
        (terms.produced, terms.on_disk, terms.delivered)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn while_the_disk_fails_nothing_is_lost_and_it_is_used_again_when_it_does_not() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.append(1..=5).await, [true; 5]);
    bed.fault().set(Mode::Fails);
    assert_eq!(bed.append(6..=7).await, [false; 2], "they go elsewhere");
    let error = bed.account.disk_error().unwrap();
    assert!(error.contains("disk I/O error") && error.ends_with("going on in memory"), "{error}");
    assert_eq!((bed.deliver().await, bed.terms()), (vec![], (7, 5, 0)));
    bed.recover().await;
    assert_eq!(bed.append(8..=8).await, [true]);
    assert_eq!(bed.account.disk_error(), None);
    // It fails when they are read too: they stay where they are.
    bed.fault().set(Mode::Fails);
    assert_eq!((bed.deliver().await, bed.terms()), (vec![], (8, 6, 0)));
    bed.recover().await;
    assert_eq!((bed.deliver().await, bed.terms()), (vec![1, 2, 3, 4, 5, 8], (8, 0, 6)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn while_the_disk_does_not_answer_nobody_waits_and_what_it_does_late_is_undone() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.append(1..=3).await, [true; 3]);
    let fault = bed.fault();
    fault.set(Mode::Hangs);
    assert_eq!(bed.append(4..=5).await, [false; 2]);
    let error = bed.account.disk_error().unwrap();
    assert!(error.ends_with("the disk does not answer; going on in memory"), "{error}");
    bed.disk.retry = Instant::now();
    assert_eq!(bed.append(6..=6).await, [false], "the file is still in use");
    assert_eq!((bed.deliver().await, bed.terms()), (vec![], (6, 3, 0)));
    fault.set(Mode::Works);
    bed.recover().await;
    assert_eq!(bed.terms(), (6, 3, 0), "the fourth is elsewhere");
    assert_eq!((bed.deliver().await, bed.terms()), (vec![1, 2, 3], (6, 0, 3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_read_or_done_with_while_the_disk_does_not_answer_comes_once() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.append(1..=3).await, [true; 3]);
    let fault = bed.fault();
    let first = bed.disk.take(Signal::Logs, i64::MAX, &bed.owners).await.unwrap();
    fault.set(Mode::Hangs);
    bed.disk.done(Signal::Logs, first.number).await;
    bed.account.delivered(Signal::Logs, 1);
    assert_eq!((bed.deliver().await, bed.terms()), (vec![], (3, 2, 1)));
    fault.set(Mode::Works);
    bed.recover().await;
    let fault = bed.fault();
    fault.set(Mode::Hangs);
    assert_eq!(bed.deliver().await, [0; 0], "the next one is not read in time");
    fault.set(Mode::Works);
    bed.recover().await;
    assert_eq!((bed.deliver().await, bed.terms()), (vec![2, 3], (3, 0, 3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_is_closed_without_waiting_for_ever() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.append(1..=3).await, [true; 3]);
    let fault = bed.fault();
    fault.set(Mode::Hangs);
    bed.disk.close().await;
    assert!(bed.account.disk_error().is_some());
    fault.set(Mode::Works);
    bed.recover().await;
    assert_eq!(bed.deliver().await, [1, 2, 3]);
}
