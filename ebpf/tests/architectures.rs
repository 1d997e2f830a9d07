//! The programs compile for each kind of machine, with the same sections, and what differs stands in one file.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "../build/clang.rs"]
mod clang;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bpf");

fn files() -> Vec<PathBuf> {
    fs::read_dir(SOURCES).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Sections with code, which name the hooks.
fn programs(object: &Path) -> BTreeSet<String> {
    let bytes = fs::read(object).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let code = elf.sections().filter(|section| section.kind() == object::SectionKind::Text);
    code.map(|section| section.name().unwrap().to_owned()).collect()
}

#[test]
fn each_program_compiles_for_each_architecture_with_the_same_hooks() {
    let (clang, directory) = (clang::find().unwrap(), tempfile::tempdir().unwrap());
    let sources: Vec<PathBuf> =
        files().into_iter().filter(|file| file.to_string_lossy().ends_with(".bpf.c")).collect();
    assert!(sources.len() > 10, "{sources:?}");
    for source in sources {
        let [x86, arm] = ["x86_64", "aarch64"].map(|architecture| {
            let object = directory.path().join(architecture);
            clang::compile(&clang, architecture, &source, &object).unwrap();
            programs(&object)
        });
        assert!(!x86.is_empty(), "{}", source.display());
        assert_eq!(x86, arm, "{}", source.display());
    }
}

#[test]
fn only_one_file_knows_architectures() {
    let knows = |file: &PathBuf| fs::read_to_string(file).unwrap().contains("__TARGET_ARCH_");
    let names: Vec<String> = files()
        .iter()
        .filter(|file| knows(file))
        .map(|file| file.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["kernel.h"]);
}
