//! The exchange as its clients see it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::{Answer, Gateway, Request, Setup, Upstream};

/// Where it is served.
pub const TOKEN: &str = "/.portcullis/v1/token";
/// `iss` and `aud` of its tokens.
pub const EXCHANGE: &str = "https://gw.example.test/exchange";
/// What signs them.
pub const EXCHANGE_SECRET: &[u8] = b"planted-exchange-secret-0123456789abcdef01234";
/// What a request for a token says besides its key.
pub const GRANT: &str = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token_type=urn:portcullis:params:oauth:token-type:api-key";

/// The default, with an exchange that is asked as often as a test likes, and routes that take its tokens.
pub fn exchanging(upstream: &Upstream) -> Setup {
    let both = r#"{ accept = ["jwt:main", "api_key", "exchange"] }"#;
    let route = |name: &str| format!("hosts.\"api.example.test\".routes.{name}.auth");
    Setup::new(upstream)
        .file("secrets/exchange", EXCHANGE_SECRET)
        .with(&format!(
            "[exchange]\nissuer = \"{EXCHANGE}\"\nkey = \"file:secrets/exchange\"\nhosts = [\"api.example.test\"]\n\
             rate = {{ requests = 100000, window = \"1m\" }}"
        ))
        .set(&route("orders"), both)
        .set(&route("tenant"), both)
        .set(&route("scoped"), r#"{ accept = ["api_key", "exchange"], scopes = ["orders:write"] }"#)
        .set(&route("admin"), r#"{ accept = ["api_key", "exchange"], role = "admin" }"#)
        .set(&route("live"), r#"{ accept = ["api_key", "exchange"], environment = "live" }"#)
}

/// A request for a token for this key, with more of the form.
pub fn asking(key: &str, more: &str) -> Request {
    form(&format!("{GRANT}&subject_token={key}{more}"))
}

/// A form for it.
pub fn form(body: &str) -> Request {
    Request::post(TOKEN, body).header("Content-Type", "application/x-www-form-urlencoded")
}

/// The answer, which must be JSON that nobody keeps.
pub fn told(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    assert_eq!(answer.header("pragma"), Some("no-cache"), "{answer:?}");
    assert!(answer.header("set-cookie").is_none(), "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error} in {answer:?}"))
}

/// A token for this key.
pub fn token(gateway: &Gateway, key: &str, more: &str) -> String {
    let answer = gateway.send(&asking(key, more));
    assert_eq!(answer.status, 200, "{answer:?}");
    told(&answer)["access_token"].as_str().expect("a token").to_owned()
}

/// Status and `error` of a refusal.
pub fn refusal(answer: &Answer) -> (u16, String) {
    (answer.status, told(answer)["error"].as_str().expect("an error").to_owned())
}

/// A part of a token: 0 is the header, 1 the claims.
pub fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).expect("a token has three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
}
