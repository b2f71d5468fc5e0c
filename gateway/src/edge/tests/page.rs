//! The operator's page says what is so.

use std::collections::BTreeMap;

use portcullis_config::document::Listener;
use serde::Deserialize;

use super::super::*;

const PAGE: &str = include_str!("../../../../docs/edge.md");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    listeners: BTreeMap<String, Listener>,
}

#[test]
fn every_example_of_the_page_is_a_listener() {
    let examples: Vec<&str> = PAGE.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(examples.len(), 4);
    for example in examples {
        let parsed = toml::from_str::<Example>(example);
        assert!(parsed.is_ok_and(|parsed| parsed.listeners.len() == 1), "{example}");
    }
}

#[test]
fn the_defaults_of_the_page_are_the_defaults() {
    let Bounds {
        connections_max,
        connections_per_network_max,
        handshakes_max,
        handshake_timeout,
        head_timeout,
        idle_timeout,
        body_timeout,
        head_bytes_max,
        header_fields_max: _,
        target_bytes_max: _,
    } = Bounds::default();
    for (setting, default) in [
        ("connections_max", connections_max.to_string()),
        ("connections_per_network_max", connections_per_network_max.to_string()),
        ("handshakes_max", handshakes_max.to_string()),
        ("handshake_timeout", handshake_timeout.to_string()),
        ("head_timeout", head_timeout.to_string()),
        ("head_bytes_max", head_bytes_max.to_string()),
        ("idle_timeout", idle_timeout.to_string()),
        ("body_timeout", body_timeout.to_string()),
    ] {
        // A duration prints in the largest unit that fits, an operator reads seconds.
        let default = if default == "1m" { "60s".to_owned() } else { default };
        assert!(PAGE.contains(&format!("| `{setting}` | {default} |")), "{setting} is {default}");
    }
}
