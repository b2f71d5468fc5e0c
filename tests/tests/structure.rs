//! The rooms and their directions, `api <- plugins <- config <- gateway`, read off the manifests; `tests` know none of
//! them. `deny.toml` says the same to cargo-deny; this needs nothing but cargo.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use anyhow::{Context, ensure};
use serde_json::Value;

/// Each crate of ours and which others of ours it may name, in any kind of dependency. A new crate has to be placed.
const ROOMS: &[(&str, &[&str])] = &[
    ("portcullis-api", &[]),
    ("portcullis-plugins", &["portcullis-api"]),
    ("portcullis-config", &["portcullis-api", "portcullis-plugins"]),
    ("portcullis", &["portcullis-api", "portcullis-plugins", "portcullis-config"]),
    ("portcullis-benches", &["portcullis-api", "portcullis-plugins", "portcullis-config"]),
    ("portcullis-fuzz", &["portcullis-api", "portcullis-plugins"]),
    ("portcullis-tests", &[]),
];

/// The gateway is the only room that names Pingora; the load measures against it.
const MAY_NAME_PINGORA: &[&str] = &["portcullis", "portcullis-benches"];

/// A second TLS library, and an RSA whose private-key operations leak by their timing (RUSTSEC-2023-0071).
const BANNED: &[&str] = &["rsa", "openssl", "openssl-sys", "native-tls"];

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: String,
    to: String,
}

impl Edge {
    fn new(from: &str, to: &str) -> Self {
        Self { from: from.to_owned(), to: to.to_owned() }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `cargo metadata` of the workspace's own crates.
fn metadata() -> anyhow::Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The crates, and which crate names which, whatever the kind of dependency, target or feature.
fn crates_and_edges(metadata: &Value) -> anyhow::Result<(BTreeSet<String>, BTreeSet<Edge>)> {
    let name = |value: &Value| value["name"].as_str().map(str::to_owned).context("a package without a name");
    let (mut crates, mut edges) = (BTreeSet::new(), BTreeSet::new());
    for package in metadata["packages"].as_array().context("no packages")? {
        let from = name(package)?;
        for dependency in package["dependencies"].as_array().context("no dependencies")? {
            edges.insert(Edge { from: from.clone(), to: name(dependency)? });
        }
        crates.insert(from);
    }
    Ok((crates, edges))
}

/// Edges that go against a direction.
fn against(edges: &BTreeSet<Edge>) -> Vec<&Edge> {
    let ours = |name: &str| name == "portcullis" || name.starts_with("portcullis-");
    let allowed = |edge: &Edge| {
        let room = ROOMS.iter().find(|(name, _)| *name == edge.from);
        if ours(&edge.to) {
            room.is_some_and(|(_, below)| below.contains(&edge.to.as_str()))
        } else if edge.to == "pingora" || edge.to.starts_with("pingora-") {
            MAY_NAME_PINGORA.contains(&edge.from.as_str())
        } else {
            true
        }
    };
    edges.iter().filter(|edge| !allowed(edge)).collect()
}

/// Names of the packages in a lock file.
fn locked(lock: &str) -> BTreeSet<&str> {
    lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect()
}

#[test]
fn every_crate_has_a_room_and_the_directions_hold() {
    let (crates, edges) = crates_and_edges(&metadata().unwrap()).unwrap();
    let rooms: BTreeSet<String> = ROOMS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(crates, rooms);
    assert!(edges.contains(&Edge::new("portcullis", "pingora-proxy")), "the reading of the manifests is broken");
    assert!(edges.contains(&Edge::new("portcullis-config", "portcullis-plugins")));
    assert_eq!(against(&edges), Vec::<&Edge>::new());
}

#[test]
fn an_edge_against_a_direction_is_found() {
    for (from, to) in [
        ("portcullis-api", "portcullis-plugins"),
        ("portcullis-plugins", "portcullis-config"),
        ("portcullis-config", "portcullis"),
        ("portcullis-tests", "portcullis-api"),
        ("portcullis-benches", "portcullis"),
        ("portcullis-fuzz", "portcullis-config"),
        ("portcullis-plugins", "pingora-http"),
        ("portcullis-config", "pingora"),
        ("portcullis-new", "portcullis-api"),
    ] {
        assert_eq!(against(&BTreeSet::from([Edge::new(from, to)])).len(), 1, "{from} -> {to}");
    }
}

#[test]
fn jwt_24_banned_crates_are_not_locked_and_cargo_deny_knows_them() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let locked = locked(&lock);
    assert!(locked.contains("rustls"), "the reading of the lock file is broken");
    let deny = fs::read_to_string(root().join("deny.toml")).unwrap();
    for name in BANNED {
        assert!(!locked.contains(name), "{name} is locked; `cargo tree -i {name}` shows who wants it");
        assert!(deny.contains(&format!("crate = \"{name}\"")), "deny.toml does not ban {name}");
    }
}
