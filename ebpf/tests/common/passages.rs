//! The program that follows packets between device and socket, in each of the forms that kernels accept.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jitterscope_ebpf::abi::{EXEMPLARS_SAMPLED, passage_event, passage_key, passage_times};
use jitterscope_ebpf::histogram::Range;
use jitterscope_ebpf::kernellatency::{FUNCTIONS, KernelLatency};
use jitterscope_ebpf::spans::Spans;
use jitterscope_ebpf::{Form, Kernel, Merge as _, ObserverOptions, Ring, Telling};

use super::{Namespace, Network};

/// A bound of the histogram, 2^-3 s: what is above it is in buckets of its own.
pub(crate) const THRESHOLD: Duration = Duration::from_millis(125);
/// The first bucket above the threshold.
pub(crate) const SLOW: usize = (-12 - Range::LATENCY.lowest) as usize;

/// All interfaces are looked at: the tests of a file run one after the other.
static ALONE: Mutex<()> = Mutex::new(());

/// How functions are hooked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Functions {
    /// In the best form.
    Best,
    /// By kprobes.
    Kprobes,
    /// Not at all.
    Unhooked,
}

impl Functions {
    /// Those that the kernel accepts, and of two that are the same here one.
    pub(crate) fn accepted() -> Vec<Self> {
        let all = [Self::Best, Self::Kprobes, Self::Unhooked];
        let forms = |functions| Passages::attach(&Namespace::new(), functions, &[]).forms();
        let [best, kprobes, unhooked] = all.map(forms);
        assert!(!unhooked.contains(&Form::Fentry) && !unhooked.contains(&Form::Kprobe));
        let mut accepted = vec![Self::Unhooked];
        accepted.extend((kprobes != unhooked).then_some(Self::Kprobes));
        accepted.extend((best != kprobes).then_some(Self::Best));
        accepted
    }

    /// The best form that the kernel accepts, and none at all.
    pub(crate) fn extremes() -> [Self; 2] {
        [Self::Unhooked, Self::Best]
    }

    fn without(self) -> Vec<String> {
        match self {
            Self::Best => Vec::new(),
            Self::Kprobes => FUNCTIONS.iter().map(|function| format!("fentry/{function}")).collect(),
            Self::Unhooked => FUNCTIONS.iter().map(|&function| function.to_owned()).collect(),
        }
    }
}

pub(crate) struct Passages {
    _alone: MutexGuard<'static, ()>,
    since: Instant,
    pub(crate) probe: KernelLatency,
    ring: Ring,
}

impl Passages {
    pub(crate) fn open(network: &Network, functions: Functions) -> Self {
        Self::attach(&network.router, functions, &[])
    }

    /// With links to spans, and the functions that the kernel accepts.
    pub(crate) fn open_linked(network: &Network, spans: &Spans) -> Self {
        Self::attach_with(&network.router, Functions::Best, &[], Some(spans))
    }

    pub(crate) fn attach(host: &Namespace, functions: Functions, entries: &[(&str, u32)]) -> Self {
        Self::attach_with(host, functions, entries, None)
    }

    fn attach_with(
        host: &Namespace,
        functions: Functions,
        entries: &[(&str, u32)],
        spans: Option<&Spans>,
    ) -> Self {
        // A test that failed leaves nothing that matters.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (kernel, without) = (Kernel::read(None).unwrap(), functions.without());
        let without: Vec<&str> = without.iter().map(String::as_str).collect();
        let latency = Range::LATENCY.bounds();
        let constants = [latency.constant()];
        let mut options = ObserverOptions { constants: &constants, ..ObserverOptions::new(host.inode()) };
        (options.without, options.entries, options.spans) = (&without, entries, spans);
        let since = Instant::now();
        let mut probe = KernelLatency::open(&kernel, &options).unwrap();
        let ring = probe.observer.events().unwrap();
        let passages = Self { _alone: alone, since, probe, ring };
        passages.tell(0);
        passages
    }

    /// One of so many flows is looked at.
    pub(crate) fn tell(&self, sampling: u32) {
        let telling = Telling {
            rate: 1000,
            burst: 1000,
            threshold: THRESHOLD,
            sampling,
            span_age: Duration::from_secs(30),
            exemplars: EXEMPLARS_SAMPLED,
            ..Telling::default()
        };
        self.probe.observer.configure(&telling).unwrap();
    }

    pub(crate) fn forms(&self) -> Vec<Form> {
        self.probe.observer.loaded().attachments().iter().map(|attached| attached.form).collect()
    }

    /// What was measured of packets of `of`.
    pub(crate) fn times(&self, of: &Namespace, wanted: impl Fn(&passage_key) -> bool) -> passage_times {
        let (mut sum, inode) = (passage_times::default(), of.inode());
        let add = |key: &passage_key, times: &passage_times| {
            if key.entity.netns == inode && wanted(key) {
                sum.merge(times);
            }
        };
        self.probe.times.for_each(add).unwrap();
        self.believe(&sum);
        sum
    }

    /// Nothing takes longer than the program has been there. Of a bucket the lower bound is known.
    fn believe(&self, times: &passage_times) {
        let since = self.since.elapsed().as_secs_f64();
        for histogram in [&times.total].into_iter().chain(&times.stages) {
            let longest = histogram.buckets.iter().rposition(|count| *count > 0).unwrap_or_default();
            let above = (f64::from(Range::LATENCY.lowest + longest as i32) / 4.0).exp2();
            assert!(above < since, "{above} s within {since} s: {histogram:?}");
        }
    }

    /// Packets on their way.
    pub(crate) fn under_way(&self) -> usize {
        self.probe.packets.for_each(|_, _| {}).unwrap()
    }

    /// Forgets those that were left behind by a run that was disturbed.
    pub(crate) fn forget(&self) {
        self.probe.packets.retain(|_, _| false).unwrap();
    }

    pub(crate) fn events(&mut self, of: &Namespace) -> Vec<passage_event> {
        let inode = of.inode();
        let records = std::iter::from_fn(|| self.ring.take::<passage_event>()).map(Result::unwrap);
        records.filter(|event| event.key.entity.netns == inode).collect()
    }
}

/// What came in between.
pub(crate) fn more(now: &passage_times, then: &passage_times) -> passage_times {
    let mut more = *now;
    more.total.sum -= then.total.sum;
    let less = |now: &mut [u64], then: &[u64]| now.iter_mut().zip(then).for_each(|(n, t)| *n -= t);
    less(&mut more.total.buckets, &then.total.buckets);
    for (stage, earlier) in more.stages.iter_mut().zip(&then.stages) {
        stage.sum -= earlier.sum;
        less(&mut stage.buckets, &earlier.buckets);
    }
    more
}

/// Some hosts run no tracing program while a task of their own is current, and whose task a softirq interrupts is chance:
/// a run that is short of packets is repeated. That there are too many is a failure in any run, and checked by `body`.
pub(crate) fn undisturbed(what: &str, mut body: impl FnMut() -> bool) {
    assert!((0..10).any(|_| body()), "{what}: in none of 10 runs");
}

/// Polls until `condition` is true; false when it stays false for two seconds.
pub(crate) fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(2);
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
