//! The form of the gateway's own refusals, for both rooms that write one: `answer`, through Pingora's session, and the
//! edge, byte for byte, where a head became no request.

use std::collections::BTreeMap;

use http::HeaderValue;
use portcullis_api::Code;

pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

// The security headers whose values no host chooses.
pub(crate) const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
pub(crate) const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");
pub(crate) const NO_DEVICES: HeaderValue =
    HeaderValue::from_static("accelerometer=(), camera=(), geolocation=(), microphone=(), payment=(), usb=()");

/// The problem document (RFC 9457): what helps a client, and nothing that helps an attacker.
#[derive(serde::Serialize)]
pub(crate) struct Problem<'p> {
    r#type: &'p str,
    title: &'p str,
    status: u16,
    code: &'p str,
    request_id: &'p str,
    #[serde(flatten)]
    members: BTreeMap<&'static str, &'p [String]>,
}

impl<'p> Problem<'p> {
    pub(crate) fn new(code: &'p Code, request_id: &'p str) -> Self {
        Self {
            r#type: problem_type(code),
            title: code.title,
            status: code.status,
            code: code.name,
            request_id,
            members: BTreeMap::new(),
        }
    }

    /// With members that the problem's type defines.
    pub(crate) fn with(self, members: &'p [(&'static str, Vec<String>)]) -> Self {
        Self { members: members.iter().map(|(name, values)| (*name, values.as_slice())).collect(), ..self }
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn problem_type(code: &Code) -> &'static str {
    match (code.status, code.name) {
        (429, "burst.exceeded") => "https://iana.org/assignments/http-problem-types#abnormal-usage-detected",
        (429, _) => "https://iana.org/assignments/http-problem-types#quota-exceeded",
        (503, "gateway.unavailable") => "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
        _ => "about:blank",
    }
}
