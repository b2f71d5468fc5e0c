//! What one request holds from first byte to access line: the configuration, compiled.

use std::{collections::BTreeSet, sync::Arc};

use pingora_error::Result;
use portcullis_api::Issues;
use portcullis_api::TenantId;
use portcullis_config::{Document, HostEntry, Router, SecurityHeaderValues, Settled, document::Bounds};
use portcullis_plugins::{canonical::HeadBounds, controls::Controls, cors::Cors};

use crate::{assertions::Rings, exchange, upstreams::Upstream};

/// A configuration in force. Counters, key sets, pools and bans live outside, so a reload resets nobody's limit.
pub(crate) struct Snapshot {
    /// 1 at the start, one more at each reload that was taken.
    pub(crate) generation: u64,
    /// Hosts and routes.
    pub(crate) router: Router,
    /// Every control.
    pub(crate) controls: Controls,
    /// In the order that routes refer to.
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    /// The assertions' keys.
    pub(crate) assertions: Option<Arc<Rings>>,
    /// The hosts that serve tokens for API keys, by their indexes.
    pub(crate) exchange: BTreeSet<usize>,
    /// For answers to requests whose host is unknown.
    pub(crate) default_headers: SecurityHeaderValues,
    cors: Vec<Option<Cors>>,
    bounds: Vec<HeadBounds>,
    cookies: Vec<String>,
    tenants: BTreeSet<TenantId>,
}

impl Snapshot {
    /// Puts a snapshot together.
    ///
    /// # Errors
    /// When an upstream cannot be built.
    pub(crate) fn build(
        generation: u64,
        settled: Settled,
        cookies: Vec<String>,
        controls: Controls,
        assertions: Option<Arc<Rings>>,
    ) -> Result<Self> {
        let upstreams = settled
            .upstreams
            .iter()
            .map(|spec| Upstream::build(spec, assertions.as_deref(), generation).map(Arc::new))
            .collect::<Result<Vec<_>>>()?;
        let mut issues = Issues::default();
        let cors = settled.cors.iter().map(|cors| Cors::compile(cors, &mut issues)).collect();
        if let Some(issue) = issues.as_slice().first() {
            return pingora_error::Error::e_explain(pingora_error::ErrorType::InternalError, issue.message.clone());
        }
        Ok(Self {
            generation,
            cors,
            bounds: settled.listeners.iter().map(|listener| head_bounds(&listener.bounds)).collect(),
            cookies,
            exchange: exchange::hosts(&settled),
            tenants: settled.tenants.into_iter().collect(),
            router: settled.router,
            controls,
            upstreams,
            assertions,
            default_headers: SecurityHeaderValues::default(),
        })
    }

    /// The bounds of a listener's heads. Listeners are fixed at the start, so there always are some.
    #[must_use]
    pub(crate) fn head_bounds(&self, listener: usize) -> HeadBounds {
        self.bounds.get(listener).copied().unwrap_or(HeadBounds {
            head_bytes_max: 0,
            fields_max: 0,
            target_bytes_max: 0,
        })
    }

    /// A host's cross-origin rules.
    #[must_use]
    pub(crate) fn cors(&self, host: &HostEntry) -> Option<&Cors> {
        self.cors.get(host.cors?)?.as_ref()
    }

    /// A host by its index.
    #[must_use]
    pub(crate) fn host(&self, index: usize) -> Option<&HostEntry> {
        self.router.hosts().get(index)
    }

    /// An upstream's name.
    #[must_use]
    pub(crate) fn upstream_name(&self, upstream: usize) -> &str {
        self.upstreams.get(upstream).map_or("", |upstream| &*upstream.name)
    }

    /// Names of the session cookies of all issuers.
    #[must_use]
    pub(crate) fn cookies(&self) -> &[String] {
        &self.cookies
    }

    /// Whether the configuration names this tenant; others share one metric label.
    #[must_use]
    pub(crate) fn names_tenant(&self, tenant: &TenantId) -> bool {
        self.tenants.contains(tenant)
    }
}

fn head_bounds(bounds: &Bounds) -> HeadBounds {
    HeadBounds {
        head_bytes_max: bounds.head_bytes_max.as_len(),
        fields_max: usize::try_from(bounds.header_fields_max.get()).unwrap_or(usize::MAX),
        target_bytes_max: bounds.target_bytes_max.as_len(),
    }
}

/// Names of the session cookies of all issuers: none of them reaches an upstream or comes back from one.
pub(crate) fn cookies(document: &Document) -> Vec<String> {
    document.issuers.values().filter_map(|issuer| issuer.cookie.as_ref()).map(|cookie| cookie.value.clone()).collect()
}
