//! Why a request goes no further, apart from the controls' own refusals: the gateway's codes.

use http::HeaderMap;
use portcullis_api::{Code, ControlName, Refusal, Rejection};

/// A request stops here.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It is refused.
    Refused(Box<Rejection>),
    /// The gateway itself answers, on a path of its own.
    Answered(Box<OwnAnswer>),
    /// It was a CORS preflight, and these headers answer it.
    Preflight(HeaderMap),
    /// It asked for the server's options as a whole (`OPTIONS *`).
    ServerOptions,
}

/// An answer of the gateway's own: JSON.
#[derive(Debug)]
pub(crate) struct OwnAnswer {
    /// The status.
    pub(crate) status: u16,
    /// Its code, where it is a refusal.
    pub(crate) code: Option<&'static str>,
    /// Fields besides the usual ones.
    pub(crate) fields: HeaderMap,
    /// The JSON.
    pub(crate) body: Vec<u8>,
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(Box::new(rejection))
    }
}

const REQUEST: ControlName = ControlName::new("request");
const ROUTE: ControlName = ControlName::new("route");
const UPSTREAM: ControlName = ControlName::new("upstream");
const GATEWAY: ControlName = ControlName::new("gateway");

/// The gateway's own reasons.
#[derive(Debug, Clone)]
pub(crate) enum Own {
    /// No host of this name, or not on this connection.
    Misdirected(&'static str),
    /// The host has no such route.
    NoRoute,
    /// The route does not take this method.
    Method {
        /// What it takes, for `Allow`.
        allow: http::HeaderValue,
    },
    /// A WebSocket handshake to a route that takes none.
    Upgrade,
    /// A trusted hop sent something that is no address.
    ClientAddress(portcullis_api::ClientIpError),
    /// The body did not come in time.
    BodyTimeout,
    /// The body could not be read.
    Body,
    /// What the upstream would be told of the caller takes so many bytes.
    IdentityTooLarge(usize),
    /// Bodies that wait for their verdict hold as much memory as they may.
    Busy,
    /// No server of the upstream is well.
    NoServer,
    /// The upstream could not be reached.
    Unreachable(String),
    /// The upstream answered something that is no HTTP, or broke off.
    BadAnswer(String),
    /// The upstream did not answer in time.
    Timeout,
    /// A state that cannot be.
    Bug(String),
}

macro_rules! codes {
    ($($name:ident = $text:literal $status:literal $title:literal;)+) => {
        $(const $name: Code = Code { name: $text, status: $status, title: $title };)+
        impl Refusal for Own {
            const CODES: &'static [Code] = &[$($name),+];
            fn code(&self) -> Code { self.own_code() }
            fn detail(&self) -> Option<std::borrow::Cow<'_, str>> { self.own_detail() }
            fn headers(&self, answer: &mut HeaderMap) { self.own_headers(answer); }
        }
    };
}
codes! {
    MISDIRECTED = "route.misdirected" 421 "This connection does not serve that host";
    NO_ROUTE = "route.not_found" 404 "No such route";
    METHOD = "route.method" 405 "The route does not take this method";
    UPGRADE = "route.upgrade" 400 "The route takes no WebSocket handshake";
    CLIENT_ADDRESS = "request.client_address" 400 "The client address could not be settled";
    BODY_TIMEOUT = "request.body_timeout" 408 "The request body did not come in time";
    BODY = "request.body" 400 "The request body could not be read";
    IDENTITY_TOO_LARGE = "request.identity_too_large" 431 "What the service must be told of the caller does not fit";
    BUSY = "gateway.busy" 503 "The gateway holds too many request bodies right now";
    NO_SERVER = "upstream.unavailable" 503 "The service is not available right now";
    UNREACHABLE = "upstream.unreachable" 502 "The service could not be reached";
    BAD_ANSWER = "upstream.bad_answer" 502 "The service gave no valid answer";
    TIMEOUT = "upstream.timeout" 504 "The service did not answer in time";
    BUG = "gateway.bug" 500 "The gateway failed";
}

impl Own {
    const fn own_code(&self) -> Code {
        match self {
            Self::Misdirected(_) => MISDIRECTED,
            Self::NoRoute => NO_ROUTE,
            Self::Method { .. } => METHOD,
            Self::Upgrade => UPGRADE,
            Self::ClientAddress(_) => CLIENT_ADDRESS,
            Self::BodyTimeout => BODY_TIMEOUT,
            Self::Body => BODY,
            Self::IdentityTooLarge(_) => IDENTITY_TOO_LARGE,
            Self::Busy => BUSY,
            Self::NoServer => NO_SERVER,
            Self::Unreachable(_) => UNREACHABLE,
            Self::BadAnswer(_) => BAD_ANSWER,
            Self::Timeout => TIMEOUT,
            Self::Bug(_) => BUG,
        }
    }

    fn own_detail(&self) -> Option<std::borrow::Cow<'_, str>> {
        match self {
            Self::Misdirected(why) => Some((*why).into()),
            Self::ClientAddress(error) => Some(error.to_string().into()),
            Self::Unreachable(why) | Self::BadAnswer(why) | Self::Bug(why) => Some(why.into()),
            Self::IdentityTooLarge(bytes) => Some(format!("the fields about the caller have {bytes} bytes").into()),
            Self::NoRoute
            | Self::Method { .. }
            | Self::Upgrade
            | Self::BodyTimeout
            | Self::Body
            | Self::Busy
            | Self::NoServer
            | Self::Timeout => None,
        }
    }

    fn own_headers(&self, answer: &mut HeaderMap) {
        match self {
            Self::Method { allow } => {
                answer.insert(http::header::ALLOW, allow.clone());
            }
            Self::NoServer | Self::Busy => {
                answer.insert(http::header::RETRY_AFTER, http::HeaderValue::from_static("5"));
            }
            Self::Misdirected(_)
            | Self::NoRoute
            | Self::Upgrade
            | Self::ClientAddress(_)
            | Self::BodyTimeout
            | Self::Body
            | Self::IdentityTooLarge(_)
            | Self::Unreachable(_)
            | Self::BadAnswer(_)
            | Self::Timeout
            | Self::Bug(_) => {}
        }
    }

    /// As a rejection.
    #[must_use]
    pub(crate) fn rejection(&self) -> Rejection {
        let part = match self.own_code().name.split_once('.') {
            Some(("request", _)) => REQUEST,
            Some(("route", _)) => ROUTE,
            Some(("upstream", _)) => UPSTREAM,
            Some(_) | None => GATEWAY,
        };
        Rejection::of(part, self)
    }
}

impl From<Own> for Stop {
    fn from(own: Own) -> Self {
        own.rejection().into()
    }
}
