//! What a head costs before the first control: one reading of it, its route, and its reserved names.

use std::{fmt::Write, path::Path};

use anyhow::{Context, anyhow, ensure};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portcullis_api::{Issues, Protocol};
use portcullis_benches::Suite;
use portcullis_plugins::{
    canonical::{self, Ended, Head, HeadBounds},
    reserved,
};

/// Twenty fields as a browser and the proxies on its way send them. Three of them are reserved.
const FIELDS: &[(&str, &str)] = &[
    ("host", "api.example.com"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "application/json, text/plain, */*"),
    ("accept-language", "en-GB,en;q=0.8,de;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("authorization", "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ1c2VyLTEwMDEifQ.c2lnbmF0dXJl"),
    ("origin", "https://app.example.com"),
    ("referer", "https://app.example.com/orders"),
    ("sec-fetch-dest", "empty"),
    ("sec-fetch-mode", "cors"),
    ("sec-fetch-site", "same-site"),
    ("dnt", "1"),
    ("priority", "u=0"),
    ("te", "trailers"),
    ("cache-control", "no-cache"),
    ("pragma", "no-cache"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("x-forwarded-for", "203.0.113.7"),
    ("x-forwarded-proto", "https"),
    ("x-request-id", "8f14e45f-ceea-467f-a8b6-0a1f2d3c4b5e"),
];

const TARGET: &str = "/v1/orders/o-1001/lines?state=open&sort=-created&page=2&q=blue%20bicycle";

/// The gateway's defaults.
const BOUNDS: HeadBounds = HeadBounds { head_bytes_max: 64 << 10, fields_max: 100, target_bytes_max: 8 << 10 };

fn fields() -> HeaderMap {
    FIELDS.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

/// `canonical`: 20 fields and a query, over both protocols.
pub(crate) fn heads(suite: &mut Suite) -> anyhow::Result<()> {
    let headers = fields();
    let mut raw = format!("GET {TARGET} HTTP/1.1\r\n");
    for (name, value) in FIELDS {
        write!(raw, "{name}: {value}\r\n")?;
    }
    raw.push_str("\r\n");
    let h1 = Head {
        protocol: Protocol::Http1,
        method: &Method::GET,
        raw_target: TARGET.as_bytes(),
        authority: None,
        scheme: None,
        headers: &headers,
        raw_h1: Some(raw.as_bytes()),
        ended: Ended::WithHead,
        bounds: BOUNDS,
    };
    let h2 = Head {
        protocol: Protocol::Http2,
        authority: Some("api.example.com"),
        scheme: Some("https"),
        raw_h1: None,
        ..h1
    };
    for (name, head) in [("h1", h1), ("h2", h2)] {
        canonical::canonicalise(&head).map_err(|why| anyhow!("canonical {name}: {why}"))?;
        suite.bench(&format!("canonical: {name}, 20 fields"), None, || canonical::canonicalise(&head))?;
    }
    Ok(())
}

/// Hosts and routes of each host that a request's are found among.
const HOSTS: u32 = 100;
const ROUTES: u32 = 20;

/// The router: a host among many, and its last route.
pub(crate) fn router(suite: &mut Suite) -> anyhow::Result<()> {
    let mut text = "version = 1\n[listeners.local]\naddress = \"127.0.0.1:8080\"\nclient_ip = \"direct\"\n\
                    tls = \"off\"\n[upstreams.app]\nservers = [\"127.0.0.1:9\"]\n\
                    [controls]\nip_allowlist = { allow = [\"0.0.0.0/0\"] }\nburst = \"off\"\nwaf = \"off\"\n"
        .to_owned();
    for host in 0..HOSTS {
        write!(text, "[hosts.\"h{host}.example.com\"]\ntenant = \"identity\"\n")?;
        for route in 0..ROUTES {
            write!(
                text,
                "[hosts.\"h{host}.example.com\".routes.r{route}]\npath = \"/v1/things{route}\"\nmethods = [\"GET\"]\n\
                 upstream = \"app\"\nauth = {{ public = \"a bench\" }}\n"
            )?;
        }
    }
    let document =
        portcullis_config::parse(&text, Path::new("bench.toml")).map_err(|report| anyhow!("{}", report.plain()))?;
    let mut issues = Issues::default();
    let settled = portcullis_config::settle(&document, Path::new("."), &mut issues)
        .with_context(|| format!("the document does not settle: {:?}", issues.as_slice()))?;
    let (host, path) = ("h77.example.com", "/v1/things9/o-1001/lines");
    let find = || settled.router.find(host)?.route(path)?.admitting(&Method::GET);
    ensure!(find().is_some(), "router");
    suite.bench(&format!("router: {HOSTS} hosts of {ROUTES} routes"), None, || find().map(|route| route.id))?;
    Ok(())
}

/// `reserved`: the names that strip looks at, twice a request.
pub(crate) fn reserved(suite: &mut Suite) -> anyhow::Result<()> {
    let headers = fields();
    let count = || headers.keys().filter(|name| reserved::is_reserved(name)).count();
    ensure!(count() == 3, "reserved");
    suite.bench("reserved: 20 names", None, count)?;
    Ok(())
}
