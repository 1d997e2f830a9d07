//! `make demo`: what it prints of a request belongs together, and nothing of what it started outlives it.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::HashSet;
use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use jitterscope_integration::{poll, receiver, requirements, shop::Language, tools};
use rustix::process::{Pid, Signal, kill_process};

/// Requests that are waited for.
const WANTED: usize = 3;

/// What is printed of one request.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Shown {
    log: String,
    exemplar: String,
    link: String,
    tree: Vec<String>,
}

fn shown(output: &str) -> Vec<Shown> {
    let blocks = output.split("\n\n").filter(|block| block.starts_with("log ") && block.contains("trace  "));
    let block = |block: &str| {
        let mut lines = block.lines();
        let line = |of: &str| block.lines().find(|line| line.starts_with(of)).unwrap_or_default().to_owned();
        let (log, exemplar, link) = (line("log"), line("exemplar"), line("trace"));
        lines.find(|line| line.starts_with("trace"));
        Shown { log, exemplar, link, tree: lines.map(str::to_owned).collect() }
    };
    // The last one may still be being written.
    let whole = output.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
    blocks.filter(|text| whole.contains(text)).map(block).collect()
}

fn namespaces(of: u32) -> Vec<String> {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(&format!("jst{of}-"))).collect()
}

struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

#[test]
fn what_is_shown_of_a_request_belongs_together_and_ctrl_c_ends_it_all() {
    let is_built = |tool, program| tools::path_or_skip(tool, program).is_some();
    let built = is_built("jaeger", "jaeger") && is_built("prometheus", "prometheus");
    if !requirements::met(&["ip", "nft"])
        || !built
        || !is_built("collector", "otelcol")
        || !Language::Go.is_there()
    {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("output");
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.env("JITTERSCOPE_BIN", receiver::binary().unwrap()).stdout(fs::File::create(&path).unwrap());
    let mut demo = Demo(command.stdin(Stdio::null()).spawn().unwrap());
    let output = || fs::read_to_string(&path).unwrap();
    let found = poll::until("some requests", || {
        let found = shown(&output());
        (found.len() >= WANTED || demo.0.try_wait().unwrap().is_some()).then_some(found)
    })
    .unwrap_or_else(|error| panic!("{error}: {}", output()));
    assert!(found.len() >= WANTED, "{}", output());
    for one in &found {
        let (_, trace) = one.link.rsplit_once('/').unwrap();
        assert_eq!(trace.len(), 32, "{one:#?}");
        assert!(one.log.contains(&format!("trace_id={trace}")), "{one:#?}");
        assert!(one.exemplar.contains(&format!("\"trace_id\":\"{trace}\"")), "{one:#?}");
        let event = one.log.split_whitespace().nth(1).unwrap();
        assert!(one.tree.iter().any(|line| line.trim_start().starts_with(event)), "{one:#?}");
        let faults = ["-lost/", "-kept/", "/reset/", "/abort/"];
        assert!(one.tree.iter().any(|line| faults.iter().any(|fault| line.contains(fault))), "{one:#?}");
    }
    assert_eq!(found.iter().map(|one| &one.link).collect::<HashSet<_>>().len(), found.len());

    let pid = demo.0.id();
    assert_eq!(namespaces(pid).len(), 3);
    let pid_to_end = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid_to_end, Signal::INT).unwrap();
    let status = poll::until("it ends", || demo.0.try_wait().transpose()).unwrap().unwrap();
    assert!(status.success(), "{status}: {}", output());
    assert_eq!(namespaces(pid), [""; 0]);
    let jaeger = found[0].link.split('/').nth(2).unwrap();
    assert!(TcpStream::connect(jaeger).is_err(), "{jaeger} still answers");
}
