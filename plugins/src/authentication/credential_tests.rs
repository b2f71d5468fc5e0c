//! Tests of `credential`: one credential, found the same way on every route.

use http::{HeaderMap, HeaderValue, Method};
use portcullis_api::Protocol;
use proptest::prelude::*;

use super::*;

const SID: &str = "__Host-portcullis_sid";

fn known() -> Known {
    let cookies =
        vec![CookieName { name: SID.into(), issuer: 0 }, CookieName { name: "__Host-admin".into(), issuer: 1 }];
    Known { api_key_prefix: Some("pck_".into()), cookies }
}

/// What is found among these fields; `owned` so that it outlives them.
fn find_in(known: &Known, fields: &[(&'static str, &[u8])], query: &str) -> Result<Option<String>, Ambiguity> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_bytes(value).unwrap());
    }
    let facts = Facts {
        method: &Method::GET,
        host: "a.example",
        path: "/",
        query,
        headers: &headers,
        protocol: Protocol::Http2,
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(known.find(&facts)?.map(|presented| match presented {
        Presented::Bearer(token) => format!("bearer {}", text(token)),
        Presented::ApiKey(key) => format!("key {}", text(key)),
        Presented::Cookie { issuer, token } => format!("cookie {issuer} {}", text(token)),
        Presented::OtherScheme => "other".to_owned(),
    }))
}
fn find(fields: &[(&'static str, &str)]) -> Result<Option<String>, Ambiguity> {
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    find_in(&known(), &fields, "")
}
fn authorization(value: &str) -> Result<Option<String>, Ambiguity> {
    find(&[("authorization", value)])
}
fn cookie(value: &str) -> Result<Option<String>, Ambiguity> {
    find(&[("cookie", value)])
}
fn some(text: &str) -> Result<Option<String>, Ambiguity> {
    Ok(Some(text.to_owned()))
}

#[test]
fn nothing_is_nothing() {
    assert_eq!(find(&[("cookie", "a=b; theme=dark"), ("x-other", "Bearer x")]), Ok(None));
}

#[test]
fn jwt_27_the_scheme_is_case_insensitive_and_one_space_follows() {
    for good in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c"] {
        assert_eq!(authorization(good), some("bearer a.b.c"), "{good}");
    }
    assert_eq!(authorization("Bearer YQ=="), some("bearer YQ=="));
    for bad in [
        "Bearer",
        "Bearer ",
        "Bearer  x",
        "Bearer\tx",
        "Bearer x y",
        "Bearer x,y",
        "Bearer a, Bearer b",
        "Bearer =",
        "Bearer a=b",
        "Bearer \"a\"",
        "",
        " ",
        "=a b",
        "Bea rer(x) y",
        "Bearer a ",
    ] {
        if HeaderValue::from_str(bad).is_ok() {
            let found = authorization(bad);
            assert!(matches!(found, Err(Ambiguity::AuthorizationForm)) || found == some("other"), "{bad:?} {found:?}");
            assert!(!matches!(found, Ok(Some(ref text)) if text.starts_with("bearer")), "{bad:?}");
        }
    }
    assert_eq!(find_in(&known(), &[("authorization", b"Bearer \xff")], ""), Err(Ambiguity::AuthorizationForm));
}

#[test]
fn a_scheme_that_nobody_accepts_is_still_a_credential() {
    for scheme in ["Basic YTpi", "Digest username=\"a\", realm=\"b\"", "Negotiate", "DPoP a.b.c"] {
        assert_eq!(authorization(scheme), some("other"), "{scheme}");
    }
}

#[test]
fn jwt_26_two_credentials_are_refused_whatever_they_are() {
    let good_cookie = format!("{SID}=t");
    let (bearer, basic, key, sid) = (
        ("authorization", "Bearer a.b.c"),
        ("authorization", "Basic YTpi"),
        ("x-api-key", "pck_x"),
        ("cookie", good_cookie.as_str()),
    );
    for pair in [[bearer, key], [bearer, sid], [key, sid], [basic, key], [basic, sid]] {
        assert_eq!(find(&pair), Err(Ambiguity::Several), "{pair:?}");
    }
    assert_eq!(cookie(&format!("{SID}=a; __Host-admin=b")), Err(Ambiguity::Several), "cookies of two issuers");
    assert_eq!(find(&[bearer, bearer]), Err(Ambiguity::AuthorizationTwice));
    assert_eq!(find(&[bearer, basic]), Err(Ambiguity::AuthorizationTwice));
    assert_eq!(find(&[key, key]), Err(Ambiguity::ApiKeyTwice));
}

#[test]
fn an_api_key_comes_as_bearer_or_in_its_own_header() {
    assert_eq!(authorization("Bearer pck_live_x"), some("key pck_live_x"));
    assert_eq!(authorization("Bearer PCK_live_x"), some("bearer PCK_live_x"));
    assert_eq!(find(&[("x-api-key", "pck_live_x")]), some("key pck_live_x"));
    assert_eq!(find(&[("x-api-key", "anything")]), some("key anything"));
    for bad in ["", "a b", "a,b", "=", "\"a\""] {
        assert_eq!(find(&[("x-api-key", bad)]), Err(Ambiguity::ApiKeyForm), "{bad}");
    }
    let without = Known::default();
    assert_eq!(find_in(&without, &[("x-api-key", b"a b")], ""), Ok(None), "the app's own header");
    assert_eq!(find_in(&without, &[("authorization", b"Bearer pck_x")], ""), some("bearer pck_x"));
}

#[test]
fn jwt_25_a_credential_in_the_query_is_refused() {
    for bad in [
        "access_token=x",
        "a=b&access_token=x",
        "access_token",
        "access_token=",
        "api_key=1",
        "apikey=1",
        "APIKEY=1",
        "%61ccess_token=x",
        "a;access_token=x",
        "api%5Fkey=x",
        "&&apikey",
    ] {
        assert_eq!(find_in(&known(), &[], bad), Err(Ambiguity::InQuery), "{bad}");
        assert_eq!(find_in(&Known::default(), &[], bad), Err(Ambiguity::InQuery), "{bad}");
    }
    for good in ["", "token=x", "my_access_token=x", "q=access_token", "access_tokens=1", "q=a%26apikey%3D1"] {
        assert_eq!(find_in(&known(), &[], good), Ok(None), "{good}");
    }
}

#[test]
fn cookies_of_several_fields_are_one_list() {
    assert_eq!(
        find(&[("cookie", "a=1"), ("cookie", "__Host-portcullis_sid=t"), ("cookie", "b=2")]),
        some("cookie 0 t")
    );
    assert_eq!(cookie("a=1;__Host-admin=x=y ;b"), some("cookie 1 x=y"));
    assert_eq!(cookie("__Host-portcullis_sid="), some("cookie 0 "), "present and empty is present");
}

#[test]
fn ses_02_our_cookie_twice_or_under_another_spelling_is_refused() {
    let twice = format!("{SID}=a; {SID}=b");
    assert_eq!(cookie(&twice), Err(Ambiguity::CookieTwice));
    assert_eq!(find(&[("cookie", &format!("{SID}=a")), ("cookie", &format!("{SID}=a"))]), Err(Ambiguity::CookieTwice));
    for alias in [
        "__host-portcullis_sid=x",
        "\u{2000}__Host-portcullis_sid=x",
        "\u{feff}__Host-portcullis_sid=x",
        "__Host-portcullis_sid\u{a0}=x",
        "\"__Host-portcullis_sid\"=x",
        "__%48ost-portcullis_sid=x",
        "__Host-portcullis.sid=x",
        "__Host-portcullis[sid=x",
        "__Host-portcullis_sid",
        "=__Host-portcullis_sid=x",
        "==__Host-portcullis_sid",
        "\u{a0}= =__Host-portcullis_sid=x",
        "__Host-portcullis_sid =x",
    ] {
        let found = find_in(&known(), &[("cookie", alias.as_bytes())], "");
        assert_eq!(found, Err(Ambiguity::CookieAlias), "{alias}");
        let both = format!("{SID}=good; {alias}");
        assert!(find_in(&known(), &[("cookie", both.as_bytes())], "").is_err(), "{alias}");
    }
    // A byte that Latin-1 readers trim.
    assert_eq!(find_in(&known(), &[("cookie", b"\xa0__Host-portcullis_sid=x")], ""), Err(Ambiguity::CookieAlias));
    assert_eq!(cookie(&format!("$Version=1; {SID}=a; $Path=/; ${SID}=b")), some("cookie 0 a"));
    assert_eq!(cookie("portcullis_sid=x; __Host-portcullis_sid2=y; my__Host-portcullis_sid=z"), Ok(None));
}

#[test]
fn ses_04_our_cookie_is_removed_and_the_others_keep_their_bytes() {
    let strip = |value: &str| strip_cookie(value, SID);
    assert_eq!(strip("a=1; __Host-portcullis_sid=t; b=\"x y\";c").as_deref(), Some("a=1; b=\"x y\";c"));
    assert_eq!(strip("__Host-portcullis_sid=t; b=2").as_deref(), Some("b=2"));
    assert_eq!(strip("__Host-portcullis_sid=t"), None);
    assert_eq!(strip("__HOST-portcullis_sid=t; \u{2000}__Host-portcullis_sid=u"), None, "aliases go too");
    assert_eq!(strip("a=1;b=2").as_deref(), Some("a=1;b=2"));
    assert_eq!(strip_cookie_bytes(b"a=\xff; __Host-portcullis_sid=t", SID).as_deref(), Some(&b"a=\xff"[..]));
}

#[test]
fn ses_02_an_upstream_sets_our_cookie_under_no_spelling() {
    let names = ["other".to_owned(), SID.to_owned()];
    let sets = |value: &[u8]| sets_cookie(value, &names);
    for value in [
        "__Host-portcullis_sid=x; Path=/; Secure",
        "__Host-portcullis_sid=",
        "__Host-portcullis_sid",
        "__Host-portcullis_sid; Path=/",
        "=__Host-portcullis_sid=x; Path=/; Secure",
        "==__Host-portcullis_sid=x",
        "=__Host-portcullis_sid",
        " = __Host-portcullis_sid = x",
        "__HOST-Portcullis_SID=x",
        "  \t__Host-portcullis_sid \t=x",
        "\u{a0}__Host-portcullis_sid\u{2003}=x",
        "\u{feff}__Host-portcullis_sid=x",
        "\u{1}__Host-portcullis\u{0}_sid=x",
        "__Host-portcullis_sid\u{0}more=x",
        "__Host-portcullis_sid=x\u{0}",
        "%5F%5fHost%2dportcullis%5Fsid=x",
        "=__Host%2Dportcullis_sid=x",
        "__Host.portcullis.sid=x",
        "\"__Host-portcullis_sid\"=x",
        "; ;__Host-portcullis_sid=x",
        "OTHER=1",
    ] {
        assert!(sets(value.as_bytes()), "{value:?}");
    }
    assert!(sets(b"\xff__Host-portcullis_sid\xa0=x"));
    for value in [
        "",
        "=",
        ";",
        "app=1; Path=/",
        "app=__Host-portcullis_sid",
        "app=1; __Host-portcullis_sid=x",
        "__Host-portcullis_sid2=x",
        "__Secure-portcullis_sid=x",
        "portcullis_sid=x",
        "=app=1",
        "$other=1",
    ] {
        assert!(!sets(value.as_bytes()), "{value:?}");
    }
    assert!(!sets_cookie(b"__Host-portcullis_sid=x", &[]));
}

#[test]
fn token68_is_what_the_rfc_says_byte_by_byte() {
    for byte in 0..=u8::MAX {
        let expected = byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
        assert_eq!(in_token68(byte), expected, "{byte:#x}");
    }
    assert!(QUERY_NAMES.iter().all(|name| name.first() == Some(&b'a')));
}

proptest! {
    #[test]
    fn arbitrary_fields_never_panic_and_never_yield_two(
        authorization in proptest::option::of("[ -~]{0,24}"), key in proptest::option::of("[ -~]{0,12}"),
        cookie in proptest::option::of("(__Host-portcullis_sid|__host-admin|a|=|;| |\\$|%48){0,8}"), query in "[ -~]{0,20}",
    ) {
        let mut fields: Vec<(&'static str, &[u8])> = Vec::new();
        for (name, value) in [("authorization", &authorization), ("x-api-key", &key), ("cookie", &cookie)] {
            if let Some(value) = value {
                fields.push((name, value.as_bytes()));
            }
        }
        let _ = find_in(&known(), &fields, &query);
    }

    #[test]
    fn a_stripped_field_holds_no_cookie_of_ours(value in "(__Host-portcullis_sid|__host-portcullis_sid|a=1|=|;| ){0,10}") {
        if let Some(left) = strip_cookie(&value, SID) {
            let mut headers = HeaderMap::new();
            headers.insert("cookie", left.parse().unwrap());
            prop_assert_eq!(find_cookie(&headers, SID), Ok(None));
        }
    }
    #[test]
    fn what_comes_back_as_ours_or_is_refused_as_such_could_not_be_set(
        value in "(__Host-portcullis_sid|__host-portcullis_sid|a=1|=|%5f| |\u{a0}|\"|_|sid){0,8}"
    ) {
        // A browser without a name for a cookie sends its value alone, an older one with the `=`.
        for sent in [value.as_str(), value.strip_prefix('=').unwrap_or(&value)] {
            let mut headers = HeaderMap::new();
            headers.insert("cookie", HeaderValue::from_bytes(sent.as_bytes()).unwrap());
            if find_cookie(&headers, SID) != Ok(None) {
                prop_assert!(sets_cookie(value.as_bytes(), &[SID.to_owned()]), "{:?}", value);
            }
        }
    }
}
