//! `csrf`: a credential that the browser sent on its own must come with proof that a page of ours asked for it.
//!
//! It concerns cookies only, on methods that may change something and on WebSocket handshakes, which browsers let any
//! page open. Bearer tokens and API keys are exempt because the cookie is not the credential, not because a header is
//! there. Evidence: `Sec-Fetch-Site` (Fetch Metadata), else `Origin`. Rejected: a double-submit token. It defends
//! browsers that send neither, and falls to whoever can set a cookie.

use std::borrow::Cow;

use http::{HeaderMap, Method, header};
use portcullis_api::{Code, Control, ControlName, Facts, Fault, Issues, Refusal, RouteId, RouteRef, Strict, Verdict};

use crate::{
    authentication::{Caller, Credential},
    cors,
};

/// A page that is not ours asked for this.
pub const CROSS_SITE: Code =
    Code { name: "csrf.cross_site", status: 403, title: "This request must come from a page of this site" };

/// Each route's host's cross-origin rules.
#[derive(Debug, Clone, Copy)]
pub struct Input<'d> {
    /// One entry per route; the origins of its host may send cookies along.
    pub routes: &'d [(RouteRef, Option<&'d cors::Settings>)],
}

/// What must be known: who calls, and by which credential.
#[derive(Debug, Clone, Copy)]
pub struct Sees<'r> {
    /// The canonical request.
    pub facts: Facts<'r>,
    /// The route it takes.
    pub route: RouteId,
    /// Who calls.
    pub caller: &'r Caller,
}

/// The proof that no other site's page sent this request on a cookie.
#[derive(Debug)]
pub struct SameSite {
    _made_here: (),
}

/// A refusal of `csrf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deny {
    /// The browser says that another origin's page asked, and that origin is not listed.
    OtherOrigin,
    /// There is nothing that says which page asked.
    NoEvidence,
    /// The evidence is there twice, or is none of the values that exist.
    Ambiguous,
}

impl Refusal for Deny {
    const CODES: &'static [Code] = &[CROSS_SITE];

    fn code(&self) -> Code {
        CROSS_SITE
    }

    fn detail(&self) -> Option<Cow<'_, str>> {
        Some(
            match self {
                Self::OtherOrigin => "another origin that is not listed",
                Self::NoEvidence => "neither sec-fetch-site nor origin",
                Self::Ambiguous => "sec-fetch-site or origin twice or unknown",
            }
            .into(),
        )
    }
}

/// The compiled control.
#[derive(Debug)]
pub struct Csrf {
    routes: Vec<Option<Vec<cors::Origin>>>,
}

const NAME: ControlName = ControlName::new("csrf");

impl Control for Csrf {
    const NAME: ControlName = NAME;
    type Settings<'d> = Input<'d>;
    type Sees<'r> = Sees<'r>;
    type Proof = SameSite;
    type Deny = Deny;
    type Needs = ();
    type Posture = Strict;

    fn compile(settings: Input<'_>, _needs: &(), _issues: &mut Issues) -> Option<Self> {
        let slots = settings.routes.iter().map(|(route, _)| route.id.index().saturating_add(1)).max().unwrap_or(0);
        let mut routes = vec![None; slots];
        for (route, cors) in settings.routes {
            // An origin that may not send cookies to be read may not send them to act either.
            let origins = cors
                .filter(|cors| cors.credentials == cors::Credentials::Allow)
                .map(|cors| cors.origins.iter().map(|origin| origin.value.clone()).collect())
                .unwrap_or_default();
            if let Some(slot) = routes.get_mut(route.id.index()) {
                *slot = Some(origins);
            }
        }
        Some(Self { routes })
    }

    fn check<'r>(&'r self, sees: Sees<'r>) -> impl Future<Output = Result<Verdict<SameSite, Deny>, Fault>> + Send + 'r {
        std::future::ready(self.decide(sees))
    }
}

impl Csrf {
    fn decide(&self, sees: Sees<'_>) -> Result<Verdict<SameSite, Deny>, Fault> {
        let Some(Some(origins)) = self.routes.get(sees.route.index()) else {
            return Err(Fault {
                control: NAME,
                what: "a route without csrf rules".into(),
                retry_after_s: 1,
                code: portcullis_api::UNAVAILABLE,
            });
        };
        let by_cookie = sees.caller.identity().is_some_and(|identity| identity.credential() == Credential::Cookie);
        let acts = !is_safe(sees.facts.method) || is_websocket(sees.facts.headers);
        if !by_cookie || !acts {
            return Ok(Verdict::Pass(SameSite { _made_here: () }));
        }
        Ok(match evidence(&sees.facts, origins) {
            Ok(()) => Verdict::Pass(SameSite { _made_here: () }),
            Err(deny) => Verdict::Deny(deny),
        })
    }
}

/// RFC 9110 9.2.1, without TRACE, which no route has. A safe request that changes something is the app's mistake.
fn is_safe(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD || *method == Method::OPTIONS
}

fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get_all(header::UPGRADE).iter().any(|value| {
        value.as_bytes().split(|&byte| byte == b',').any(|token| {
            let name = token.split(|&byte| byte == b'/').next().unwrap_or_default();
            name.trim_ascii().eq_ignore_ascii_case(b"websocket")
        })
    })
}

fn evidence(facts: &Facts<'_>, origins: &[cors::Origin]) -> Result<(), Deny> {
    let site = single(facts.headers, "sec-fetch-site")?;
    let origin = single(facts.headers, header::ORIGIN.as_str())?;
    let listed = |origin: &[u8]| origins.iter().any(|listed| listed.as_str().as_bytes() == origin);
    match (site, origin) {
        (Some(b"same-origin"), _) => Ok(()),
        // The browser says that the page was another origin's: only a listed one may, never "ours".
        (Some(b"same-site" | b"cross-site"), Some(origin)) if listed(origin) => Ok(()),
        (Some(b"same-site" | b"cross-site"), _) => Err(Deny::OtherOrigin),
        // `none` is the address bar, which sends GET; on anything else it proves nothing.
        (Some(b"none") | None, Some(origin)) => {
            if is_own(facts, origin) || listed(origin) {
                Ok(())
            } else {
                Err(Deny::OtherOrigin)
            }
        }
        (Some(b"none") | None, None) => Err(Deny::NoEvidence),
        (Some(_), _) => Err(Deny::Ambiguous),
    }
}

fn single<'r>(headers: &'r HeaderMap, name: &str) -> Result<Option<&'r [u8]>, Deny> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => Ok(Some(value.as_bytes())),
        (Some(_), Some(_)) => Err(Deny::Ambiguous),
    }
}

/// `https://` and the canonical host, with the port that the client used where it is not 443. A page of another
/// origin cannot choose the `Host` that the victim's browser sends.
fn is_own(facts: &Facts<'_>, origin: &[u8]) -> bool {
    let Some(authority) = origin.strip_prefix(b"https://") else { return false };
    let Some(port) = authority.strip_prefix(facts.host.as_bytes()) else { return false };
    if port.is_empty() {
        return true;
    }
    let sent = facts.headers.get(header::HOST).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let sent_port = sent.get(sent.len().saturating_sub(port.len())..).unwrap_or_default();
    port.first() == Some(&b':')
        && port.len() > 1
        && port.iter().skip(1).all(u8::is_ascii_digit)
        && sent_port == port
        && sent.len().saturating_sub(port.len()) >= facts.host.len()
}

#[cfg(test)]
#[path = "csrf_tests.rs"]
mod tests;
