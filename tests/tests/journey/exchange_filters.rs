//! Filters: from a key's record through its tokens to the app, only ever narrowed; and keys for pages that others show.

use std::{process::Output, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_tests::{
    Protocol, Request, Seen, Upstream,
    assertion::{self, ISSUER, keys, p256, verified},
    exchange::{asking, exchanging, part, refusal, token},
    wait_for,
};
use serde_json::{Value, json};

use crate::World;

const EU: &str = r#"{"f":"region","op":"in","v":["eu"]}"#;
const EU_SPELLED: &str = r#"{"all":[{"f":"region","op":"in","v":["eu"]}],"v":1}"#;

fn world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        let upstream = Upstream::start();
        let gateway = exchanging(&upstream)
            .file("a.pem", p256())
            .with(&format!(
                "[assertion]\nissuer = \"{ISSUER}\"\nes256 = [\"file:a.pem\"]\n[upstreams.app]\nassertion = \"ES256\""
            ))
            .key("filtered", &["--tenant", "acme", "--filter", EU])
            .key("embed", &["--tenant", "acme", "--kind", "embed", "--role", "viewer", "--filter", EU])
            .start();
        World { upstream, gateway }
    });
    &WORLD
}

fn sent(protocol: Protocol, request: &Request) -> Seen {
    let answer = world().gateway.ask(protocol, request);
    assert_eq!(answer.status, 200, "{answer:?}");
    world().upstream.seen(&request.mark)
}

/// The filters that an app is told, in the header and in the assertion, which must say the same.
fn told(seen: &Seen) -> Option<String> {
    let header = seen
        .header("x-portcullis-filters")
        .map(|value| String::from_utf8(URL_SAFE_NO_PAD.decode(value).expect("base64url")).expect("UTF-8"));
    let jwks = world().gateway.admin("GET", assertion::KEY_SET).text();
    let claims: Value = verified(seen, &keys(&jwks), "upstream:app").expect("an assertion").1;
    let signed = claims.get("flt").map(Value::to_string);
    assert_eq!(
        signed.as_deref().map(|text| serde_json::from_str::<Value>(text).unwrap()),
        header.as_deref().map(|text| serde_json::from_str::<Value>(text).unwrap())
    );
    header
}

fn id(key: &str) -> &str {
    key.split('_').nth(2).expect("a key has an id")
}

#[test]
fn an_app_is_told_the_filters_of_a_key_and_of_its_tokens() {
    let gateway = &world().gateway;
    let key = gateway.key("filtered");
    for protocol in Protocol::BOTH {
        let direct = sent(protocol, &Request::get("/v1/orders").header("X-Api-Key", key));
        assert_eq!(told(&direct).as_deref(), Some(EU_SPELLED));
        let bought = token(gateway, key, "");
        assert_eq!(part(&bought, 1)["flt"], serde_json::from_str::<Value>(EU_SPELLED).unwrap());
        assert_eq!(told(&sent(protocol, &Request::get("/v1/orders").bearer(&bought))).as_deref(), Some(EU_SPELLED));
        let plain = token(gateway, gateway.key("acme"), "");
        assert_eq!(told(&sent(protocol, &Request::get("/v1/orders").bearer(&plain))), None);
    }
}

#[test]
fn what_is_asked_for_is_added_to_what_the_key_has_and_never_in_its_place() {
    let gateway = &world().gateway;
    let asked = r#"{"v":1,"all":[{"f":"region","op":"in","v":["us","eu"]},{"f":"age","op":"gte","v":18}]}"#;
    let both = r#"{"all":[{"f":"age","op":"gte","v":18},{"f":"region","op":"in","v":["eu"]},{"f":"region","op":"in","v":["eu","us"]}],"v":1}"#;
    let bought = token(gateway, gateway.key("filtered"), &format!("&portcullis_filters={asked}"));
    assert_eq!(told(&sent(Protocol::H1, &Request::get("/v1/orders").bearer(&bought))).as_deref(), Some(both));
    let narrowed = token(gateway, gateway.key("acme"), &format!("&portcullis_filters={EU_SPELLED}"));
    assert_eq!(told(&sent(Protocol::H1, &Request::get("/v1/orders").bearer(&narrowed))).as_deref(), Some(EU_SPELLED));
}

#[test]
fn nothing_but_the_token_says_what_an_embedded_page_may_see() {
    let gateway = &world().gateway;
    let key = gateway.key("embed");
    let bought = token(gateway, key, "");
    assert_eq!(part(&bought, 1)["sub"], format!("embed:{}", id(key)));
    let planted = URL_SAFE_NO_PAD.encode(r#"{"all":[{"f":"region","op":"ne","v":""}],"v":1}"#);
    for protocol in Protocol::BOTH {
        let hostile = Request::get(format!(
            "/v1/orders?tenant=globex&tenant_id=globex&portcullis_filters=%7B%7D&filters={planted}&flt={planted}&region=us"
        ))
        .bearer(&bought)
        .header("X-Portcullis-Filters", &planted)
        .header("x-portcullis-filters-2", &planted)
        .header("X-Portcullis-Tenant", "globex")
        .header("X-Tenant-Id", "globex")
        .header("X-Portcullis-Kind", "user");
        let seen = sent(protocol, &hostile);
        assert_eq!(told(&seen).as_deref(), Some(EU_SPELLED));
        assert_eq!(seen.folded("x-portcullis-filters").len(), 1);
        assert_eq!(seen.folded("x-portcullis-filters-2"), []);
        let header = |name: &str| seen.header(&format!("x-portcullis-{name}"));
        assert_eq!((header("tenant"), header("kind")), (Some("acme".into()), Some("embed".into())));
        assert_eq!(header("subject"), Some(format!("embed:{}", id(key))));
        let direct = sent(protocol, &Request::get("/v1/orders").header("X-Api-Key", key));
        assert_eq!((direct.header("x-portcullis-kind"), told(&direct).is_some()), (Some("embed".into()), true));
    }
    assert_eq!(gateway.send(&Request::get("/t/globex/things").bearer(&bought)).status, 404);
}

#[test]
fn a_key_for_embedded_pages_is_not_made_without_filters_or_with_a_role_that_writes() {
    let gateway = &world().gateway;
    let issue = |more: &[&str]| -> Output {
        gateway.cli(&[&["keys", "issue", "--tenant", "acme", "--kind", "embed"], more].concat())
    };
    for (more, said) in [
        (&[][..], "filters"),
        (&["--filter", EU, "--role", "developer"][..], "role"),
        (&["--filter", r#"{"f":"region","op":"sql","v":"1=1"}"#][..], "op"),
        (&["--filter", EU, "--filter", r#"{"f":"a","op":"eq","v":1.5}"#][..], "integer"),
    ] {
        let output = issue(more);
        assert!(!output.status.success(), "{more:?}");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words.contains(said), "{more:?}: {words}");
    }
}

#[test]
fn a_store_keeps_filters_and_a_successor_has_them_too() {
    let upstream = Upstream::start();
    let store = "[api_keys]\nstore = \"sqlite:keys.db\"";
    let gateway = exchanging(&upstream).remove("api_keys.file").with(store).start();
    std::fs::write(gateway.setup().path("filters.json"), EU_SPELLED).expect("a file is written");
    let words = |output: Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    let issue = ["keys", "issue", "--tenant", "acme", "--name", "page", "--kind", "embed", "--filters-file"];
    let key = words(gateway.cli(&[&issue[..], &["filters.json"]].concat()));
    let shown: Value = serde_json::from_str(&words(gateway.cli(&["keys", "show", id(&key)]))).expect("JSON");
    assert_eq!((&shown["kind"], shown["filters"].to_string()), (&json!("embed"), EU_SPELLED.to_owned()));
    let next = words(gateway.cli(&["keys", "rotate", id(&key)]));
    wait_for("the successor to be known", || (gateway.send(&asking(&next, "")).status == 200).then_some(()));
    let bought = token(&gateway, &next, "");
    assert_eq!(part(&bought, 1)["flt"], serde_json::from_str::<Value>(EU_SPELLED).unwrap());

    let made = gateway.admin_post(
        "/admin/v1/api-keys",
        &json!({ "tenant": "acme", "name": "other", "created_by": "a test", "kind": "embed",
                 "filters": serde_json::from_str::<Value>(EU_SPELLED).unwrap() }),
    );
    assert_eq!(made.status, 200, "{made:?}");
    let wide = json!({ "tenant": "acme", "name": "wide", "created_by": "a test", "kind": "embed" });
    assert_eq!(gateway.admin_post("/admin/v1/api-keys", &wide).status, 409);
}

#[test]
fn a_filter_that_somebody_changes_in_the_file_is_not_believed() {
    let upstream = Upstream::start();
    let setup = exchanging(&upstream).key("filtered", &["--tenant", "acme", "--filter", EU]);
    assert!(setup.check().status.success());
    let path = setup.path("keys.json");
    let text = std::fs::read_to_string(&path).expect("the file is there");
    assert!(text.contains("\"eu\""), "{text}");
    portcullis_tests::document::write_private(&path, text.replace("\"eu\"", "\"us\"").as_bytes());
    let output = setup.check();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("mac"), "{output:?}");
}

#[test]
fn more_filters_than_an_app_may_be_told_are_refused() {
    let gateway = &world().gateway;
    let terms: Vec<Value> = (0..16).map(|n| json!({"f": format!("f{n}"), "op": "eq", "v": n})).collect();
    let sixteen = json!({"v": 1, "all": terms});
    let asked = |key: &str| gateway.send(&asking(gateway.key(key), &format!("&portcullis_filters={sixteen}")));
    assert_eq!(asked("acme").status, 200);
    assert_eq!(refusal(&asked("filtered")), (400, "invalid_request".to_owned()), "seventeen with its own");
}
