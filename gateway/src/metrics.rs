//! What Prometheus reads. Labels come from the configuration or from closed sets, never from a client.

use portcullis_api::{Control, ControlName, Mode, Outcome, Step};
use portcullis_plugins::{
    authentication::Authentication,
    authorization::Authorization,
    bans::Bans,
    burst::Burst,
    csrf::Csrf,
    ip_allowlist::{IpAllowlist, TenantIpAllowlist},
    login::Login,
    quota::Quota,
    rate_limit::RateLimit,
    waf::Waf,
};
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};

/// Name, kind, labels and help of every family, for the registry and for the generated reference alike.
pub(crate) const FAMILIES: &[(&str, &str, &[&str], &str)] = &[
    ("portcullis_build_info", "gauge", &["version"], "1, with the version of the binary"),
    ("portcullis_config_generation", "gauge", &[], "generation of the configuration in force, 1 at the start"),
    ("portcullis_config_reloads_total", "counter", &["result"], "reloads by result: ok or refused"),
    ("portcullis_config_last_reload_success", "gauge", &[], "1 if the last reload was taken, 0 if it was refused"),
    ("portcullis_config_last_reload_timestamp_seconds", "gauge", &[], "when the configuration was last loaded"),
    (
        "portcullis_requests_total",
        "counter",
        &["tenant", "host", "route", "method", "code"],
        "requests by what was asked and the status answered",
    ),
    ("portcullis_request_duration_seconds", "histogram", &[], "from the head of a request to the end of its answer"),
    ("portcullis_overhead_seconds", "histogram", &[], "from the head of a request to the decision on it"),
    ("portcullis_requests_in_flight", "gauge", &[], "requests being handled"),
    ("portcullis_decisions_total", "counter", &["control", "outcome", "mode", "code"], "what each control said"),
    (
        "portcullis_ratelimit_store_up",
        "gauge",
        &[],
        "1 while the shared store answers in time; 1 with counters in memory",
    ),
    (
        "portcullis_ratelimit_store_duration_seconds",
        "histogram",
        &[],
        "calls of the shared store, each for one or more checks, until its answer or the deadline",
    ),
    (
        "portcullis_ratelimit_store_errors_total",
        "counter",
        &["kind"],
        "checks that the shared store gave no answer to: late, gone, refused or busy",
    ),
    (
        "portcullis_ratelimit_remembered_total",
        "counter",
        &[],
        "checks refused without asking the shared store, which had said that a limit is used up",
    ),
    (
        "portcullis_ratelimit_leased_total",
        "counter",
        &[],
        "checks paid out of what this gateway had taken ahead, without asking the shared store",
    ),
    (
        "portcullis_ratelimit_instances",
        "gauge",
        &[],
        "gateways that count in the shared store, as it said last; 0 while it has not, or with counters in memory",
    ),
    (
        "portcullis_ratelimit_uncharged_total",
        "counter",
        &[],
        "buckets that the shared store did not let be changed behind the traffic: charged with what was admitted while it was \
         away, or given back what nobody spent",
    ),
    (
        "portcullis_ratelimit_crowded",
        "gauge",
        &[],
        "checks since the start that counted a newcomer as having used what others have, because its table is full",
    ),
    (
        "portcullis_ratelimit_degraded_total",
        "counter",
        &["rule"],
        "checks that ran on a rule's posture because the store did not answer, and costs of upstreams that were no number",
    ),
    (
        "portcullis_ratelimit_costs_alone_total",
        "counter",
        &[],
        "costs of upstreams that this gateway charged to its own share because the shared store did not take them",
    ),
    ("portcullis_jwks_age_seconds", "gauge", &["issuer"], "age of an issuer's key set; -1 while none could be loaded"),
    ("portcullis_jwks_refresh_total", "counter", &["issuer", "result"], "attempts to load an issuer's keys"),
    (
        "portcullis_api_keys_last_load_success",
        "gauge",
        &[],
        "1 if the API keys' file was read at its last change or their store just answered, 0 while an older reading is in \
         force",
    ),
    (
        "portcullis_client_crl_last_load_success",
        "gauge",
        &["listener"],
        "1 if the revocation lists of client certificates were read at their last change, 0 while older ones are in force",
    ),
    (
        "portcullis_client_crl_next_update_timestamp_seconds",
        "gauge",
        &["listener"],
        "when the first revocation list of client certificates is past its next update; its certificates are refused from then on",
    ),
    (
        "portcullis_api_keys_age_seconds",
        "gauge",
        &[],
        "since the store of API keys last answered; -1 while it never has",
    ),
    (
        "portcullis_api_keys_unusable",
        "gauge",
        &[],
        "records in the store of API keys that cannot be believed and open nothing",
    ),
    ("portcullis_api_keys_uses_lost_total", "counter", &[], "uses of API keys that were not written to their store"),
    ("portcullis_blocks_active", "gauge", &[], "clients blocked for violations"),
    (
        "portcullis_blocks_total",
        "counter",
        &["reason"],
        "blocks that this gateway began, by the code of the last violation",
    ),
    (
        "portcullis_blocks_lost",
        "gauge",
        &[],
        "blocks that ended early since the start, because more clients were blocked than there is room for",
    ),
    (
        "portcullis_violations_alone_total",
        "counter",
        &[],
        "violations that this gateway counted alone because the shared store gave no answer",
    ),
    (
        "portcullis_lockouts_active",
        "gauge",
        &["scope"],
        "locks after failed logins: of a pair, an account or a network",
    ),
    ("portcullis_lockouts_total", "counter", &["scope"], "locks after failed logins that this gateway began"),
    (
        "portcullis_lockouts_lost",
        "gauge",
        &[],
        "locks that ended early since the start, because there were more than there is room for",
    ),
    ("portcullis_revocations", "gauge", &[], "revocations that hold"),
    (
        "portcullis_revocation_lag_seconds",
        "gauge",
        &[],
        "how long ago all that other gateways revoked was known; 0 without a shared store",
    ),
    (
        "portcullis_revocation_stale",
        "gauge",
        &["freshness"],
        "1 while requests of these routes are refused because that is longer ago than they allow, or was never",
    ),
    (
        "portcullis_streams_ended_total",
        "counter",
        &["code"],
        "exchanges under way that were ended because whoever made them would not be let in any more",
    ),
    (
        "portcullis_login_attempts_total",
        "counter",
        &["result"],
        "logins that an upstream judged: failure, success, or other for neither",
    ),
    (
        "portcullis_login_alone_total",
        "counter",
        &[],
        "failed and succeeded logins that this gateway counted alone because the shared store gave no answer",
    ),
    ("portcullis_tls_cert_not_after_timestamp_seconds", "gauge", &["host"], "when a host's certificate expires"),
    (
        "portcullis_upstream_cert_not_after_timestamp_seconds",
        "gauge",
        &["upstream"],
        "when the certificate expires that the gateway shows to an upstream",
    ),
    ("portcullis_tls_handshakes_total", "counter", &["version", "group", "result"], "TLS handshakes"),
    ("portcullis_connections_open", "gauge", &["listener"], "open client connections"),
    ("portcullis_connections_refused_total", "counter", &["listener", "reason"], "connections closed before a request"),
    (
        "portcullis_heads_refused_total",
        "counter",
        &["listener", "reason"],
        "requests refused by the HTTP parser or cut by a deadline before any control",
    ),
    ("portcullis_upstream_requests_total", "counter", &["upstream", "code"], "answers of upstreams"),
    ("portcullis_upstream_up", "gauge", &["upstream", "server"], "1 while a server is taken for well"),
    ("portcullis_upstream_retries_total", "counter", &["upstream"], "attempts beyond the first"),
    ("portcullis_log_dropped_total", "counter", &["sink"], "lines dropped because the sink was slow"),
    (
        "portcullis_label_overflow_total",
        "counter",
        &[],
        "requests counted under tenant `other`, which the configuration does not name",
    ),
];

/// All families, registered.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) generation: IntGauge,
    pub(crate) reloads: IntCounterVec,
    pub(crate) reload_ok: IntGauge,
    pub(crate) reload_time: IntGauge,
    pub(crate) requests: IntCounterVec,
    pub(crate) duration: Histogram,
    pub(crate) overhead: Histogram,
    pub(crate) in_flight: IntGauge,
    pub(crate) decisions: DecisionCounters,
    pub(crate) store_up: IntGauge,
    pub(crate) store_duration: Histogram,
    pub(crate) store_errors: IntCounterVec,
    pub(crate) remembered: IntCounter,
    pub(crate) leased: IntCounter,
    pub(crate) instances: IntGauge,
    pub(crate) uncharged: IntCounter,
    pub(crate) costs_alone: IntCounter,
    pub(crate) crowded: IntGauge,
    pub(crate) degraded: IntCounterVec,
    pub(crate) jwks_age: IntGaugeVec,
    pub(crate) jwks_refresh: IntCounterVec,
    pub(crate) api_keys_ok: IntGauge,
    pub(crate) client_crl_ok: IntGaugeVec,
    pub(crate) client_crl_next_update: IntGaugeVec,
    pub(crate) api_keys_age: IntGauge,
    pub(crate) api_keys_unusable: IntGauge,
    pub(crate) api_key_uses_lost: IntCounter,
    pub(crate) blocks_active: IntGauge,
    pub(crate) blocks: IntCounterVec,
    pub(crate) blocks_lost: IntGauge,
    pub(crate) violations_alone: IntCounter,
    pub(crate) lockouts_active: IntGaugeVec,
    pub(crate) lockouts: IntCounterVec,
    pub(crate) lockouts_lost: IntGauge,
    pub(crate) revocations: IntGauge,
    pub(crate) revocation_lag: IntGauge,
    pub(crate) streams_ended: IntCounterVec,
    pub(crate) revocation_stale: IntGaugeVec,
    pub(crate) login_attempts: IntCounterVec,
    pub(crate) login_alone: IntCounter,
    pub(crate) cert_not_after: IntGaugeVec,
    pub(crate) upstream_cert_not_after: IntGaugeVec,
    pub(crate) handshakes: IntCounterVec,
    pub(crate) connections: IntGaugeVec,
    pub(crate) connections_refused: IntCounterVec,
    pub(crate) heads_refused: IntCounterVec,
    pub(crate) upstream_requests: IntCounterVec,
    pub(crate) upstream_up: IntGaugeVec,
    pub(crate) upstream_retries: IntCounterVec,
    pub(crate) log_dropped: IntCounterVec,
    pub(crate) label_overflow: IntCounter,
}

/// Upper bounds in seconds: from a cached decision to a slow upstream.
const BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

impl Metrics {
    /// Registers every family.
    ///
    /// # Errors
    /// When a family is named twice or not in [`FAMILIES`]; a test holds that this does not happen.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let to = Families(Registry::new());
        to.gauges("portcullis_build_info")?.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            generation: to.gauge("portcullis_config_generation")?,
            reloads: to.counters("portcullis_config_reloads_total")?,
            reload_ok: to.gauge("portcullis_config_last_reload_success")?,
            reload_time: to.gauge("portcullis_config_last_reload_timestamp_seconds")?,
            requests: to.counters("portcullis_requests_total")?,
            duration: to.histogram("portcullis_request_duration_seconds")?,
            overhead: to.histogram("portcullis_overhead_seconds")?,
            in_flight: to.gauge("portcullis_requests_in_flight")?,
            decisions: DecisionCounters::new(to.counters("portcullis_decisions_total")?),
            store_up: to.gauge("portcullis_ratelimit_store_up")?,
            store_duration: to.histogram("portcullis_ratelimit_store_duration_seconds")?,
            store_errors: to.counters("portcullis_ratelimit_store_errors_total")?,
            remembered: to.counter("portcullis_ratelimit_remembered_total")?,
            leased: to.counter("portcullis_ratelimit_leased_total")?,
            instances: to.gauge("portcullis_ratelimit_instances")?,
            uncharged: to.counter("portcullis_ratelimit_uncharged_total")?,
            costs_alone: to.counter("portcullis_ratelimit_costs_alone_total")?,
            crowded: to.gauge("portcullis_ratelimit_crowded")?,
            degraded: to.counters("portcullis_ratelimit_degraded_total")?,
            jwks_age: to.gauges("portcullis_jwks_age_seconds")?,
            jwks_refresh: to.counters("portcullis_jwks_refresh_total")?,
            api_keys_ok: to.gauge("portcullis_api_keys_last_load_success")?,
            client_crl_ok: to.gauges("portcullis_client_crl_last_load_success")?,
            client_crl_next_update: to.gauges("portcullis_client_crl_next_update_timestamp_seconds")?,
            api_keys_age: to.gauge("portcullis_api_keys_age_seconds")?,
            api_keys_unusable: to.gauge("portcullis_api_keys_unusable")?,
            api_key_uses_lost: to.counter("portcullis_api_keys_uses_lost_total")?,
            blocks_active: to.gauge("portcullis_blocks_active")?,
            blocks: to.counters("portcullis_blocks_total")?,
            blocks_lost: to.gauge("portcullis_blocks_lost")?,
            violations_alone: to.counter("portcullis_violations_alone_total")?,
            lockouts_active: to.gauges("portcullis_lockouts_active")?,
            lockouts: to.counters("portcullis_lockouts_total")?,
            lockouts_lost: to.gauge("portcullis_lockouts_lost")?,
            revocations: to.gauge("portcullis_revocations")?,
            revocation_stale: to.gauges("portcullis_revocation_stale")?,
            streams_ended: to.counters("portcullis_streams_ended_total")?,
            revocation_lag: to.gauge("portcullis_revocation_lag_seconds")?,
            login_attempts: to.counters("portcullis_login_attempts_total")?,
            login_alone: to.counter("portcullis_login_alone_total")?,
            cert_not_after: to.gauges("portcullis_tls_cert_not_after_timestamp_seconds")?,
            upstream_cert_not_after: to.gauges("portcullis_upstream_cert_not_after_timestamp_seconds")?,
            handshakes: to.counters("portcullis_tls_handshakes_total")?,
            connections: to.gauges("portcullis_connections_open")?,
            connections_refused: to.counters("portcullis_connections_refused_total")?,
            heads_refused: to.counters("portcullis_heads_refused_total")?,
            upstream_requests: to.counters("portcullis_upstream_requests_total")?,
            upstream_up: to.gauges("portcullis_upstream_up")?,
            upstream_retries: to.counters("portcullis_upstream_retries_total")?,
            log_dropped: to.counters("portcullis_log_dropped_total")?,
            label_overflow: to.counter("portcullis_label_overflow_total")?,
            registry: to.0,
        })
    }

    /// The first configuration is in force.
    pub(crate) fn started(&self, unix: i64) {
        self.generation.set(1);
        self.reload_ok.set(1);
        self.reload_time.set(unix);
        self.store_up.set(1);
    }

    /// The text exposition format.
    #[must_use]
    pub(crate) fn render(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 << 10);
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => text,
            Err(error) => {
                tracing::error!(event = "metrics.render", %error, "metrics could not be rendered");
                Vec::new()
            }
        }
    }
}

/// What families are registered with.
struct Families(Registry);

impl Families {
    fn of(name: &str) -> prometheus::Result<(Opts, &'static [&'static str])> {
        FAMILIES
            .iter()
            .find(|(known, ..)| *known == name)
            .map(|(name, _, labels, help)| (Opts::new(*name, *help), *labels))
            .ok_or_else(|| prometheus::Error::Msg(format!("{name} is not in FAMILIES")))
    }

    fn register<T: Collector + Clone + 'static>(&self, family: T) -> prometheus::Result<T> {
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn counters(&self, name: &str) -> prometheus::Result<IntCounterVec> {
        let (opts, labels) = Self::of(name)?;
        self.register(IntCounterVec::new(opts, labels)?)
    }

    fn gauges(&self, name: &str) -> prometheus::Result<IntGaugeVec> {
        let (opts, labels) = Self::of(name)?;
        self.register(IntGaugeVec::new(opts, labels)?)
    }

    fn gauge(&self, name: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::with_opts(Self::of(name)?.0)?)
    }

    fn counter(&self, name: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::with_opts(Self::of(name)?.0)?)
    }

    fn histogram(&self, name: &str) -> prometheus::Result<Histogram> {
        let (opts, labels) = Self::of(name)?;
        let vec = self.register(HistogramVec::new(HistogramOpts::from(opts).buckets(BUCKETS.to_vec()), labels)?)?;
        Ok(vec.with_label_values::<&str>(&[]))
    }
}

/// The controls in the order in which a request meets them.
const JOURNEY: [ControlName; 11] = [
    IpAllowlist::NAME,
    Bans::NAME,
    Burst::NAME,
    RateLimit::NAME,
    Authentication::NAME,
    Csrf::NAME,
    Authorization::NAME,
    TenantIpAllowlist::NAME,
    Quota::NAME,
    Waf::NAME,
    Login::NAME,
];

/// What controls said. A request that every control lets through finds each counter where it looks first.
pub(crate) struct DecisionCounters {
    all: IntCounterVec,
    passed: [(ControlName, IntCounter); JOURNEY.len()],
}

impl DecisionCounters {
    fn new(all: IntCounterVec) -> Self {
        let pass = Outcome::Pass.as_str();
        let passed = JOURNEY
            .map(|control| (control, all.with_label_values(&[control.as_str(), pass, mode_label(Mode::Enforce), ""])));
        Self { all, passed }
    }

    /// Counts a trail.
    pub(crate) fn count(&self, steps: &[Step]) {
        let mut ahead = self.passed.iter();
        for step in steps {
            let passed = (step.outcome, step.mode, step.code) == (Outcome::Pass, Mode::Enforce, None);
            let counter = passed.then(|| ahead.find(|(control, _)| *control == step.control)).flatten();
            match counter {
                Some((_, counter)) => counter.inc(),
                None => {
                    let code = step.code.map_or("", |code| code.name);
                    let labels = [step.control.as_str(), step.outcome.as_str(), mode_label(step.mode), code];
                    self.all.with_label_values(&labels).inc();
                }
            }
        }
    }
}

const fn mode_label(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Shadow => "shadow",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_counted_once_in_whatever_order_the_steps_come() {
        let metrics = Metrics::new().unwrap();
        let mut trail = portcullis_api::Trail::default();
        for control in JOURNEY {
            trail.record(control, Outcome::Pass, Mode::Enforce);
        }
        trail.record(Waf::NAME, Outcome::Pass, Mode::Shadow);
        trail.record(Burst::NAME, Outcome::Off, Mode::Enforce);
        trail.record(Bans::NAME, Outcome::Pass, Mode::Enforce);
        metrics.decisions.count(trail.steps());
        let of = |control: ControlName, outcome: Outcome, mode: &str| {
            metrics.decisions.all.with_label_values(&[control.as_str(), outcome.as_str(), mode, ""]).get()
        };
        assert_eq!(of(IpAllowlist::NAME, Outcome::Pass, "enforce"), 2, "the site's and the tenant's");
        assert_eq!(of(Bans::NAME, Outcome::Pass, "enforce"), 2);
        assert_eq!(of(Quota::NAME, Outcome::Pass, "enforce"), 1);
        assert_eq!((of(Waf::NAME, Outcome::Pass, "enforce"), of(Waf::NAME, Outcome::Pass, "shadow")), (1, 1));
        assert_eq!((of(Burst::NAME, Outcome::Pass, "enforce"), of(Burst::NAME, Outcome::Off, "enforce")), (1, 1));
    }

    #[test]
    fn every_family_is_registered_once_under_our_prefix() {
        let metrics = Metrics::new().unwrap();
        assert!(!metrics.render().is_empty());
        for (name, ..) in FAMILIES {
            assert!(name.starts_with("portcullis_"), "{name}");
        }
    }
}
