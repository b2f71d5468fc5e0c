//! `waf`: what a request may carry.
//!
//! Judges the query and the body of a request before the upstream sees them: the size of the body, that text is UTF-8,
//! the length of each text value, and how many URLs and phone numbers the request holds in all. It is made for
//! abuse that is perfectly valid HTTP: link spam, phone spam, oversized text.
//!
//! # Settings
//! `[controls.waf]`: `mode`, `urls_max` (5), `phones_max` (3), `chars_max` (8,192 Unicode characters of one text
//! value), `body_max` (1 MiB), `phone_regions` (none) and `violations`; see [`Settings`]. A route may write its own four
//! numbers ([`Override`]), and so may a tenant's grant; a tenant's own settings may only lower what results. The numbers
//! of every route and tenant are settled when the configuration is loaded.
//!
//! # What is inspected
//! | body | inspected |
//! | --- | --- |
//! | `application/x-www-form-urlencoded`, and the query of every request | each value, decoded once |
//! | `application/json`, `…+json` | each string value; names of members are not counted |
//! | `multipart/form-data` | parts without a file name, and parts of `text/…` |
//! | `text/…`, XML, HTML | the whole body as one value |
//! | images, video, audio, fonts, `application/octet-stream`, protobuf, gRPC | the size only |
//! | any other type, or none | as one text value when it is UTF-8, else the size only; nothing is sniffed |
//!
//! Before counting, a value is folded (see `fold`): up to two further rounds of percent, `\uXXXX` and entity decoding,
//! characters nobody sees removed, look-alike digits and dots made plain, `example[.]com` and `example dot com` put
//! together. A GET without a query costs nothing, and plain ASCII is scanned where it lies.
//!
//! # Example
//! ```toml
//! [controls]
//! waf = { urls_max = 5, phones_max = 3, chars_max = 8192, body_max = "1MiB", phone_regions = ["GB"] }
//!
//! [hosts."api.example.com".routes.import]
//! waf = { body_max = "8MiB", chars_max = 65536 }   # this route replaces two numbers and keeps the others
//!
//! [tenants.acme.own]
//! waf = { urls_max = 2 }                           # a tenant may only lower
//! ```
//!
//! # Codes
//! `waf.body_too_large` (413), `waf.urls`, `waf.phones`, `waf.chars` (403), `waf.not_utf8`, `waf.malformed_body`,
//! `waf.too_deep`, `waf.too_many_values` (400), `waf.content_encoding` (415). The log gets the place and the counts, as in
//! `6 URLs, at most 5; last in json.note`, never the value.
//!
//! The operator's page is `docs/controls/waf.md`.

mod deny;
mod extract;
mod fold;
mod limits;
mod phones;
mod place;
mod settings;
mod tally;
mod text;
mod urls;

#[cfg(test)]
mod tests;

use http::{HeaderMap, header::CONTENT_ENCODING};
use portcullis_api::{
    Adjustable, Control, ControlName, Facts, Fault, Issues, Layers, RouteId, RouteRef, TenantId, Verdict,
};

pub use deny::Deny;
pub(crate) use fold::is_ignorable;
pub use settings::*;

use extract::Media;
use limits::Table;
use tally::Tally;

/// The control's name.
pub const NAME: ControlName = ControlName::new("waf");
/// Most fields of a query or of a form.
pub const VALUES_MAX: usize = 1_000;
/// Most parts of a multipart body.
pub const PARTS_MAX: usize = 64;
/// Most levels of a JSON document.
pub const JSON_DEPTH_MAX: usize = 32;
/// Most members of one JSON object.
pub const JSON_MEMBERS_MAX: usize = 1_000;
/// Most elements of one JSON array.
pub const JSON_ELEMENTS_MAX: usize = 10_000;
/// Most values of a JSON document, of any kind.
pub const JSON_VALUES_MAX: usize = 50_000;

/// What the operator, the routes and the tenants wrote about content.
#[derive(Debug, Clone, Copy)]
pub struct Input<'d> {
    /// The site's settings, `[controls.waf]`.
    pub site: &'d Settings,
    /// One entry per route, in the order of their ids.
    pub routes: &'d [(RouteRef, Option<&'d Override>)],
    /// One entry per tenant that the document names.
    pub tenants: &'d [(TenantId, Layers<'d, Override>)],
}

/// What the control must be told of a request.
#[derive(Debug, Clone, Copy)]
pub struct Sees<'r> {
    /// The canonical request.
    pub facts: Facts<'r>,
    /// Its route.
    pub route: RouteId,
    /// The tenant that it runs for.
    pub tenant: Option<&'r TenantId>,
    /// Its body, as far as it is there.
    pub body: Body<'r>,
}

/// The body of a request.
#[derive(Debug, Clone, Copy)]
pub enum Body<'r> {
    /// There is none.
    Absent,
    /// All of it.
    Whole(&'r [u8]),
    /// It has not been read. The query is judged now; ask again with [`Body::Whole`] if the proof says `pending`.
    Later {
        /// `Content-Length`, if there is one.
        declared: Option<u64>,
    },
}

/// How much of a body may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BodyLimits {
    /// Bytes.
    pub body_max: u64,
}

impl BodyLimits {
    /// Judges a length, declared or counted so far. For whoever streams a body: ask with each piece.
    ///
    /// # Errors
    /// [`Deny::BodyTooLarge`] past the limit.
    pub const fn admit(self, bytes: u64) -> Result<(), Deny> {
        if bytes > self.body_max { Err(Deny::BodyTooLarge { bytes, max: self.body_max }) } else { Ok(()) }
    }
}

/// Proof that what was there to judge was judged. Only this module makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspected {
    /// What still holds while a body is read.
    pub limits: BodyLimits,
    /// Whether the content of a body that is still to come must be judged. Its length must be judged in any case.
    pub pending: bool,
}

/// What is the same for all routes and tenants.
pub(crate) struct Rules {
    plan: phones::Plan,
}

/// The control.
pub struct Waf {
    table: Table,
    rules: Rules,
}

impl Control for Waf {
    const NAME: ControlName = NAME;
    type Settings<'d> = Input<'d>;
    type Sees<'r> = Sees<'r>;
    type Proof = Inspected;
    type Deny = Deny;
    type Needs = ();
    type Posture = Adjustable;

    fn compile(settings: Input<'_>, (): &(), issues: &mut Issues) -> Option<Self> {
        let before = issues.as_slice().len();
        let Input { site, routes, tenants } = settings;
        let mut plan = phones::Plan::default();
        for region in &site.phone_regions {
            if !plan.add(region.value.as_str()) {
                issues.push_help(
                    "waf.unknown_region",
                    &region.span,
                    format!("`{}` is no region with a numbering plan", region.value.as_str()),
                    "write ISO 3166 codes, as in \"GB\" for the United Kingdom",
                );
            }
        }
        let table = Table::compile(site, routes, tenants, issues);
        urls::warm_up();
        plan.warm_up();
        (issues.as_slice().len() == before).then_some(Self { table, rules: Rules { plan } })
    }

    async fn check<'r>(&'r self, sees: Sees<'r>) -> Result<Verdict<Inspected, Deny>, Fault> {
        Ok(match self.inspect(sees) {
            Ok(proof) => Verdict::Pass(proof),
            Err(deny) => Verdict::Deny(deny),
        })
    }
}

impl Waf {
    /// What holds for the body of a request, for whoever reads it.
    #[must_use]
    pub fn limits(&self, route: RouteId, tenant: Option<&TenantId>) -> BodyLimits {
        BodyLimits { body_max: self.table.of(route, tenant).body_max }
    }

    fn inspect(&self, sees: Sees<'_>) -> Result<Inspected, Deny> {
        let Sees { facts, route, tenant, body } = sees;
        let limits = self.table.of(route, tenant);
        let body_limits = BodyLimits { body_max: limits.body_max };
        let mut tally = Tally::new(limits, &self.rules, facts.host);
        let media = match body {
            Body::Absent | Body::Whole([]) | Body::Later { declared: Some(0) } => None,
            Body::Whole(bytes) => {
                body_limits.admit(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
                Some(media(facts.headers)?)
            }
            Body::Later { declared } => {
                body_limits.admit(declared.unwrap_or(0))?;
                Some(media(facts.headers)?)
            }
        };
        if !facts.query.is_empty() {
            extract::query(facts.query, &mut tally)?;
        }
        let mut pending = false;
        if let Some(media) = media {
            match body {
                Body::Whole(bytes) => extract::body(bytes, &media, &mut tally)?,
                Body::Later { .. } => pending = media != Media::Binary,
                Body::Absent => {}
            }
        }
        Ok(Inspected { limits: body_limits, pending })
    }
}

/// The kind of a body, once it is certain that it is not encoded.
fn media(headers: &HeaderMap) -> Result<Media, Deny> {
    let codings =
        headers.get_all(CONTENT_ENCODING).into_iter().flat_map(|value| value.as_bytes().split(|&c| c == b','));
    for coding in codings.map(<[u8]>::trim_ascii) {
        if !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity") {
            return Err(Deny::ContentEncoding);
        }
    }
    extract::media(headers)
}
