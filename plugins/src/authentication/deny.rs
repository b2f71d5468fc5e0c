//! Why a caller is refused: what the client is told, and what only the log is told.
//!
//! Invariant: everything that can be wrong with a credential is one code, one title and one set of headers. (A key that
//! is right and used elsewhere is told so: whoever has it has nothing left to guess.) The precise reason is a [`Why`] and leaves through [`Refusal::detail`] only.

use std::{borrow::Cow, sync::Arc};

use http::{
    HeaderMap, HeaderValue,
    header::{RETRY_AFTER, WWW_AUTHENTICATE},
};
use portcullis_api::{Code, Refusal};

use super::strict_json::JsonError;
use crate::revocations::Kind;

/// No credential where one is needed.
pub const REQUIRED: Code =
    Code { name: "authentication.required", status: 401, title: "This request needs a credential" };
/// The request does not carry its credential in exactly one well-formed way.
pub const MALFORMED: Code = Code {
    name: "authentication.malformed",
    status: 400,
    title: "The request must carry exactly one well-formed credential",
};
/// The credential is not valid here.
pub const INVALID: Code = Code { name: "authentication.invalid", status: 401, title: "The credential is not valid" };
/// A key that is used from where it may not be.
pub(super) const KEY_ADDRESS: Code =
    Code { name: "authentication.key_address", status: 403, title: "The API key may not be used from this address" };
/// A key that is used for what it may not be.
pub(super) const KEY_ROUTE: Code =
    Code { name: "authentication.key_route", status: 403, title: "The API key may not be used for this route" };
/// One key too many that is none.
pub(super) const KEY_FAILURES: Code = Code {
    name: "authentication.key_failures",
    status: 429,
    title: "Too many API keys from this network were not valid",
};

/// Nobody can tell whether the credential was revoked. No refusal: the control could not decide.
pub const STALE: Code = Code {
    name: "authentication.stale",
    status: 503,
    title: "The gateway cannot tell right now whether the credential was revoked",
};

/// How a request that is ambiguous about its credential is challenged (RFC 6750 3.1), whoever found it so.
pub(crate) const MALFORMED_CHALLENGE: HeaderValue =
    HeaderValue::from_static(r#"Bearer realm="portcullis", error="invalid_request""#);

/// A refusal of `authentication`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deny {
    /// No credential where one is needed (RFC 6750 section 3: a challenge without an error).
    Required,
    /// The request is ambiguous about its credential.
    Malformed(Ambiguity),
    /// The credential is not valid here.
    Invalid {
        /// For the log only.
        why: Why,
        /// The issuer by its name in the configuration, as far as the token got.
        issuer: Option<Arc<str>>,
    },
    /// The API key is valid, and not from this address.
    KeyAddress,
    /// The API key is valid, and not for this route.
    KeyRoute,
    /// The API key is none, and its network has tried too many of those.
    KeyFailures {
        /// For the log only.
        why: Why,
        /// Seconds until there is room for another.
        retry_after_s: u64,
    },
}

/// How a request is ambiguous about its credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguity {
    /// More than one `Authorization` field.
    AuthorizationTwice,
    /// Not `scheme SP token68`.
    AuthorizationForm,
    /// More than one `X-Api-Key` field.
    ApiKeyTwice,
    /// `X-Api-Key` is empty or holds something no key can hold.
    ApiKeyForm,
    /// A cookie of ours twice.
    CookieTwice,
    /// A cookie whose name some parsers take for one of ours.
    CookieAlias,
    /// More than one credential.
    Several,
    /// A credential in the query.
    InQuery,
}

impl Ambiguity {
    /// As written in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationTwice => "authorization twice",
            Self::AuthorizationForm => "authorization is not `scheme token68` with one space",
            Self::ApiKeyTwice => "x-api-key twice",
            Self::ApiKeyForm => "x-api-key is no token68",
            Self::CookieTwice => "our cookie twice",
            Self::CookieAlias => "a cookie name that folds to ours",
            Self::Several => "more than one credential",
            Self::InQuery => "a credential in the query",
        }
    }
}

macro_rules! whys {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// Why a credential is not valid, for the log only.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Why { $($(#[$doc])* $name,)+ }
        impl Why {
            /// As written in the log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}
whys! {
    /// Longer than 8,192 bytes.
    TokenTooLong = "token longer than 8192 bytes",
    /// Not three parts of ASCII.
    TokenParts = "token is not three parts",
    /// Not canonical base64url without padding.
    TokenEncoding = "token is not canonical base64url",
    /// Header longer than 1 KiB.
    HeaderTooLong = "header longer than 1 KiB",
    /// Header is no strict JSON object.
    HeaderSyntax = "header is no JSON object",
    /// Header with a duplicate member.
    HeaderDuplicate = "header with a duplicate member",
    /// Header beyond a bound.
    HeaderBounds = "header beyond a bound",
    /// Header member outside `alg`, `typ`, `kid`.
    HeaderMember = "header member outside alg, typ, kid",
    /// `alg` missing or none of ours.
    Algorithm = "alg missing or unknown",
    /// `typ` is not the issuer's.
    Typ = "typ is not the issuer's",
    /// `kid` outside its grammar.
    KidForm = "kid outside its grammar",
    /// Payload longer than 6 KiB.
    PayloadTooLong = "payload longer than 6 KiB",
    /// Payload is no strict JSON object.
    PayloadSyntax = "payload is no JSON object",
    /// Payload with a duplicate member.
    PayloadDuplicate = "payload with a duplicate member",
    /// Payload beyond a bound.
    PayloadBounds = "payload beyond a bound",
    /// Signature longer than any key makes.
    SignatureTooLong = "signature longer than 1024 bytes",
    /// `iss` missing or no string.
    IssuerForm = "iss missing or no string",
    /// No issuer of this `iss`.
    IssuerUnknown = "iss unknown",
    /// The route does not accept this issuer's tokens in this place.
    IssuerNotAccepted = "issuer not accepted here",
    /// The issuer does not use this algorithm.
    AlgorithmNotAllowed = "alg not of this issuer",
    /// `kid` missing where several keys could match.
    KidMissing = "kid missing and several keys match",
    /// No key of this `kid`.
    KidUnknown = "kid unknown",
    /// No key of this algorithm, or the key of this `kid` has another one.
    KeyAlgorithm = "alg is not the key's",
    /// The signature does not verify.
    Signature = "signature does not verify",
    /// `aud` missing, of another type, or longer than 8.
    AudienceForm = "aud missing or malformed",
    /// `aud` without ours.
    Audience = "aud without ours",
    /// `sub` missing, not 1 to 255 bytes, or not printable.
    Subject = "sub missing or malformed",
    /// `exp`, `iat` or `nbf` is no integer between 0 and 2^53, or a required one is missing.
    TimeForm = "exp, iat or nbf missing or no integer",
    /// `now >= exp`.
    Expired = "expired",
    /// `iat` in the future.
    IssuedInFuture = "iat in the future",
    /// `nbf` in the future.
    NotYet = "nbf in the future",
    /// `exp - iat` longer than allowed, or negative.
    Lifetime = "exp - iat out of bounds",
    /// `jti` present and malformed.
    TokenId = "jti malformed",
    /// `sid` present and malformed.
    Session = "sid malformed",
    /// Tenant claim missing, malformed or reserved.
    Tenant = "tenant claim missing or malformed",
    /// Roles claim of another type.
    Roles = "roles claim malformed",
    /// Scopes claim of another type, too long, or with a scope outside the grammar.
    Scopes = "scopes claim malformed",
    /// The roles by environment are no object from names of environments to texts, or there are too many.
    Environments = "environments malformed",
    /// `cnf` names another certificate than the connection's, or no certificate.
    Confirmation = "cnf cannot be satisfied",
    /// A token of the exchange that says of its key what no gateway writes.
    Exchanged = "claims of an exchanged token malformed",
    /// The route does not accept this kind of credential.
    KindNotAccepted = "kind of credential not accepted here",
    /// An `Authorization` scheme that is not `Bearer`.
    Scheme = "authorization scheme is not bearer",
    /// An API key outside its format.
    ApiKeyForm = "api key outside its format",
    /// An API key whose checksum does not match.
    ApiKeyChecksum = "api key checksum does not match",
    /// No such API key, or another secret.
    ApiKeyUnknown = "api key unknown",
    /// Past its expiry.
    ApiKeyExpired = "api key expired",
    /// Revoked.
    ApiKeyRevoked = "api key revoked",
    /// The token was revoked, by its `jti` or by what is signed.
    RevokedToken = "token revoked",
    /// Its session was revoked.
    RevokedSession = "session revoked",
    /// Its subject was revoked after it was issued.
    RevokedSubject = "subject revoked",
    /// Its tenant was revoked after it was issued.
    RevokedTenant = "tenant revoked",
    /// The key that signed it was revoked.
    RevokedKid = "kid revoked",
    /// Its issuer was revoked after it was issued.
    RevokedIssuer = "issuer revoked",
    /// Of another environment than the route.
    ApiKeyEnvironment = "api key of another environment",
    /// Past its `notAfter`.
    CertificateExpired = "certificate expired",
    /// Before its `notBefore`.
    CertificateNotYet = "certificate not valid yet",
    /// It lives longer than 365 days, or ends before it begins.
    CertificateLifetime = "certificate valid for more than 365 days",
    /// Those who are believed now did not sign it.
    CertificateUntrusted = "certificate of no authority that is believed",
    /// On a revocation list.
    CertificateListed = "certificate on a revocation list",
    /// No revocation list of its authority is still good.
    CertificateUnlisted = "no current revocation list of the certificate's authority",
    /// Revoked by an operator.
    RevokedCertificate = "certificate revoked",
    /// No URI among its names.
    CertificateNameless = "certificate without a URI",
    /// More than one URI among its names.
    CertificateNames = "certificate with several URIs",
    /// Names that cannot be read, or a tenant or agent outside its grammar.
    CertificateName = "certificate with a malformed name",
    /// The listener knows nobody of this URI.
    CertificateUnknown = "certificate names nobody here",
}

impl Why {
    /// Whether it is what guessing gives: the secret of a key that has ended, or is of another environment, was no guess.
    pub(super) fn is_guess(self) -> bool {
        matches!(self, Self::ApiKeyForm | Self::ApiKeyChecksum | Self::ApiKeyUnknown)
    }

    /// A credential that verifies, and was revoked.
    pub(super) const fn revoked(kind: Kind) -> Self {
        match kind {
            Kind::Jti | Kind::Token => Self::RevokedToken,
            Kind::Sid => Self::RevokedSession,
            Kind::Sub => Self::RevokedSubject,
            Kind::Tenant => Self::RevokedTenant,
            Kind::ApiKey => Self::ApiKeyRevoked,
            Kind::Cert => Self::RevokedCertificate,
            Kind::Kid => Self::RevokedKid,
            Kind::Issuer => Self::RevokedIssuer,
        }
    }

    pub(super) const fn header(error: JsonError) -> Self {
        match error {
            JsonError::Syntax => Self::HeaderSyntax,
            JsonError::Duplicate => Self::HeaderDuplicate,
            JsonError::TooDeep | JsonError::TooManyMembers | JsonError::TextTooLong | JsonError::ListTooLong => {
                Self::HeaderBounds
            }
        }
    }

    pub(super) const fn payload(error: JsonError) -> Self {
        match error {
            JsonError::Syntax => Self::PayloadSyntax,
            JsonError::Duplicate => Self::PayloadDuplicate,
            JsonError::TooDeep | JsonError::TooManyMembers | JsonError::TextTooLong | JsonError::ListTooLong => {
                Self::PayloadBounds
            }
        }
    }
}

impl Refusal for Deny {
    const CODES: &'static [Code] = &[REQUIRED, MALFORMED, INVALID, STALE, KEY_ADDRESS, KEY_ROUTE, KEY_FAILURES];

    fn code(&self) -> Code {
        match self {
            Self::Required => REQUIRED,
            Self::Malformed(_) => MALFORMED,
            Self::Invalid { .. } => INVALID,
            Self::KeyAddress => KEY_ADDRESS,
            Self::KeyRoute => KEY_ROUTE,
            Self::KeyFailures { .. } => KEY_FAILURES,
        }
    }

    fn rule(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Invalid { issuer, .. } => issuer.as_deref().map(Cow::Borrowed),
            Self::Required | Self::Malformed(_) | Self::KeyAddress | Self::KeyRoute | Self::KeyFailures { .. } => None,
        }
    }

    fn detail(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Required => None,
            Self::Malformed(ambiguity) => Some(ambiguity.as_str().into()),
            Self::KeyAddress => Some("the client is in none of the key's cidrs".into()),
            Self::KeyRoute => Some("the route is none of the key's routes".into()),
            Self::Invalid { why, .. } | Self::KeyFailures { why, .. } => Some(why.as_str().into()),
        }
    }

    fn headers(&self, answer: &mut HeaderMap) {
        let challenge = match self {
            Self::Required => HeaderValue::from_static(r#"Bearer realm="portcullis""#),
            Self::Malformed(_) => MALFORMED_CHALLENGE,
            Self::Invalid { .. } => HeaderValue::from_static(r#"Bearer realm="portcullis", error="invalid_token""#),
            // Another credential would not help, so none is asked for.
            Self::KeyAddress | Self::KeyRoute => return,
            Self::KeyFailures { retry_after_s, .. } => {
                answer.insert(RETRY_AFTER, HeaderValue::from(*retry_after_s));
                return;
            }
        };
        answer.insert(WWW_AUTHENTICATE, challenge);
    }
}
