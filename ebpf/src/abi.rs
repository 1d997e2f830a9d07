//! The structures that cross a map or a ring, generated from `src/bpf/abi.h`, which documents them.
#![expect(missing_docs, reason = "the C header documents every structure and field")]
#![expect(non_camel_case_types, reason = "the C names are kept, so that a search finds both sides")]

include!(concat!(env!("OUT_DIR"), "/abi.rs"));
