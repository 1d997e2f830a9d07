//! SIGHUP asks for a reload. A process of its own, for a signal reaches every watch of a process.

use std::time::Duration;

use jitterscope::config::{Change, Watch};
use rustix::process::{Signal, getpid, kill_process};

#[tokio::test]
async fn each_hangup_is_a_request_also_when_nothing_changed() {
    let mut watch = Watch::new(None).unwrap();
    for _ in 0..3 {
        kill_process(getpid(), Signal::HUP).unwrap();
        let change = tokio::time::timeout(Duration::from_secs(5), watch.changed()).await;
        assert_eq!(change, Ok(Change::Requested));
    }
}
