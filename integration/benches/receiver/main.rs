//! What the receiver costs, as ratios within one run where it can be: on a machine that others use too, a ratio means
//! more than a number. `cargo bench --package jitterscope-integration` after `cargo build --release`; names of parts
//! after `--` run these alone.
#![expect(clippy::print_stdout, reason = "the figures are the product")]

mod collection;
mod delivery;
mod drops;
mod footprint;
mod overhead;
mod process;
mod sink;
mod sockets;
mod spans;

use anyhow::Result;
use jitterscope_integration::requirements;

/// Measures and prints one thing.
type Part = fn() -> Result<()>;

fn main() -> Result<()> {
    if sockets::held()? || delivery::sent()? {
        return Ok(());
    }
    // Cargo passes --bench, and --test where it only wants to know that benchmarks build.
    if std::env::args().any(|argument| argument == "--test") || !requirements::met(&["ip", "unshare"]) {
        return Ok(());
    }
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let parts: [(&str, Part); 7] = [
        ("footprint", footprint::run),
        ("drops", drops::run),
        ("overhead", overhead::run),
        ("collection", collection::run),
        ("sockets", sockets::run),
        ("delivery", delivery::run),
        ("spans", spans::run),
    ];
    let wanted = |name: &str| named.is_empty() || named.iter().any(|wanted| wanted == name);
    parts.iter().filter(|(name, _)| wanted(name)).try_for_each(|(_, run)| run())
}

/// The middle one of some figures, and in brackets those that a quarter of them are below and above.
fn quartiles(mut figures: Vec<f64>, digits: usize) -> String {
    figures.sort_by(f64::total_cmp);
    let at = |quarter: usize| figures.get(figures.len() * quarter / 4).copied().unwrap_or(f64::NAN);
    format!("{:.digits$} ({:.digits$} to {:.digits$})", at(2), at(1), at(3))
}

/// The middle one of some figures.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
