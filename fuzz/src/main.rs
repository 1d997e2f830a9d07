//! One target of `jitterscope::fuzz` under libFuzzer, by its name in `JITTERSCOPE_FUZZ`; without a name it lists them.
//! `integration/fuzz.sh` builds it, with the coverage that libFuzzer needs.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod target {
    #![expect(clippy::exit, clippy::print_stdout, reason = "it is the main function of this program")]

    use std::sync::OnceLock;

    use jitterscope::fuzz::{Target, targets};

    static TARGET: OnceLock<&'static Target> = OnceLock::new();

    fn choose() {
        let name = std::env::var("JITTERSCOPE_FUZZ").unwrap_or_default();
        match targets().find(|target| target.name == name) {
            Some(target) => _ = TARGET.set(target),
            None => {
                targets().for_each(|target| println!("{}", target.name));
                std::process::exit(0);
            }
        }
    }

    libfuzzer_sys::fuzz_target!(init: choose(), |bytes: &[u8]| {
        if let Some(target) = TARGET.get() {
            target.try_with(bytes);
        }
    });
}

#[cfg(not(fuzzing))]
fn main() {}
