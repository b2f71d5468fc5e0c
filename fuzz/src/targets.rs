//! What is fuzzed, and what must hold of it besides that it does not panic.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, Validation};
use portcullis_api::{Refusal, Verdict};
use portcullis_plugins::authentication::{JWKS_BYTES_MAX, KeySet};
use serde_json::Value;

use crate::{
    mutate::Input,
    rig::{KEY_SET, LOCAL, NOW, PUBLIC, Rig, SECRET},
};

/// One thing to fuzz.
pub(crate) trait Target {
    /// By which it is chosen.
    const NAME: &'static str;
    /// What to begin with. All have the same number of parts.
    fn seeds() -> Vec<Input>;
    /// Runs one input, panics when something does not hold, and says what came of it in a few words.
    fn run(&self, input: &Input) -> String;
}

/// The front end of a token: header, payload, what follows the signature, and a whole token in their place unless empty.
/// It is signed with a secret that is good, so that what is wrong with it is what it says.
pub(crate) struct Token(pub(crate) Rig);

impl Target for Token {
    const NAME: &'static str = "token";

    fn seeds() -> Vec<Input> {
        let payload = format!(
            r#"{{"iss":"{LOCAL}","aud":"orders","sub":"u-1","jti":"j-1","iat":{},"exp":{},"org":{{"id":"acme"}},"roles":["admin"],"scope":"a b"}}"#,
            NOW - 10,
            NOW + 100
        );
        let main = payload.replace("local.", "id.").replace(r#""org":{"id":"acme"}"#, r#""tenant_id":"acme""#);
        let late = payload.replace(&(NOW + 100).to_string(), &(NOW - 1).to_string());
        let parts = |header: &str, payload: &str, whole: &str| {
            vec![header.as_bytes().to_vec(), payload.as_bytes().to_vec(), Vec::new(), whole.as_bytes().to_vec()]
        };
        vec![
            parts(r#"{"alg":"HS256","typ":"JWT"}"#, &payload, ""),
            parts(r#"{"typ":"at+jwt","kid":"x","alg":"HS256"}"#, &payload, ""),
            parts(r#"{"alg":"HS256"}"#, &late, ""),
            parts(r#"{"alg":"HS256"}"#, &payload.replacen('{', r#"{"x":[[[[[[[1]]]]]]],"#, 1), ""),
            parts(r#"{"alg":"ES256","kid":"ec"}"#, &main, ""),
            parts(r#"{"alg":"Ed25519"}"#, &main, ""),
            parts("", "", "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UifQ.c2ln"),
        ]
    }

    fn run(&self, input: &Input) -> String {
        let [header, payload, tail, whole] = input.as_slice() else { panic!("four parts") };
        let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload)).into_bytes();
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), &token);
        token.extend_from_slice(format!(".{}", URL_SAFE_NO_PAD.encode(signature)).as_bytes());
        token.extend_from_slice(tail);
        let token = if whole.is_empty() { &token } else { whole };
        match self.0.ask(&[("authorization", &[b"Bearer ", token.as_slice()].concat())], "") {
            Ok(Verdict::Deny(deny)) => format!("{} {:?}", deny.code().name, deny.detail()),
            Ok(Verdict::Pass(proof)) => {
                let identity = proof
                    .caller()
                    .identity()
                    .map(|identity| (identity.tenant().to_string(), identity.subject().to_owned()));
                // A value that HTTP cannot carry was no credential.
                let Some((tenant, subject)) = identity else { return "anonymous".to_owned() };
                agrees(token, &tenant, &subject);
                "accepted".to_owned()
            }
            Err(fault) => panic!("it could not decide: {fault}"),
        }
    }
}

/// Whoever is accepted, jsonwebtoken accepts under the same name, and each part has the one spelling of its bytes.
fn agrees(token: &[u8], tenant: &str, subject: &str) {
    for part in token.split(|byte| *byte == b'.') {
        let bytes = URL_SAFE_NO_PAD.decode(part).expect("base64url");
        assert_eq!(URL_SAFE_NO_PAD.encode(bytes).as_bytes(), part, "a second spelling");
    }
    let mut validation = Validation::new(jsonwebtoken::Algorithm::HS256);
    validation.set_audience(&["orders"]);
    validation.set_issuer(&[LOCAL]);
    validation.set_required_spec_claims(&["exp", "iss", "sub", "aud"]);
    // Its clock goes on.
    validation.validate_exp = false;
    let theirs = jsonwebtoken::decode::<Value>(token, &DecodingKey::from_secret(SECRET), &validation);
    let theirs = theirs.expect("what is accepted the library accepts").claims;
    assert_eq!((theirs["org"]["id"].as_str(), theirs["sub"].as_str()), (Some(tenant), Some(subject)));
    let exp = theirs["exp"].as_u64().expect("a whole number");
    assert!(NOW < exp && exp <= NOW + 30 + 3600, "exp {exp}");
}

/// Where credentials stand: `Authorization`, `Cookie`, `X-Api-Key` and the query. No input holds a good one.
pub(crate) struct Credential(pub(crate) Rig);

impl Target for Credential {
    const NAME: &'static str = "credential";

    fn seeds() -> Vec<Input> {
        let key = b"pck_live_7Q2m4kP9xWbT_0000000000000000000000000000000000000000000_000000".to_vec();
        let none = Vec::new;
        vec![
            vec![b"Bearer a.b.c".to_vec(), none(), none(), none()],
            vec![none(), b"a=b; __Host-sid=x; $Version=1".to_vec(), none(), none()],
            vec![none(), none(), key, b"a=b&access%5Ftoken=x".to_vec()],
        ]
    }

    fn run(&self, input: &Input) -> String {
        let [authorization, cookie, key, query] = input.as_slice() else { panic!("four parts") };
        let fields = [("authorization", authorization), ("cookie", cookie), ("x-api-key", key)];
        let present: Vec<(&'static str, &[u8])> = fields
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name, value.as_slice()))
            .collect();
        match self.0.ask(&present, &String::from_utf8_lossy(query)) {
            Ok(Verdict::Deny(deny)) => format!("{} {:?}", deny.code().name, deny.detail()),
            Ok(Verdict::Pass(_)) => panic!("nobody was let in"),
            Err(fault) => panic!("it could not decide: {fault}"),
        }
    }
}

/// A key set, as an issuer's server may answer.
pub(crate) struct Keys;

impl Target for Keys {
    const NAME: &'static str = "key_set";

    fn seeds() -> Vec<Input> {
        let rsa =
            format!(r#"{{"keys":[{{"kty":"RSA","alg":"RS256","use":"sig","n":"{}","e":"AQAB"}}]}}"#, "q".repeat(342));
        vec![vec![KEY_SET.as_bytes().to_vec()], vec![rsa.into_bytes()]]
    }

    fn run(&self, input: &Input) -> String {
        let [bytes] = input.as_slice() else { panic!("one part") };
        match KeySet::from_jwks(bytes, PUBLIC) {
            // Without names and numbers, each of which would be news.
            Err(error) => {
                let text: String = error.to_string().split('`').step_by(2).collect();
                text.chars().filter(char::is_ascii_alphabetic).take(80).collect()
            }
            Ok(set) => {
                let json: Value = serde_json::from_slice(bytes).expect("what is a key set is JSON");
                let keys = json["keys"].as_array().expect("a list");
                assert!(bytes.len() <= JWKS_BYTES_MAX && (1..=keys.len()).contains(&set.usable()));
                assert!(set.usable() + set.warnings().len() <= keys.len() * 2);
                format!("{} usable", set.usable())
            }
        }
    }
}
