//! From text to a snapshot, or every reason why not.
//!
//! Two steps. [`parse`] reads the shape of a document: syntax, unknown fields, missing fields, wrong types. [`settle`]
//! reads what the document refers to (certificates, secrets) and finds what is wrong between its parts. What belongs to
//! one control is checked by that control when it is compiled; its issues go into the same [`Report`].
//!
//! ```
//! use std::path::Path;
//!
//! let report = portcullis_config::parse("verzion = 1\n", Path::new("gateway.toml")).unwrap_err();
//! let first = report.plain();
//! assert!(first.starts_with("gateway.toml:1:1: document.unknown_field: unknown field `verzion` in the document"));
//! assert!(first.contains("did you mean `version`?"));
//! ```
//!
//! Direction: knows the vocabulary and the controls' settings. No socket, no clock but for the dates of certificates.

pub mod document;
mod inputs;
mod path;
mod pattern;
mod places;
pub mod reference;
mod report;
mod router;
mod settle;
mod settled;
mod shape;
mod store_url;

pub use document::{AccessLog, Document, FrameOptions, RouteKind, TlsVersion, UpstreamProtocol};
pub use inputs::control_inputs;
pub use path::{PathError, Template};
pub use pattern::{HostError, HostPattern, HostTable};
pub use places::Places;
pub use report::Report;
pub use router::{HostEntry, Matched, RouteEntry, Router};
pub use settle::{Surroundings, admin, secret, settle, settle_in};
pub use settled::{
    AdminSpec, ApiKeySource, ApiKeysSpec, AssertionSpec, ClientCertificateSpec, ClientCertificatesSpec, Counters,
    HealthSpec, IssuerSpec, KeySource, KeyStore, KeyStoreSpec, ListenerSpec, LogSpec, PostgresSpec, PostgresTls,
    SecurityHeaderValues, Server, Settled, StoresSpec, UpstreamCaSpec, UpstreamSpec, UpstreamTlsSpec,
};
pub use shape::parse;
pub use store_url::{Login, SentinelLogin, StoreMode, StoreServer, StoreUrl, StoreUrlError, Transport};
