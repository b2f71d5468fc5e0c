//! The samples of `deploy/upstream-examples`, each against assertions that must pass and assertions that must not.

#[expect(unreachable_pub, reason = "it is written for an app that uses it as a module")]
#[path = "../../../deploy/upstream-examples/rust/assertion.rs"]
mod sample;
mod vectors;

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;
use vectors::{AUDIENCE, ISSUER, vectors};

fn folder(language: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/upstream-examples").join(language)
}

/// Runs a sample, and compares its verdict of each case.
fn judged_by(mut command: Command) {
    let vectors = vectors();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; `scripts/setup.sh test` installs what it needs"));
    child.stdin.take().expect("piped").write_all(vectors.to_string().as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command:?}: {}", output.status);
    let said = String::from_utf8(output.stdout).expect("text");
    let cases = vectors["cases"].as_array().expect("a list");
    let expected: Vec<String> =
        cases.iter().map(|case| format!("{} {}", text(case, "name"), text(case, "verdict"))).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

fn text<'v>(case: &'v Value, name: &str) -> &'v str {
    case[name].as_str().expect("a text")
}

#[test]
fn the_python_sample_passes_what_is_good_and_nothing_else() {
    // Debian's packages are those of Debian's Python, whatever else is on the path.
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-B").arg(folder("python").join("assertion.py"));
    judged_by(command);
}

#[test]
fn the_node_sample_passes_what_is_good_and_nothing_else() {
    let mut command = Command::new("node");
    command.arg(folder("node").join("assertion.mjs"));
    judged_by(command);
}

#[test]
fn the_go_sample_passes_what_is_good_and_nothing_else() {
    let cache = tempfile::tempdir().expect("a directory");
    let mut command = Command::new("go");
    command.arg("run").arg(folder("go").join("assertion.go")).env("GOCACHE", cache.path()).env("GOFLAGS", "-mod=mod");
    judged_by(command);
}

#[test]
fn the_rust_sample_passes_what_is_good_and_nothing_else() {
    let vectors = vectors();
    let keys = sample::Keys::parse(&vectors["jwks"]).expect("a key set");
    for case in vectors["cases"].as_array().expect("a list") {
        let request = (text(case, "method"), text(case, "target"));
        let now = portcullis_tests::tokens::now();
        let verdict = sample::verify(&keys, ISSUER, AUDIENCE, request, text(case, "assertion"), now);
        let verdict = verdict.map_or("refused".to_owned(), |claims| text(&claims, "kind").to_owned());
        assert_eq!(verdict, text(case, "verdict"), "{case}");
    }
}
