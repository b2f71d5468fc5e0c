//! `scope`: a query as it is typed, one of a dashboard, and the dearest that is taken.

use anyhow::{anyhow, ensure};
use portcullis_benches::Suite;
use portcullis_plugins::scope::promql::{Kind, Matcher, SELECTORS_MAX, confine};

const DASHBOARD: &str = r#"histogram_quantile(0.99, sum by (le, route) (rate(http_request_duration_seconds_bucket{job="api",code!~"5.."}[5m])))"#;
const TENANT: &[Matcher<'_>] = &[Matcher { label: "tenant", value: "acme" }];

/// `scope`: parsed, confined, printed and parsed again.
pub(crate) fn scope(suite: &mut Suite) -> anyhow::Result<()> {
    let inner = vec!["up"; SELECTORS_MAX.saturating_sub(8)].join(" or ");
    let dearest = format!("{}{inner}{}", "sum(".repeat(64), ")".repeat(64));
    for (name, query) in [("one name", "up"), ("a dashboard's query", DASHBOARD), ("the dearest", &dearest)] {
        let confined = confine(query, Kind::Expression, TENANT).map_err(|why| anyhow!("scope: {name}: {why:?}"))?;
        ensure!(confined.contains("tenant=\"acme\""), "scope: {name}");
        suite.bench(&format!("scope: {name}"), None, || confine(query, Kind::Expression, TENANT))?;
    }
    Ok(())
}
