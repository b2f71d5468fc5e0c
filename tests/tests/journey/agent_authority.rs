//! The authority of agents: made on the command line, and what it signs is let in.

use std::os::unix::fs::PermissionsExt as _;

use portcullis_tests::{Setup, Upstream, agents::Agent, ca::Ca, document::write_private, free_address};

use crate::mtls::{Agents, get, setup};

/// Runs `portcullis agents` in the gateway's directory.
fn authority(setup: &Setup, arguments: &[&str]) -> Result<String, String> {
    let output = setup.command().arg("agents").args(arguments).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn the_authority_of_agents_is_made_and_signs_for_a_day() {
    let upstream = Upstream::start();
    let address = free_address();
    let setup = setup(&upstream, address, &Ca::new("unused"), "ca = \"issuing/root.pem\"");
    authority(&setup, &["init", "--root", "away", "--issuing", "issuing", "--name", "example"]).expect("it is made");
    for key in ["away/root.key", "issuing/issuing.key"] {
        assert_eq!(mode(&setup.path(key)), 0o600, "{key}");
    }
    assert!(!setup.path("issuing/root.key").exists(), "the root's key is apart");
    let again =
        authority(&setup, &["init", "--root", "away", "--issuing", "other"]).expect_err("no key is overwritten");
    assert!(again.contains("cannot be made") && !setup.path("other").exists(), "{again}");
    let agents = Agents::launch(setup, address);
    let setup = agents.gateway.setup();
    let (key, request) = Agent::request();
    write_private(&setup.path("agent.csr"), request.as_bytes());
    let sign = |name: &str, request: &str| {
        let arguments = ["sign", "--issuing", "issuing", "--tenant", "acme", "--agent", name, "--request", request];
        authority(setup, &[&arguments[..], &["--config", "portcullis.toml"]].concat())
    };
    // The root goes away, and is not needed.
    std::fs::remove_dir_all(setup.path("away")).expect("it is put away");
    let chain = sign("billing-7", "agent.csr").expect("it is signed");
    let request = get("/agents");
    assert_eq!(agents.ask(&Agent::of_pem(&chain, &key), &request).status, 200);
    let seen = upstream.seen_whole(&request.mark);
    assert_eq!(seen.header("x-portcullis-subject").as_deref(), Some("agent:acme:billing-7"), "the name is ours");
    for (name, request) in [("Billing", "agent.csr"), ("billing-7", "portcullis.toml"), ("billing-7", "missing.csr")] {
        assert!(sign(name, request).is_err(), "{name} {request}");
    }
}
