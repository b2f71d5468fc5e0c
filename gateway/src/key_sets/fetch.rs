//! Fetches a key set: over https, from the address that was judged, without redirects, within a time and a size.
//!
//! Invariant: the addresses that a connection is made to are those that [`Judged`] let through; nothing looks a name up
//! twice.

use std::{
    error::Error as _,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use http::{HeaderMap, header};
use portcullis_api::Cidrs;
use portcullis_config::{IssuerSpec, KeySource};
use portcullis_plugins::authentication::{JWKS_BYTES_MAX, check_url, jwks_uri, may_be_asked};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

const CONNECT_MAX: Duration = Duration::from_secs(3);
/// For a key set, with the document that says where it is.
const TOTAL_MAX: Duration = Duration::from_secs(5);
/// What an issuer may say of how long its keys are good.
const INTERVAL_MIN: Duration = Duration::from_secs(300);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// RFC 7517 8.5, and what most issuers send.
const KEY_SET_TYPES: &[&str] = &["application/jwk-set+json", "application/json"];
const DISCOVERY_TYPES: &[&str] = &["application/json"];

/// Looks names up.
type Lookup = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// A client of one issuer's key server.
pub(super) struct Fetcher {
    http: reqwest::Client,
    networks: Arc<Cidrs>,
}

/// A key set as it came.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) bytes: Vec<u8>,
    /// How long its issuer lets it be kept, within our bounds.
    pub(super) keep: Duration,
}

impl Fetcher {
    /// # Errors
    /// When the TLS client cannot be built.
    pub(super) fn new(networks: &Cidrs) -> reqwest::Result<Self> {
        let look_up = |name: String| -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
            Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
        };
        Self::looking_up(networks, Arc::new(look_up))
    }

    fn looking_up(networks: &Cidrs, look_up: Arc<Lookup>) -> reqwest::Result<Self> {
        let networks = Arc::new(networks.clone());
        let http = reqwest::Client::builder()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // A connection that is kept would not be judged again.
            .pool_max_idle_per_host(0)
            .dns_resolver(Arc::new(Judged { networks: networks.clone(), look_up }))
            .connect_timeout(CONNECT_MAX)
            .timeout(TOTAL_MAX)
            .build()?;
        Ok(Self { http, networks })
    }

    /// Fetches an issuer's keys.
    ///
    /// # Errors
    /// What went wrong, for the operator.
    pub(super) async fn key_set(&self, spec: &IssuerSpec) -> Result<Fetched, String> {
        let all = async {
            let url = match &spec.keys {
                KeySource::JwksUrl(url) => url.clone(),
                KeySource::Discovery(url) => {
                    let document = self.get(url, "the discovery document", DISCOVERY_TYPES).await?;
                    jwks_uri(&document.bytes, &spec.issuer).map_err(|error| error.to_string())?
                }
                KeySource::JwksFile(_) | KeySource::Secret(_) | KeySource::Own { .. } => {
                    return Err("these keys are not fetched".to_owned());
                }
            };
            self.get(&url, "the key set", KEY_SET_TYPES).await
        };
        tokio::time::timeout(TOTAL_MAX, all)
            .await
            .unwrap_or_else(|_| Err(format!("it timed out: no answer within {TOTAL_MAX:?}")))
    }

    async fn get(&self, url: &str, what: &str, types: &[&str]) -> Result<Fetched, String> {
        let url = self.target(url)?;
        let request = self.http.get(url).header(header::ACCEPT, types.join(", "));
        let mut answer = request.send().await.map_err(told)?;
        let status = answer.status().as_u16();
        if status != 200 {
            let more = if answer.status().is_redirection() { ", and redirects are not followed" } else { "" };
            return Err(format!("{what} was answered with {status}{more}"));
        }
        check_type(answer.headers(), types).map_err(|why| format!("{what} {why}"))?;
        let keep = keep(answer.headers());
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(told)? {
            if bytes.len().saturating_add(piece.len()) > JWKS_BYTES_MAX {
                return Err(format!("{what} is larger than {JWKS_BYTES_MAX} bytes"));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Fetched { bytes, keep })
    }

    /// The URL as it will be connected to. A host that is an address is not looked up, so it is judged here, in the one
    /// spelling that is left of all that a URL may have.
    fn target(&self, text: &str) -> Result<reqwest::Url, String> {
        check_url(text).map_err(|why| format!("the URL {why}"))?;
        let url = reqwest::Url::parse(text).map_err(|error| format!("it is no URL: {error}"))?;
        let host = url.host_str().unwrap_or_default();
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>()
            && !may_be_asked(address, &self.networks)
        {
            return Err(not_public(host));
        }
        Ok(url)
    }
}

fn not_public(host: &str) -> String {
    format!("{host} has no address that is public or in private_networks")
}

/// Looks a name up and leaves only the addresses that may be asked.
struct Judged {
    networks: Arc<Cidrs>,
    look_up: Arc<Lookup>,
}

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let (networks, look_up) = (self.networks.clone(), self.look_up.clone());
        Box::pin(async move {
            let mut found = look_up(name.as_str().to_owned()).await?;
            found.retain(|address| may_be_asked(address.ip(), &networks));
            if found.is_empty() {
                return Err(not_public(name.as_str()).into());
            }
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

/// An error with its causes and without the URL.
fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        words = format!("{words}: {inner}");
        cause = inner.source();
    }
    words
}

fn check_type(headers: &HeaderMap, types: &[&str]) -> Result<(), String> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if types.iter().any(|known| known.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    let shown: String = essence.chars().take(64).flat_map(char::escape_default).collect();
    Err(format!("is of type `{shown}`, not {}", types.join(" or ")))
}

/// `max-age` of `Cache-Control`, within our bounds; the least where it is not there or storing is forbidden.
fn keep(headers: &HeaderMap) -> Duration {
    let directives = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let (mut age, mut forbidden) = (None, false);
    for directive in directives.flat_map(|value| value.split(',')) {
        let directive = directive.trim().to_ascii_lowercase();
        forbidden |= directive == "no-store" || directive == "no-cache";
        let seconds = directive.strip_prefix("max-age=").map(|text| text.trim_matches('"').parse::<u64>().unwrap_or(0));
        // Two that differ: the shorter.
        age = match (age, seconds) {
            (Some(one), Some(other)) => Some(std::cmp::min(one, other)),
            (one, other) => one.or(other),
        };
    }
    let age = age.filter(|_| !forbidden).map_or(INTERVAL_MIN, Duration::from_secs);
    age.clamp(INTERVAL_MIN, INTERVAL_MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use http::HeaderValue;

    use super::*;

    fn fetcher(networks: &[&str], look_up: Arc<Lookup>) -> Fetcher {
        // Another test may have installed it.
        let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let nets = networks.iter().map(|net| net.parse().unwrap()).collect();
        Fetcher::looking_up(&Cidrs::new(nets), look_up).unwrap()
    }

    fn nobody() -> Arc<Lookup> {
        Arc::new(|name| Box::pin(async move { panic!("{name} was looked up") }))
    }

    #[test]
    fn key_05_an_address_in_any_spelling_is_judged() {
        let fetcher = fetcher(&["10.1.0.0/16"], nobody());
        for url in [
            "https://127.0.0.1/a",
            "https://127.1/a",
            "https://2130706433/a",
            "https://0x7f000001/a",
            "https://0177.0.0.1/a",
            "https://127.0.0.1./a",
            "https://[::1]/a",
            "https://[::ffff:127.0.0.1]/a",
            "https://[0:0:0:0:0:ffff:a00:1]/a",
            "https://169.254.169.254/latest/meta-data/",
            "https://%31%32%37.0.0.1/a",
            "https://\u{ff11}27.0.0.1/a",
        ] {
            assert!(fetcher.target(url).is_err(), "{url}");
        }
        for url in ["https://10.1.2.3/a", "https://1.1.1.1/a", "https://id.example.com/a"] {
            assert!(fetcher.target(url).is_ok(), "{url}");
        }
    }

    #[tokio::test]
    async fn key_05_a_name_that_leads_elsewhere_the_second_time_is_not_followed() {
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let inside = TcpListener::bind(("127.0.0.2", there.local_addr().unwrap().port())).unwrap();
        there.set_nonblocking(true).unwrap();
        inside.set_nonblocking(true).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let rebinding: Arc<Lookup> = Arc::new(move |_| {
            let nth = counted.fetch_add(1, Ordering::Relaxed);
            let address = if nth == 0 { "127.0.0.1:0" } else { "127.0.0.2:0" };
            Box::pin(std::future::ready(Ok(vec![address.parse().unwrap()])))
        });
        let fetcher = fetcher(&["127.0.0.1/32"], rebinding);
        let url = format!("https://rebind.example.test:{}/a", there.local_addr().unwrap().port());
        let ask = || tokio::time::timeout(Duration::from_millis(500), fetcher.get(&url, "it", KEY_SET_TYPES));
        // Nobody speaks TLS there, so it fails once it is connected.
        let _first = ask().await;
        assert!(there.accept().is_ok(), "the address that was judged is the one that is connected to");
        assert_eq!(asked.load(Ordering::Relaxed), 1, "a name is looked up once");
        let why = ask().await.expect("it is refused before any connection").unwrap_err();
        assert!(why.contains("no address that is public"), "{why}");
        assert!(inside.accept().is_err(), "nobody came");
    }

    #[test]
    fn only_json_of_a_key_set_is_one() {
        let of = |kind: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            check_type(&headers, KEY_SET_TYPES)
        };
        for good in
            ["application/json", "application/jwk-set+json", "Application/JSON; charset=utf-8", "application/json ;q=1"]
        {
            assert_eq!(of(good), Ok(()), "{good}");
        }
        for bad in ["", "text/html", "text/json", "application/jsonp", "application/json,text/html", "application/jwt"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(check_type(&HeaderMap::new(), KEY_SET_TYPES).is_err());
    }

    #[test]
    fn an_issuer_says_how_long_its_keys_are_good_within_bounds() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CACHE_CONTROL, HeaderValue::from_static(value));
            }
            keep(&headers).as_secs()
        };
        assert_eq!(of(&[]), 300);
        assert_eq!(of(&["max-age=600"]), 600);
        assert_eq!(of(&["public, Max-Age=900, must-revalidate"]), 900);
        assert_eq!(of(&["max-age=1"]), 300);
        assert_eq!(of(&["max-age=999999999999"]), 3600);
        assert_eq!(of(&["max-age=99999999999999999999999"]), 300, "no number");
        assert_eq!(of(&["max-age=3000", "max-age=600"]), 600);
        assert_eq!(of(&["no-store, max-age=3000"]), 300);
        assert_eq!(of(&["s-maxage=3000"]), 300);
    }
}
