//! Runs every corpus file through its target: seeds, and all that fuzzing has ever found.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use vswitchd_fuzz_targets::TARGETS;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Names in a folder of `fuzz/`, `.rs` left off. Hidden files are no part of the corpus.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let names = entries.map(|entry| {
        entry.expect("the folder is readable").file_name().into_string().expect("names are UTF-8")
    });
    names.filter(|name| !name.starts_with('.')).map(|name| name.trim_end_matches(".rs").to_owned()).collect()
}

#[test]
fn every_corpus_file_passes_its_target() {
    for (name, target) in TARGETS {
        let folder = fuzz_folder().join("corpus").join(name);
        let cases = names(&folder);
        assert!(!cases.is_empty(), "{name} has no seeds");
        for case in cases {
            println!("{name}/{case}");
            target(&fs::read(folder.join(case)).unwrap());
        }
    }
}

#[test]
fn every_target_has_a_binary_and_a_corpus_and_nothing_else_has() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz_folder().join("corpus")), targets);
    assert_eq!(names(&fuzz_folder().join("fuzz_targets")), targets);
}
