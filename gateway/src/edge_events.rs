//! What happens before any filter, as metrics and system log lines.

use std::sync::Arc;

use crate::{
    edge::{Answered, EdgeEvents, ListenerRuntime},
    metrics::Metrics,
};

/// Counts the edge's events.
pub(crate) struct MeteredEvents(pub(crate) Arc<Metrics>);

impl EdgeEvents for MeteredEvents {
    fn connection_opened(&self, listener: &ListenerRuntime) {
        self.0.connections.with_label_values(&[listener.name()]).inc();
    }

    fn connection_closed(&self, listener: &ListenerRuntime) {
        self.0.connections.with_label_values(&[listener.name()]).dec();
    }

    fn refused(&self, listener: &ListenerRuntime, reason: &'static str) {
        self.0.connections_refused.with_label_values(&[listener.name(), reason]).inc();
        tracing::info!(
            event = "connection.refused",
            listener = listener.name(),
            reason,
            "a connection was closed before a request"
        );
    }

    fn handshake(&self, _listener: &ListenerRuntime, version: &'static str, group: &'static str, result: &'static str) {
        self.0.handshakes.with_label_values(&[version, group, result]).inc();
    }

    fn head_aborted(&self, listener: &ListenerRuntime, reason: &'static str, answered: Option<&Answered>) {
        self.0.heads_refused.with_label_values(&[listener.name(), reason]).inc();
        tracing::info!(
            event = "head.refused",
            listener = listener.name(),
            reason,
            request_id = answered.map(|answered| &*answered.request_id),
            code = answered.map(|answered| answered.code),
            "a request was refused before any control"
        );
    }
}
