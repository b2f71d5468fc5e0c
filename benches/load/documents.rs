//! The gateway's configurations: every control off that can be, every control on, and three limits alone.

use std::{fmt::Write, net::SocketAddr, path::Path};

use crate::{flags::Kind, pki, pki::Pki};

/// Where a gateway listens and forwards to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) upstream: SocketAddr,
    pub(crate) redis: Option<SocketAddr>,
}

/// The document of a gateway.
pub(crate) fn document(kind: Kind, at: Addresses, pki: &Pki, access_log: &Path) -> anyhow::Result<String> {
    let mut text = format!(
        "version = 1\n\n\
         [listeners.public]\naddress = \"{}\"\nclient_ip = \"direct\"\n\n\
         [admin]\naddress = \"{}\"\n\n\
         [log]\naccess = {{ file = {access_log:?} }}\n\n\
         [upstreams.app]\nservers = [\"{}\"]\n\n",
        at.public, at.admin, at.upstream
    );
    text.push_str(match kind {
        Kind::Bare | Kind::Off | Kind::Limits | Kind::Leased => CONTROLS_OFF,
        Kind::On => CONTROLS_ON,
    });
    match at.redis {
        None => text.push_str("\n[stores]\ncounters = \"memory\"\n"),
        Some(redis) => {
            write!(text, "\n[stores]\ncounters = \"redis://{redis}\"\nkey = \"file:{}\"\n", pki.store.display())?;
        }
    }
    for (name, key) in LIMITS {
        let consistency = match kind {
            Kind::Limits => "",
            Kind::Leased => "consistency = \"leased\"\n",
            Kind::Bare | Kind::Off | Kind::On => continue,
        };
        write!(text, "\n[limits.{name}]\nkey = {key}\nrequests = 1000000\nwindow = \"1s\"\n{consistency}")?;
    }
    if kind == Kind::On {
        text.push_str(&pki::issuer_section(&pki.jwks));
    }
    write!(
        text,
        "\n[hosts.\"{}\"]\ncertificate = {{ chain = {:?}, key = {:?} }}\ntenant = \"identity\"\n",
        pki::HOST,
        format!("file:{}", pki.chain.display()),
        format!("file:{}", pki.key.display()),
    )?;
    if kind == Kind::On {
        text.push_str("cors = { origins = [\"https://app.gateway.test\"] }\n");
    }
    write!(
        text,
        "\n[hosts.\"{}\".routes.orders]\npath = \"/v1/orders\"\nmethods = [\"GET\", \"POST\"]\nupstream = \"app\"\n{}",
        pki::HOST,
        match kind {
            Kind::Bare | Kind::Off => ROUTE_OFF,
            Kind::Limits | Kind::Leased => ROUTE_LIMITS,
            Kind::On => ROUTE_ON,
        }
    )?;
    Ok(text)
}

const CONTROLS_OFF: &str = r#"[controls]
ip_allowlist = { allow = ["0.0.0.0/0", "::/0"] }
burst = "off"
waf = "off"
"#;

/// Limits that no run reaches: what is measured is counting, not refusing.
const CONTROLS_ON: &str = r#"[controls]
ip_allowlist = { allow = ["10.0.0.0/8", "127.0.0.0/8", "192.168.0.0/16", "2001:db8::/32"] }
burst = { requests = 1000000, window = "1s" }
waf = { urls_max = 5, phones_max = 3, chars_max = 8192, body_max = "1MiB" }

[limits.by_client]
key = ["client"]
requests = 1000000
window = "1s"

[limits.by_caller]
key = ["tenant", "caller", "route"]
requests = 1000000
window = "1s"

"#;

const ROUTE_OFF: &str = r#"auth = { public = "the load with every control off" }
"#;

/// Names and keys of the three limits, which no run reaches.
const LIMITS: [(&str, &str); 3] =
    [("by_client", "[\"client\"]"), ("by_route", "[\"route\"]"), ("by_both", "[\"client\", \"route\"]")];

const ROUTE_LIMITS: &str = r#"auth = { public = "the load with limits alone" }
limits = ["by_client", "by_route", "by_both"]
"#;

const ROUTE_ON: &str = r#"auth = { accept = ["jwt:load"], scopes = ["orders:read"], role = "developer" }
limits = ["by_client", "by_caller"]
ip_allowlist = { allow = ["127.0.0.0/8"] }
"#;
