//! The attacks of the threat table, each under its id, against the real binary.

mod claims;
mod credentials;
mod exchange;
mod fields;
mod found;
mod headers;
mod issuers;
mod key_servers;
mod keys;
mod paths;
mod property;
mod protocol;
mod records;
mod rights;
mod scope;
mod sessions;
mod signatures;
mod tenants;
mod tokens;

use std::sync::LazyLock;

use portcullis_tests::{Gateway, Protocol, Reply, Request, Seen, Setup, Upstream};

/// One gateway with the default configuration and its upstream, for every attack that needs no other.
pub(crate) struct World {
    pub(crate) upstream: Upstream,
    pub(crate) gateway: Gateway,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let upstream = Upstream::scripted(script);
    let gateway = Setup::new(&upstream).start();
    World { upstream, gateway }
});

pub(crate) fn world() -> &'static World {
    &WORLD
}

/// An upstream that lies when it is asked to.
fn script(seen: &Seen) -> Reply {
    if seen.target().starts_with("/public/forge") {
        Reply::with(
            200,
            &[
                ("X-Portcullis-Tenant", "planted-evil"),
                ("X-Portcullis-Assertion", "planted-evil"),
                ("Set-Cookie", "__Host-session=planted-evil; Path=/; Secure"),
                ("Set-Cookie", "theme=dark"),
                ("Access-Control-Allow-Origin", "*"),
                ("Access-Control-Allow-Credentials", "true"),
                ("Server", "planted-server/1.0"),
                ("X-Powered-By", "planted-power"),
                ("X-Total", "7"),
            ],
            "forged",
        )
    } else if seen.header("upgrade").is_some() {
        Reply::Echo
    } else {
        Reply::ok()
    }
}

/// What every attacker plants: it must reach nobody.
pub(crate) const EVIL: &str = "planted-evil";

/// How a refusal is challenged (RFC 6750 section 3): without a credential, with a request that is ambiguous about it, with
/// one that is not valid.
pub(crate) const CHALLENGE: &str = r#"Bearer realm="portcullis""#;
pub(crate) const INVALID_REQUEST: &str = r#"Bearer realm="portcullis", error="invalid_request""#;
pub(crate) const INVALID_TOKEN: &str = r#"Bearer realm="portcullis", error="invalid_token""#;

impl World {
    /// Sends it and asserts that it was refused with this status and never reached the upstream. On HTTP/2 the protocol
    /// layer may refuse without an answer.
    #[track_caller]
    pub(crate) fn refuses(&self, protocol: Protocol, status: u16, request: &Request) {
        match self.gateway.status(protocol, request) {
            None if protocol == Protocol::H2 => {}
            other => assert_eq!(other, Some(status), "{protocol:?} {}", shown(request)),
        }
        assert!(self.upstream.saw(&request.mark).is_none(), "{protocol:?} {} reached the upstream", shown(request));
    }

    /// As [`Self::refuses`], over both protocols.
    #[track_caller]
    pub(crate) fn refuses_both(&self, status: u16, request: &Request) {
        for protocol in Protocol::BOTH {
            self.refuses(protocol, status, request);
        }
    }

    /// Sends it over both protocols and asserts that it was refused with this status and exactly this `WWW-Authenticate`,
    /// and never reached the upstream.
    #[track_caller]
    pub(crate) fn challenges(&self, status: u16, challenge: &str, request: &Request) {
        for protocol in Protocol::BOTH {
            let answer = self.gateway.ask(protocol, request);
            let told = (answer.status, answer.all("www-authenticate"));
            assert_eq!(told, (status, vec![challenge]), "{protocol:?} {}", shown(request));
            assert!(self.upstream.saw(&request.mark).is_none(), "{protocol:?} {} reached the upstream", shown(request));
        }
    }

    /// Sends it, asserts 200, and returns what the upstream saw.
    #[track_caller]
    pub(crate) fn admits(&self, protocol: Protocol, request: &Request) -> Seen {
        let status = self.gateway.status(protocol, request);
        assert_eq!(status, Some(200), "{protocol:?} {}", shown(request));
        self.upstream.seen(&request.mark)
    }

    /// Sends raw bytes on a fresh HTTP/1.1 connection; the status of the first answer, `None` when it closed.
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> Option<u16> {
        let mut client = self.gateway.h1();
        client.send(bytes);
        client.answer().map(|answer| answer.status)
    }
}

/// A request for a message.
pub(crate) fn shown(request: &Request) -> String {
    String::from_utf8_lossy(&request.h1_head()).escape_debug().to_string()
}

/// Asserts that nothing of what the attacker planted reached the upstream.
#[track_caller]
pub(crate) fn clean(seen: &Seen) {
    let head = String::from_utf8_lossy(&seen.head);
    assert!(!head.contains(EVIL), "the upstream saw {head}");
}
