//! `waf`: a query, and JSON bodies of two sizes with and without what it counts.

use anyhow::{Context, ensure};
use http::Method;
use portcullis_api::Control;
use portcullis_benches::Suite;
use portcullis_plugins::waf::{self, Body};

use crate::world::{ROUTE, Request, World, passed};

const QUERY: &str = "state=open&sort=-created&page=2&q=blue%20bicycle&from=2026-01-01";

/// Prose that nothing is counted in.
const PROSE: &str = "Please leave it with the neighbour on the second floor, thank you very much indeed. ";
/// Prose that is looked at closely: a URL, a number, and what looks like both and is neither.
const DENSE: &str =
    "See https://shop.example.com/a?b=1 or call +44 20 7946 0018, order 2026-01-17/4711, v1.2.3 of a.b. ";

/// `waf`: from nothing to look at to a body that is nothing but URLs and phone numbers.
pub(crate) fn waf(suite: &mut Suite, world: &World) -> anyhow::Result<()> {
    let control = world.controls.waf.control().context("waf")?;
    for (name, query) in [("GET", ""), ("GET, query of 6 parameters", QUERY)] {
        let request = Request::new(Method::GET, query, &[])?;
        let sees = waf::Sees { facts: request.facts(), route: ROUTE, tenant: None, body: Body::Absent };
        ensure!(passed(control.check(sees)).is_some(), "waf: {name}");
        suite.bench(&format!("waf: {name}"), None, || passed(control.check(sees)))?;
    }
    let request = Request::new(Method::POST, "", &[("content-type", "application/json")])?;
    for (size_name, size) in [("1 KiB", 1 << 10), ("64 KiB", 64 << 10)] {
        for (text_name, text) in [("prose", PROSE), ("URLs and phones", DENSE)] {
            let body = json(text, size)?;
            let sees = waf::Sees { facts: request.facts(), route: ROUTE, tenant: None, body: Body::Whole(&body) };
            ensure!(passed(control.check(sees)).is_some(), "waf: {size_name} of {text_name}");
            let name = format!("waf: {size_name} JSON, {text_name}");
            suite.bench_bytes(&name, body.len(), || passed(control.check(sees)))?;
        }
    }
    Ok(())
}

/// An array of texts, about `size` bytes long.
fn json(text: &str, size: usize) -> anyhow::Result<Vec<u8>> {
    let notes = size.checked_div(text.len().saturating_add(3)).unwrap_or(1).max(1);
    Ok(serde_json::to_vec(&serde_json::json!({ "notes": vec![text; notes] }))?)
}
