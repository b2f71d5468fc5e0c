//! One account for all the ways to write it, and none for what can be read in two.

use http::{HeaderValue, Method};
use portcullis_api::Protocol;
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Option<String> {
    AccountName::parse(text).map(|name| name.as_str().to_owned())
}

/// What the places find in a request of this media type, query and body.
fn found(places: &[Place], media: &str, query: &str, body: &str) -> Option<String> {
    let mut headers = HeaderMap::new();
    if !media.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(media).unwrap());
    }
    headers.insert("x-account", HeaderValue::from_static("Ann"));
    let facts =
        Facts { method: &Method::POST, host: "h", path: "/", query, headers: &headers, protocol: Protocol::Http1 };
    match find(places, &facts, body.as_bytes()) {
        Account::Named(name) => Some(name.as_str().to_owned()),
        Account::Unknown => None,
    }
}

fn json(path: &str) -> Place {
    Place::Json(path.split('/').map(str::to_owned).collect())
}

const JSON: &str = "application/json; charset=utf-8";
const FORM: &str = "application/x-www-form-urlencoded";

#[test]
fn g7_one_account_has_one_name_however_it_is_written() {
    for other in ["John", "JOHN", " john\t", "\u{ff2a}ohn", "jo\u{200b}hn", "jo\u{ad}hn", "j\u{feff}ohn", "\u{24d9}ohn"]
    {
        assert_eq!(name(other).as_deref(), Some("john"), "{other:?}");
    }
    // One letter that is two in another case, in both directions, and marks that are put together in two ways.
    for [a, b] in [
        ["STRASSE", "stra\u{df}e"],
        ["stra\u{1e9e}e", "strasse"],
        ["\u{3a3}\u{3c2}", "\u{3c3}\u{3c3}"],
        ["e\u{301}", "\u{c9}"],
    ] {
        assert_eq!(name(a), name(b), "{a} {b}");
    }
    assert_ne!(name("john"), name("joan"));
    for nothing in ["", " ", "\t\n", "\u{200b}"] {
        assert_eq!(name(nothing), None, "{nothing:?}");
    }
}

proptest! {
    #[test]
    fn what_differs_in_case_and_blanks_only_is_one_account(text in "\\PC{0,24}") {
        let plain = name(&text);
        prop_assert_eq!(&plain, &name(&format!(" {text}\u{200b} ")));
        if let Some(plain) = plain {
            for other in [plain.clone(), plain.to_uppercase(), plain.to_lowercase()] {
                prop_assert_eq!(Some(plain.clone()), name(&other));
            }
        }
    }
}

#[test]
fn an_account_is_found_where_the_route_says() {
    assert_eq!(found(&[json("username")], JSON, "", r#"{"username":"Ann","password":"x"}"#).as_deref(), Some("ann"));
    assert_eq!(found(&[json("user/mail")], JSON, "", r#"{"user":{"mail":"a@b.c"}}"#).as_deref(), Some("a@b.c"));
    assert_eq!(found(&[json("id")], "text/json", "", r#"{"id":12345}"#).as_deref(), Some("12345"));
    let form = [Place::Form("user".to_owned())];
    assert_eq!(found(&form, FORM, "", "user=Ann+O%27Neil&password=x").as_deref(), Some("ann o'neil"));
    assert_eq!(found(&form, FORM, "next=%2Fhome", "user=ann").as_deref(), Some("ann"));
    assert_eq!(found(&[Place::Header(HeaderName::from_static("x-account"))], "", "", "").as_deref(), Some("ann"));
    let both = [json("user"), Place::Form("user".to_owned())];
    assert_eq!(found(&both, FORM, "", "user=ann").as_deref(), Some("ann"));
    assert_eq!(found(&both, JSON, "", r#"{"user":"ann"}"#).as_deref(), Some("ann"));
}

#[test]
fn what_an_app_could_read_in_two_ways_names_no_account() {
    let place = [json("user")];
    for body in [
        r#"{"user":"a","user":"b"}"#,
        r#"{"user":"a","\u0075ser":"b"}"#,
        r#"{"user":"a","User":"b"}"#,
        r#"{"user":["a"]}"#,
        r#"{"user":null}"#,
        r#"{"user":" "}"#,
        r#"{"name":"a"}"#,
        r#"["user"]"#,
        r#"{"user":"a"} x"#,
        "user=a",
        "",
    ] {
        assert_eq!(found(&place, JSON, "", body), None, "{body}");
    }
    assert_eq!(found(&place, "text/plain", "", r#"{"user":"a"}"#), None, "an app may read it, and may not");
    let form = [Place::Form("user".to_owned())];
    for (query, body) in [
        ("", "user=a&user=b"),
        ("", "user=a&USER=b"),
        ("", "user=a&us%65r=b"),
        ("user=b", "user=a"),
        ("", "user=%ff"),
        ("", "user="),
        ("", "user"),
        ("", ""),
    ] {
        assert_eq!(found(&form, FORM, query, body), None, "{query} {body}");
    }
    let two = [json("user"), json("mail")];
    assert_eq!(found(&two, JSON, "", r#"{"user":"a","mail":"b"}"#), None);
    assert_eq!(found(&two, JSON, "", r#"{"user":"a","mail":"A"}"#).as_deref(), Some("a"));
}

#[test]
fn a_decoy_beside_a_name_that_only_some_apps_read_hides_nobody() {
    let both = [json("username"), Place::Form("username".to_owned())];
    for body in [
        "username=decoy&+username=victim",
        "username=decoy& username=victim",
        "username=decoy&username%00=victim",
        "username=decoy&username[]=victim",
        "username=decoy&username%5B0%5D=victim",
        "username=decoy&u%C5%BFername=victim",
        "username=decoy&a=1;username=victim",
        "username=decoy&%ff=victim",
        r#"{"username":"victim","z":"&username=decoy&"}"#,
    ] {
        assert_eq!(found(&both, FORM, "", body), None, "{body}");
    }
    let long_s = "{\"username\":\"decoy\",\"u\u{17f}ername\":\"victim\"}";
    assert_eq!(found(&both, JSON, "", long_s), None);
    let victim = r#"{"username":"victim"}"#;
    for media in ["text/plain", "", "multipart/form-data; boundary=x", "application/json; charset=utf-7"] {
        assert_eq!(found(&both, media, "username=decoy", victim), None, "{media}");
    }
    let form_only = [Place::Form("username".to_owned())];
    assert_eq!(found(&form_only, JSON, "username=decoy", victim), None);
    let fine = "application/json; charset=\"UTF-8\"";
    assert_eq!(found(&both, fine, "", victim).as_deref(), Some("victim"));
}

#[test]
fn marks_over_letters_are_no_other_account() {
    for text in ["v\u{ed}ctim", "v\u{ec}ctim", "vi\u{301}ctim", "V\u{ce}CTIM"] {
        assert_eq!(AccountName::parse(text), AccountName::parse("victim"), "{text}");
    }
}
