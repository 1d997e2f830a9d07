//! Labels of a real pod: those that are wanted, and no others, are with its signals in the real Collector, also from the
//! moment on that a changed file wants them.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs;

use jitterscope_integration::collector::Collector;
use jitterscope_integration::containerd::{Containerd, LABEL, Pod};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Attributes, has};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, metric};

/// The labels of a resource, as name and value.
fn labels(resource: &Attributes) -> Vec<(&str, &str)> {
    let label = |(key, value)| {
        let (key, value): (&String, &String) = (key, value);
        Some((key.strip_prefix(key::K8S_POD_LABEL.key)?.strip_prefix('.')?, value.as_str()))
    };
    resource.iter().filter_map(label).collect()
}

/// Waits for a resource of the pod with these labels among all that the Collector has.
fn arrive(collector: &Collector, pod: &Pod, wanted: &[(&str, &str)]) {
    let resource = || {
        let received = collector.received().unwrap();
        let is = |resource: &Attributes| {
            has(resource, key::K8S_POD_UID.key, &pod.uid)
                && has(resource, key::K8S_POD_NAME.key, &pod.name)
                && labels(resource) == wanted
        };
        received.points(metric::K8S_POD_NETWORK_IO.name).any(|point| is(&point.resource)).then_some(())
    };
    poll::until(&format!("a point of the pod with {wanted:?}"), resource).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_are_wanted_arrive_with_the_pods_signals_and_no_others() {
    if !requirements::met(&["containerd", "runc", "ctr"]) {
        return;
    }
    let Some(collector) = Collector::start().unwrap() else { return };
    let mut containerd = Containerd::start().await.unwrap();
    let pod = containerd.run_pod("shop", "cart-7d9f").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jitterscope.yaml");
    let socket = containerd.socket();
    let want = |labels: &str| {
        fs::write(&file, format!("entities: {{ cri: 'unix://{}', labels: [{labels}] }}\n", socket.display()))
            .unwrap();
    };
    want(&format!("{LABEL}, absent"));
    let (path, endpoint) = (file.display().to_string(), collector.endpoint());
    let _receiver =
        Receiver::start(&["--endpoint", &endpoint, "--set", "interval=200ms", "-c", &path]).unwrap();
    arrive(&collector, &pod, &[(LABEL, "shop")]);
    want(&format!("app, {LABEL}"));
    arrive(&collector, &pod, &[("app", "cart-7d9f"), (LABEL, "shop")]);
    want("");
    arrive(&collector, &pod, &[]);
}
