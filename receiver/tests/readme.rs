//! The README's generated part is what the program says.

use std::{fs, path::Path};

use jitterscope::{
    cli::{State, TableFormat, table},
    probe::PROBES,
};

#[test]
fn the_probe_table_of_the_readme_is_what_the_probes_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(&path).expect("the README is there");
    let rows: Vec<_> = PROBES
        .iter()
        .map(|probe| (*probe, State { can_run: Ok(()), limitation: None, hooks: Vec::new() }))
        .collect();
    let table = table(TableFormat::Markdown, &rows);
    let begin = readme.find("<!-- probes:").expect("the table's beginning is marked");
    let begin = begin + readme[begin..].find('\n').expect("the mark stands on a line") + 1;
    let end = readme.find("<!-- /probes -->").expect("the table's end is marked");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        let updated = format!("{}{table}{}", &readme[..begin], &readme[end..]);
        fs::write(&path, updated).expect("the README can be written");
        return;
    }
    assert_eq!(&readme[begin..end], table, "UPDATE_REFERENCE=1 cargo test -p jitterscope --test readme");
}
