//! Suggestions as an operator reads them: a table, or blocks for the configuration.
//!
//! Invariant: no pseudonym, key id or tenant is shown, only how many there are. Names of routes come from the log,
//! which anybody may have written: what does not print is escaped.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use portcullis_api::Millis;

use super::{
    suggest::Suggestion,
    traffic::{Id, Kind, PEOPLE, Route, Tally, Traffic},
};

/// With fewer keys, one in a hundred is less than one key: the 99th percentile is the busiest of them.
const KEYS_MIN: usize = 100;

/// The longest name of a limit.
const NAME_MAX: usize = 64;

const HEAD: [&str; 12] =
    ["route", "key", "window", "keys", "requests", "p50", "p90", "p99", "max", "limit", "refuses requests", "and keys"];

/// One suggestion and what it is for.
pub(super) struct Row<'t> {
    pub(super) route: &'t str,
    pub(super) kind: Kind,
    pub(super) window: Millis,
    pub(super) suggestion: Suggestion,
}

/// The table, with what was read above it and what to beware of below.
pub(super) fn table(traffic: &Traffic, rows: &[Row<'_>]) -> Vec<String> {
    let cells: Vec<[String; 12]> = std::iter::once(HEAD.map(str::to_owned)).chain(rows.iter().map(cells_of)).collect();
    let width = |column: usize| cells.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..HEAD.len()).filter_map(width).collect();
    let mut lines = vec![counted(&traffic.tally), String::new()];
    lines.extend(cells.iter().map(|row| aligned(row, &widths)));
    lines.push(String::new());
    lines.extend(warnings(traffic, rows));
    if rows.iter().any(|row| row.suggestion.keys < KEYS_MIN) {
        lines.push(format!("* of fewer than {KEYS_MIN} keys: it is the busiest of them"));
    }
    lines
}

fn cells_of(row: &Row<'_>) -> [String; 12] {
    let Row { route, kind, window, suggestion } = row;
    let Suggestion { keys, requests, keyless: _, busiest, threshold, refused } = suggestion;
    let few = if *keys < KEYS_MIN { "*" } else { "" };
    [
        plain(route),
        kind.as_str().to_owned(),
        window.to_string(),
        keys.to_string(),
        requests.to_string(),
        busiest.p50.to_string(),
        busiest.p90.to_string(),
        format!("{}{few}", busiest.p99),
        busiest.max.to_string(),
        format!("{threshold}/{window}"),
        share(refused.requests, *requests),
        share(refused.keys, *keys),
    ]
}

/// The first two columns are text and stand left, the others right.
fn aligned(row: &[String; 12], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths).enumerate();
    let padded: Vec<String> = cells
        .map(|(column, (cell, width))| if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") })
        .collect();
    padded.join("  ")
}

/// Blocks to paste, each with what speaks for it; the warnings are comments above them.
pub(super) fn blocks(traffic: &Traffic, rows: &[Row<'_>]) -> Vec<String> {
    let mut lines: Vec<String> = std::iter::once(counted(&traffic.tally))
        .chain(warnings(traffic, rows))
        .chain(["A limit does nothing before a route names it in its `limits`.".to_owned()])
        .map(|line| format!("# {line}"))
        .collect();
    let mut names = BTreeSet::new();
    for Row { route, kind, window, suggestion } in rows {
        let Suggestion { keys, requests, keyless: _, busiest, threshold, refused } = suggestion;
        let (p99, max) = (busiest.p99, busiest.max);
        lines.extend([
            String::new(),
            format!(
                "# {} by {}: p99 {p99} and maximum {max} in {window}, of {keys} keys.",
                plain(route),
                kind.as_str()
            ),
            format!(
                "# It would have refused {} of {requests} requests and {} of the keys.",
                share(refused.requests, *requests),
                share(refused.keys, *keys)
            ),
        ]);
        if refused.keyless > 0 {
            lines.push(format!("# Better by caller: {} of these requests have no {}.", refused.keyless, kind.as_str()));
        }
        let kind = kind.as_str();
        lines.extend([
            format!("[limits.{}]", name(route, kind, *window, &mut names)),
            format!("key = [\"{kind}\", \"route\"]"),
            format!("requests = {threshold}"),
            format!("window = \"{window}\""),
        ]);
    }
    lines
}

/// A name as the document allows it, which no other block has.
fn name(route: &str, kind: &str, window: Millis, taken: &mut BTreeSet<String>) -> String {
    let allowed = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '-') => c,
        _ => '_',
    };
    let stem: String = route.chars().map(allowed).collect();
    let stem = stem.trim_matches('_');
    let numbered = |number: u32| {
        let again = if number == 1 { String::new() } else { format!("_{number}") };
        let end = format!("_{kind}_{window}{again}");
        // The end of a route's name tells it from the others of its host.
        let skipped = stem.len().saturating_sub(NAME_MAX.saturating_sub(end.len()));
        let name: String = stem.chars().skip(skipped).chain(end.chars()).collect();
        name.trim_start_matches(['_', '-']).to_owned()
    };
    (1..=u32::MAX).map(numbered).find(|name| taken.insert(name.clone())).unwrap_or_default()
}

fn counted(tally: &Tally) -> String {
    let Tally { lines, counted, refused, routeless, other } = tally;
    let mut text = format!(
        "{lines} access lines: {counted} requests that passed are counted; {refused} that the gateway answered with a \
         code are not"
    );
    if *routeless > 0 {
        text.push_str(&format!(", nor {routeless} that ended without a route"));
    }
    if *other > 0 {
        text.push_str(&format!("; {other} other lines are skipped"));
    }
    text
}

fn warnings(traffic: &Traffic, rows: &[Row<'_>]) -> Vec<String> {
    let mut lines = Vec::new();
    let short: BTreeSet<Millis> =
        rows.iter().map(|row| row.window).filter(|window| traffic.span() < window.as_micros()).collect();
    for window in short {
        let span = Millis::new(traffic.span().div_ceil(1000));
        lines.push(format!("warning: the log is of {span}, less than the window {window}"));
    }
    let crowds = traffic.crowds();
    for (name, route) in &traffic.routes {
        let name = plain(name);
        if route.limited > 0 {
            lines.push(format!(
                "warning: {name}: limits in force refused {} requests: clients wanted more than is counted here",
                route.limited
            ));
        }
        lines.extend(crowded(route, &crowds).map(|text| format!("warning: {name}: {text}")));
    }
    lines.extend(rows.iter().filter_map(keyless));
    lines
}

/// Addresses that seem to be many people.
fn crowded(route: &Route, crowds: &HashSet<Id>) -> Option<String> {
    let mut requests: BTreeMap<Id, usize> = BTreeMap::new();
    for client in route.requests.iter().filter_map(|request| request.client) {
        let count = requests.entry(client).or_default();
        *count = count.saturating_add(1);
    }
    let (all, total) = (requests.len(), route.requests.len());
    requests.retain(|client, _| crowds.contains(client));
    if requests.is_empty() {
        return None;
    }
    let known = route.requests.iter().any(|request| request.principal().is_some());
    let advice = if known {
        "count by `caller` or `subject` there, not by `client`"
    } else {
        "nothing else tells the callers of this route apart: leave room in a limit by `client`"
    };
    Some(format!(
        "{} of {all} addresses have {PEOPLE} callers or more and send {} of its requests; each seems to be many \
         people: {advice}",
        requests.len(),
        share(requests.values().sum(), total),
    ))
}

/// Requests without the key share a bucket: a trap of routes that take several credentials.
fn keyless(row: &Row<'_>) -> Option<String> {
    let Suggestion { requests, keyless, refused, .. } = &row.suggestion;
    (*keyless > 0).then(|| {
        format!(
            "warning: {}: {keyless} of {requests} requests have no `{}` and would share one bucket, which in {} \
             would refuse {} of them: count by `caller` there",
            plain(row.route),
            row.kind.as_str(),
            row.window,
            refused.keyless,
        )
    })
}

/// `12 (0.34%)`, rounded down: a share that is shown as nothing still has its number.
fn share(part: usize, whole: usize) -> String {
    let hundredths = part.saturating_mul(10_000).checked_div(whole).unwrap_or(0);
    let (percent, rest) = (hundredths.checked_div(100).unwrap_or(0), hundredths.checked_rem(100).unwrap_or(0));
    format!("{part} ({percent}.{rest:02}%)")
}

/// A text of the log, fit for a terminal and for a comment.
pub(super) fn plain(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use portcullis_api::Issues;
    use portcullis_plugins::rate_limit::{Input, Limit, Rules};
    use proptest::prelude::*;

    use super::{
        super::{rows, traffic::tests::request},
        *,
    };

    /// Loads blocks as the document's loader does; how many there are.
    fn load(blocks: &[String]) -> Result<usize, String> {
        #[derive(serde::Deserialize)]
        struct Document {
            limits: BTreeMap<String, Limit>,
        }
        let document: Document = toml::from_str(&blocks.join("\n")).map_err(|error| error.to_string())?;
        let mut issues = Issues::default();
        Rules::compile(Input { limits: &document.limits, routes: &[], tenants: &[], in_flight: &[] }, &mut issues);
        if issues.as_slice().is_empty() { Ok(document.limits.len()) } else { Err(format!("{issues:?}")) }
    }

    /// One client and six subjects behind it on one route, a lone client on another.
    fn traffic() -> Traffic {
        let mut traffic = Traffic::default();
        let crowd = (1..=12_u32).map(|n| request(u64::from(n) * 1_000_000, 1, n.div_ceil(2)));
        traffic.routes.entry("a.test/orders".into()).or_default().requests = crowd.collect();
        traffic.routes.entry("a.test/open".into()).or_default().requests =
            vec![request(1, 1, 0), request(2, 1, 0), request(2, 2, 0)];
        traffic.tally = Tally { lines: 20, counted: 15, refused: 4, routeless: 1, other: 2 };
        traffic
    }

    fn windows(texts: &[&str]) -> Vec<Millis> {
        texts.iter().map(|text| Millis::parse(text).unwrap()).collect()
    }

    #[test]
    fn the_table_says_what_was_read_what_is_suggested_and_what_to_beware_of() {
        let traffic = traffic();
        let text = table(&traffic, &rows(&traffic, &windows(&["10s"])).unwrap());
        let expected = [
            "20 access lines: 15 requests that passed are counted; 4 that the gateway answered with a code are not, \
             nor 1 that ended without a route; 2 other lines are skipped",
            "",
            "route          key      window  keys  requests  p50  p90  p99  max   limit  refuses requests   and keys",
            "a.test/open    client      10s     2         3    1    2   2*    2   5/10s         0 (0.00%)  0 (0.00%)",
            "a.test/orders  client      10s     1        12   10   10  10*   10  20/10s         0 (0.00%)  0 (0.00%)",
            "a.test/orders  subject     10s     6        12    2    2   2*    2   5/10s         0 (0.00%)  0 (0.00%)",
            "",
            "warning: a.test/open: 1 of 2 addresses have 5 callers or more and send 2 (66.66%) of its requests; each \
             seems to be many people: nothing else tells the callers of this route apart: leave room in a limit by \
             `client`",
            "warning: a.test/orders: 1 of 1 addresses have 5 callers or more and send 12 (100.00%) of its requests; \
             each seems to be many people: count by `caller` or `subject` there, not by `client`",
            "* of fewer than 100 keys: it is the busiest of them",
        ];
        assert_eq!(text, expected);
    }

    #[test]
    fn what_limits_in_force_cut_off_and_what_is_too_short_is_said() {
        let mut traffic = traffic();
        traffic.routes.entry("a.test/orders".into()).or_default().limited = 7;
        traffic.routes.entry("a.test/orders".into()).or_default().requests.push(request(13_000_000, 3, 0));
        let text = table(&traffic, &rows(&traffic, &windows(&["1m"])).unwrap()).join("\n");
        assert!(text.contains("warning: the log is of 13s, less than the window 1m"), "{text}");
        assert!(text.contains("warning: a.test/orders: limits in force refused 7 requests"), "{text}");
        assert!(
            text.contains("a.test/orders: 1 of 13 requests have no `subject` and would share one bucket"),
            "{text}"
        );
    }

    #[test]
    fn blocks_load_as_they_are() {
        let traffic = traffic();
        let rows = rows(&traffic, &windows(&["10s", "1m"])).unwrap();
        let blocks = blocks(&traffic, &rows);
        assert_eq!(load(&blocks), Ok(6), "{blocks:#?}");
        assert!(blocks.contains(&"[limits.a_test_orders_client_10s]".to_owned()), "{blocks:#?}");
    }

    #[test]
    fn a_share_is_rounded_down_and_keeps_its_number() {
        assert_eq!(share(1, 3), "1 (33.33%)");
        assert_eq!(share(1, 1_000_000), "1 (0.00%)");
        assert_eq!(share(0, 0), "0 (0.00%)");
    }

    proptest! {
        #[test]
        fn blocks_load_whatever_the_routes_are_called(names in proptest::collection::btree_set(".{0,90}", 1..8)) {
            let mut traffic = Traffic::default();
            for name in &names {
                traffic.routes.entry(name.clone()).or_default().requests = vec![request(1, 1, 1)];
            }
            let rows = rows(&traffic, &windows(&["1m", "90s"])).unwrap();
            prop_assert_eq!(load(&blocks(&traffic, &rows)), Ok(rows.len()));
            prop_assert!(table(&traffic, &rows).iter().all(|line| !line.contains(|c: char| c.is_control())));
        }
    }
}
