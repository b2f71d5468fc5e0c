//! Good and bad assertions, made anew for each run, because they live for seconds.

use aws_lc_rs::digest::{SHA256, digest};
use portcullis_tests::{
    Key,
    tokens::{b64, compact, now},
};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://gw.example.com";
pub(crate) const AUDIENCE: &str = "upstream:billing";
const TYPE: &str = "portcullis-assertion+jwt";

/// A case in the making: everything is right until something is changed.
struct Case {
    header: Value,
    claims: Value,
    method: &'static str,
    target: &'static str,
}

impl Case {
    fn good() -> Self {
        let now = now();
        Self {
            header: json!({"alg": "ES256", "kid": "key-1", "typ": TYPE}),
            claims: json!({
                "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 30, "jti": "j", "kind": "user", "tid": "acme",
                "sub": "okta:赵", "role": "developer", "scp": ["a", "b"], "htm": "GET", "htu": "/v1/a%20b",
                "qh": b64(digest(&SHA256, b"x=1&y").as_ref()),
            }),
            method: "GET",
            target: "/v1/a%20b?x=1&y",
        }
    }

    fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.claims.as_object_mut().expect("an object").remove(name);
        self
    }

    fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header[name] = value.into();
        self
    }

    fn to(mut self, method: &'static str, target: &'static str) -> Self {
        (self.method, self.target) = (method, target);
        self
    }

    fn written(&self, name: &str, verdict: &str, assertion: &str) -> Value {
        json!({"name": name, "method": self.method, "target": self.target, "assertion": assertion, "verdict": verdict})
    }
}

/// The key set, and every case with its verdict.
pub(crate) fn vectors() -> Value {
    let (key, other) = (Key::es256("key-1"), Key::es256("key-1"));
    let mut cases = Vec::new();
    let mut add = |name: &str, verdict: &str, case: Case, key: &Key| {
        cases.push(case.written(name, verdict, &compact(&case.header.to_string(), &case.claims.to_string(), key)));
    };
    add("good", "user", Case::good(), &key);
    add("good-api-key", "apikey", Case::good().claim("kind", "apikey").claim("key_id", "k"), &key);
    let nobody = Case::good().claim("kind", "anonymous").without("sub").without("tid").without("role").without("scp");
    add("good-anonymous", "anonymous", nobody, &key);
    let bare = Case::good().claim("qh", b64(digest(&SHA256, b"").as_ref()));
    add("good-without-query", "user", bare.to("GET", "/v1/a%20b"), &key);
    for (name, case) in bad() {
        add(name, "refused", case, &key);
    }
    add("other-key", "refused", Case::good(), &other);
    add("alg-hmac", "refused", Case::good().header("alg", "HS256"), &Key::hs256("key-1", &key.public_bytes()));
    add("alg-eddsa", "refused", Case::good().header("alg", "EdDSA"), &Key::eddsa("key-1"));
    let good = Case::good();
    let (header, claims) = (good.header.to_string(), good.claims.to_string());
    let token = compact(&header, &claims, &key);
    let parts: Vec<&str> = token.split('.').collect();
    let owner = b64(Case::good().claim("role", "owner").claims.to_string().as_bytes());
    let none = b64(json!({"alg": "none", "kid": "key-1", "typ": TYPE}).to_string().as_bytes());
    for (name, assertion) in [
        ("tampered-claims", format!("{}.{owner}.{}", parts[0], parts[2])),
        ("tampered-signature", format!("{}.{}.{}", parts[0], parts[1], b64(&[7; 64]))),
        ("no-signature", format!("{}.{}.", parts[0], parts[1])),
        ("zero-signature", format!("{}.{}.{}", parts[0], parts[1], b64(&[0; 64]))),
        ("short-signature", format!("{}.{}.{}", parts[0], parts[1], b64(&[1; 63]))),
        ("alg-none", format!("{none}.{}.", parts[1])),
        ("two-parts", format!("{}.{}", parts[0], parts[1])),
        ("four-parts", format!("{token}.x")),
        ("padding", format!("{token}==")),
        ("empty", String::new()),
        ("not-json", compact("x", &claims, &key)),
        ("claims-not-json", compact(&header, "x", &key)),
        ("claims-a-list", compact(&header, "[]", &key)),
    ] {
        cases.push(good.written(name, "refused", &assertion));
    }
    json!({"issuer": ISSUER, "audience": AUDIENCE, "jwks": {"keys": [key.jwk()]}, "cases": cases})
}

/// What is signed with the right key, and wrong.
fn bad() -> Vec<(&'static str, Case)> {
    let good = Case::good;
    let now = now();
    vec![
        ("other-path", good().to("GET", "/v1/other?x=1&y")),
        ("decoded-path", good().to("GET", "/v1/a b?x=1&y")),
        ("other-method", good().to("POST", "/v1/a%20b?x=1&y")),
        ("other-query", good().to("GET", "/v1/a%20b?x=2&y")),
        ("no-query", good().to("GET", "/v1/a%20b")),
        ("other-audience", good().claim("aud", "upstream:shop")),
        ("list-of-audiences", good().claim("aud", json!([AUDIENCE, "upstream:shop"]))),
        ("no-audience", good().without("aud")),
        ("other-issuer", good().claim("iss", "https://gw.example.com/")),
        ("no-issuer", good().without("iss")),
        ("expired", good().claim("iat", now - 60).claim("exp", now - 30)),
        ("no-exp", good().without("exp")),
        ("exp-text", good().claim("exp", (now + 30).to_string())),
        ("from-the-future", good().claim("iat", now + 300).claim("exp", now + 330)),
        ("no-iat", good().without("iat")),
        ("typ-jwt", good().header("typ", "JWT")),
        ("typ-other-case", good().header("typ", "Portcullis-Assertion+JWT")),
        ("unknown-kid", good().header("kid", "key-2")),
        ("crit", good().header("crit", json!(["exp"]))),
        ("embedded-key", good().header("jwk", json!({"kty": "EC"}))),
        ("key-url", good().header("jku", "https://evil.example.com/jwks.json")),
        ("user-without-subject", good().without("sub")),
        ("anonymous-with-subject", good().claim("kind", "anonymous")),
        ("no-kind", good().without("kind")),
        ("unknown-kind", good().claim("kind", "root")),
        ("no-binding", good().without("htm").without("htu").without("qh")),
    ]
}
