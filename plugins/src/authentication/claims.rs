//! The claims of a verified token: a closed set, each with one type. What does not fit is refused, never ignored.

use portcullis_api::{Environment, Role, Scope, TenantId, UnixSeconds};

use super::{Presence, certificate::from_thumbprint, deny::Why, strict_json::Json};

const AUDIENCES_MAX: usize = 8;
const SCOPES_MAX: usize = 64;
const ENVIRONMENTS_MAX: usize = 16;
pub(crate) const SUBJECT_BYTES_MAX: usize = 255;
pub(crate) const JTI_BYTES_MAX: usize = 128;
pub(crate) const SID_BYTES_MAX: usize = 255;
/// Integers from here on are not the same number in every JSON parser (RFC 8259 section 6).
const TIME_END: u64 = 1 << 53;

/// What an issuer's claims must be, compiled from its settings.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) audiences: Vec<String>,
    pub(super) audience_form: AudienceForm,
    pub(super) tenant: Path,
    pub(super) roles: Option<Path>,
    pub(super) scopes: Option<Path>,
    pub(super) environments: Option<Path>,
    /// The issuer's role names, each with ours.
    pub(super) role_names: Vec<(String, Role)>,
    /// Whether a token must name itself.
    pub(super) jti: Presence,
    pub(super) max_lifetime_s: u64,
    pub(super) clock_skew_s: u64,
}

/// How many audiences a token may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AudienceForm {
    /// One, as a string. For an issuer with a shared secret: whoever verifies its tokens can make them, so a list would
    /// let each of its members make tokens for the others.
    One,
    /// A string, or a list of at most [`AUDIENCES_MAX`].
    Several,
}

/// The names of the members that lead to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path(Vec<String>);

impl Path {
    /// Parses a dotted path. One that starts with `https://` or `http://` is one member's name: that is how issuers
    /// that want collision-free names (OpenID Connect Core 5.1.2) write theirs, and their dots are no steps.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let steps: Vec<String> = if text.starts_with("https://") || text.starts_with("http://") {
            vec![text.to_owned()]
        } else {
            text.split('.').map(str::to_owned).collect()
        };
        let good = steps.len() <= 8 && steps.iter().all(|step| !step.is_empty() && is_printable(step));
        good.then_some(Self(steps))
    }

    #[cfg(test)]
    pub(super) fn steps(&self) -> &[String] {
        &self.0
    }

    fn find<'j>(&self, payload: &'j Json) -> Option<&'j Json> {
        self.0.iter().try_fold(payload, |at, step| at.member(step))
    }
}

/// The role in each environment; with none there is access and no role.
pub(super) type RolesThere = Vec<(Environment, Option<Role>)>;

/// What a token says, once all of it is in order.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) tenant: TenantId,
    pub(super) subject: String,
    pub(super) role: Option<Role>,
    pub(super) scopes: Vec<Scope>,
    /// The role in each environment that is named; `None` where the issuer does not tell roles by environment.
    pub(super) environments: Option<RolesThere>,
    /// When the user signed in.
    pub(super) auth_time: Option<UnixSeconds>,
    pub(super) issued: UnixSeconds,
    pub(super) expires: UnixSeconds,
    pub(super) jti: Option<String>,
    pub(super) sid: Option<String>,
    /// The SHA-256 of the certificate whose connections alone may show it.
    pub(super) bound: Option<[u8; 32]>,
}

/// Reads the claims of a payload whose signature was verified; `iss` was compared when the issuer was chosen.
pub(super) fn read(payload: &Json, rules: &Rules, now: UnixSeconds) -> Result<Claims, Why> {
    let bound = bound(payload)?;
    audience(payload, rules)?;
    let Times { issued, expires, auth_time } = times(payload, rules, now)?;
    let subject = payload
        .member("sub")
        .and_then(Json::text)
        .filter(|text| (1..=SUBJECT_BYTES_MAX).contains(&text.len()) && is_printable(text))
        .ok_or(Why::Subject)?;
    let jti = match (payload.member("jti"), rules.jti) {
        (None, Presence::Required) => return Err(Why::TokenId),
        (None, Presence::Optional) => None,
        (Some(jti), _) => Some(
            jti.text()
                .filter(|text| (1..=JTI_BYTES_MAX).contains(&text.len()) && is_printable(text))
                .ok_or(Why::TokenId)?
                .to_owned(),
        ),
    };
    // The session it belongs to (OpenID Connect Front-Channel Logout 3): what cannot be read could not be revoked.
    let sid = match payload.member("sid") {
        None => None,
        Some(sid) => Some(
            sid.text()
                .filter(|text| (1..=SID_BYTES_MAX).contains(&text.len()) && is_printable(text))
                .ok_or(Why::Session)?
                .to_owned(),
        ),
    };
    let tenant = rules.tenant.find(payload).and_then(Json::text).ok_or(Why::Tenant)?;
    let tenant = TenantId::parse(tenant).map_err(|_| Why::Tenant)?;
    let role = role(payload, rules)?;
    let scopes = scopes(payload, rules)?;
    let environments = environments(payload, rules)?;
    let subject = subject.to_owned();
    Ok(Claims { tenant, subject, role, scopes, environments, auth_time, issued, expires, jti, sid, bound })
}

/// RFC 7800: a token bound to a key or certificate is worthless as a bearer token. What is known of it is the thumbprint of
/// a certificate (RFC 8705 3.1); any other binding cannot be checked, and ignoring it would turn the token into a bearer
/// token.
fn bound(payload: &Json) -> Result<Option<[u8; 32]>, Why> {
    match payload.member("cnf") {
        None => Ok(None),
        Some(Json::Object(members)) => match members.as_slice() {
            [(name, Json::Text(text))] if name == "x5t#S256" => {
                from_thumbprint(text).map(Some).ok_or(Why::Confirmation)
            }
            _ => Err(Why::Confirmation),
        },
        Some(Json::Null | Json::Flag(_) | Json::Whole(_) | Json::Number | Json::Text(_) | Json::List(_)) => {
            Err(Why::Confirmation)
        }
    }
}

fn audience(payload: &Json, rules: &Rules) -> Result<(), Why> {
    let ours = |text: &str| rules.audiences.iter().any(|audience| audience == text);
    let aud = payload.member("aud").ok_or(Why::AudienceForm)?;
    let found = if let Some(items) = aud.list() {
        match rules.audience_form {
            AudienceForm::One => return Err(Why::AudienceForm),
            AudienceForm::Several => {}
        }
        if !(1..=AUDIENCES_MAX).contains(&items.len()) {
            return Err(Why::AudienceForm);
        }
        let texts: Vec<&str> = items.iter().map(Json::text).collect::<Option<_>>().ok_or(Why::AudienceForm)?;
        texts.into_iter().any(ours)
    } else {
        ours(aud.text().ok_or(Why::AudienceForm)?)
    };
    if found { Ok(()) } else { Err(Why::Audience) }
}

/// When it was issued, when it ends, and when its user signed in.
struct Times {
    issued: UnixSeconds,
    expires: UnixSeconds,
    auth_time: Option<UnixSeconds>,
}

fn times(payload: &Json, rules: &Rules, now: UnixSeconds) -> Result<Times, Why> {
    let time = |name: &str| match payload.member(name) {
        None => Ok(None),
        Some(Json::Whole(seconds)) if (1..TIME_END).contains(seconds) => Ok(Some(*seconds)),
        Some(
            Json::Null
            | Json::Flag(_)
            | Json::Whole(_)
            | Json::Number
            | Json::Text(_)
            | Json::List(_)
            | Json::Object(_),
        ) => Err(Why::TimeForm),
    };
    let expires = time("exp")?.ok_or(Why::TimeForm)?;
    let issued = time("iat")?.ok_or(Why::TimeForm)?;
    let (not_before, auth_time) = (time("nbf")?, time("auth_time")?);
    let latest = now.saturating_add(rules.clock_skew_s);
    if expires.checked_sub(issued).is_none_or(|lifetime| lifetime > rules.max_lifetime_s) {
        return Err(Why::Lifetime);
    }
    if now >= expires {
        return Err(Why::Expired);
    }
    // A sign-in that is yet to come would be recent for ever.
    if issued > latest || auth_time.is_some_and(|time| time > latest) {
        return Err(Why::IssuedInFuture);
    }
    if not_before.is_some_and(|time| time > latest) {
        return Err(Why::NotYet);
    }
    Ok(Times { issued, expires, auth_time })
}

/// The role in each environment; of a name of a role that the map does not know, none.
fn environments(payload: &Json, rules: &Rules) -> Result<Option<RolesThere>, Why> {
    let Some(path) = &rules.environments else { return Ok(None) };
    let Some(claim) = path.find(payload) else { return Ok(Some(Vec::new())) };
    let members = claim.object().filter(|members| members.len() <= ENVIRONMENTS_MAX).ok_or(Why::Environments)?;
    let known = |name: &str| rules.role_names.iter().find(|(theirs, _)| theirs == name).map(|(_, role)| *role);
    let each = |(name, role): &(String, Json)| {
        let environment = Environment::parse(name).map_err(|_| Why::Environments)?;
        Ok((environment, known(role.text().ok_or(Why::Environments)?)))
    };
    members.iter().map(each).collect::<Result<_, Why>>().map(Some)
}

/// The highest of the roles that the map knows; a role that it does not know is no role.
fn role(payload: &Json, rules: &Rules) -> Result<Option<Role>, Why> {
    let Some(claim) = rules.roles.as_ref().and_then(|path| path.find(payload)) else { return Ok(None) };
    let names: Vec<&str> = match claim.list() {
        Some(items) => items.iter().map(Json::text).collect::<Option<_>>().ok_or(Why::Roles)?,
        None => vec![claim.text().ok_or(Why::Roles)?],
    };
    let known = |name: &str| rules.role_names.iter().find(|(theirs, _)| theirs == name).map(|(_, role)| *role);
    Ok(names.into_iter().filter_map(known).max())
}

/// All of them or none: a scope that an upstream could not be told is not dropped in silence.
fn scopes(payload: &Json, rules: &Rules) -> Result<Vec<Scope>, Why> {
    let Some(claim) = rules.scopes.as_ref().and_then(|path| path.find(payload)) else { return Ok(Vec::new()) };
    let names: Vec<&str> = match claim.list() {
        Some(items) => items.iter().map(Json::text).collect::<Option<_>>().ok_or(Why::Scopes)?,
        None => claim.text().ok_or(Why::Scopes)?.split(' ').filter(|name| !name.is_empty()).collect(),
    };
    if names.len() > SCOPES_MAX {
        return Err(Why::Scopes);
    }
    names.into_iter().map(|name| Scope::parse(name).map_err(|_| Why::Scopes)).collect()
}

/// No control, separator, bidi or zero-width character: the text means what it looks like in a log, and percent-encoded
/// it is a header value.
pub(crate) fn is_printable(text: &str) -> bool {
    text.chars().all(|c| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{ffff}')
    })
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
