//! Puts numbered points and records into a destination's queue on disk until it is killed, and prints the number after
//! the last one of each request that the queue has taken: `queue_producer SETTINGS FIRST`.
#![expect(clippy::print_stdout, reason = "what the test that kills it waits for")]

use std::io::Write;

use anyhow::{Context, Result};
use jitterscope_integration::otlp::Signal;
use jitterscope_integration::otlp::deliver::Bed;
use jitterscope_integration::otlp::place::scattered;

/// Points and records of a request, in turn: what is on one page of the file, and what is on many.
const ITEMS: [u64; 3] = [5, 5, 2000];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let settings = arguments.next().context("settings of a destination")?;
    let mut next: u64 = arguments.next().context("the first number")?.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let bed = Bed::start(&[&settings]);
        for items in ITEMS.into_iter().cycle() {
            for signal in Signal::ALL {
                bed.send(signal, (next..next + items).map(scattered));
            }
            next += items;
            while Signal::ALL.iter().any(|signal| !taken(&bed, *signal)) {
                tokio::time::sleep(std::time::Duration::from_micros(200)).await;
            }
            println!("{next}");
            std::io::stdout().flush()?;
        }
        Ok(())
    })
}

/// Whether all that waits is on disk.
fn taken(bed: &Bed, signal: Signal) -> bool {
    let terms = bed.terms(signal);
    terms.queued == terms.on_disk
}
