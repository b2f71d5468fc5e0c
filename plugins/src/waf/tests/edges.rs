//! Limits at the edge and one past it, and whose limit holds.

use portcullis_api::Layers;

use super::*;

fn links(count: usize) -> String {
    (0..count).map(|n| format!("http://a{n}.com/ ")).collect()
}

fn numbers(count: usize) -> String {
    (0..count).map(|n| format!("+44 20 7946 001{n} ")).collect()
}

#[test]
fn five_urls_pass_and_six_do_not() {
    let waf = compiled(&site());
    assert_eq!(code(json(&waf, &format!(r#"{{"note":"{}"}}"#, links(5)))), "pass");
    let answer = json(&waf, &format!(r#"{{"a":[{{"note":"{}"}}]}}"#, links(6)));
    assert_eq!(detail(answer), "6 URLs, at most 5; last in json.a[0].note");
    assert_eq!(detail(json(&waf, &format!(r#"{{"note":"{}"}}"#, links(100)))), "6 URLs, at most 5; last in json.note");
}

#[test]
fn three_phones_pass_and_four_do_not() {
    let waf = compiled(&site());
    assert_eq!(code(json(&waf, &format!(r#"["{}"]"#, numbers(3)))), "pass");
    assert_eq!(detail(json(&waf, &format!(r#"["{}"]"#, numbers(4)))), "4 phone numbers, at most 3; last in json[0]");
}

#[test]
fn query_and_body_are_counted_together() {
    let waf = compiled(&site());
    let body = format!(r#"{{"note":"{}"}}"#, links(3));
    let ask = |query: &str| ask(&waf, query, &[("content-type", "application/json")], Body::Whole(body.as_bytes()));
    assert_eq!(code(ask("u=http://x.com&v=http%3A%2F%2Fy.com")), "pass");
    assert_eq!(detail(ask("u=http://x.com&v=http%3A%2F%2Fy.com&w=www.z.com")), "6 URLs, at most 5; last in json.note");
    assert_eq!(code(ask("http://x.com")), "pass");
}

#[test]
fn a_limit_of_zero_admits_none() {
    let waf = compiled(&Settings { urls_max: At::nowhere(0), phones_max: At::nowhere(0), ..site() });
    assert_eq!(code(json(&waf, r#"["hello"]"#)), "pass");
    assert_eq!(detail(json(&waf, r#"["http://a.com"]"#)), "1 URLs, at most 0; last in json[0]");
    assert_eq!(code(json(&waf, r#"["+442079460018"]"#)), "waf.phones");
}

#[test]
fn a_value_of_8192_characters_passes_and_one_more_does_not() {
    let waf = compiled(&site());
    for c in ["a", "é", "😀", r"\u00e9", r"\n", r"\ud83d\ude00"] {
        assert_eq!(code(json(&waf, &format!(r#"["{}"]"#, c.repeat(8192)))), "pass", "{c}");
        let answer = json(&waf, &format!(r#"["","{}"]"#, c.repeat(8193)));
        assert_eq!(detail(answer), "more than 8192 characters in json[1]", "{c}");
    }
    let text = |body: String| ask(&waf, "", &[("content-type", "text/plain")], Body::Whole(body.as_bytes()));
    assert_eq!(code(text("a".repeat(8192))), "pass");
    assert_eq!(code(text("a".repeat(8193))), "waf.chars");
    let form = |body: String| {
        ask(&waf, "", &[("content-type", "application/x-www-form-urlencoded")], Body::Whole(body.as_bytes()))
    };
    assert_eq!(code(form(format!("a={}&b={}", "%C3%A9".repeat(8192), "b".repeat(8192)))), "pass");
    assert_eq!(code(form(format!("a={}", "%C3%A9".repeat(8193)))), "waf.chars");
}

#[test]
fn a_body_of_body_max_passes_and_one_byte_more_does_not() {
    let waf = compiled(&Settings { body_max: At::nowhere(Size::new(100)), ..site() });
    let whole = |length: usize| ask(&waf, "", &[], Body::Whole(&vec![b'a'; length]));
    let later = |declared| ask(&waf, "", &[], Body::Later { declared: Some(declared) });
    assert_eq!(code(whole(100)), "pass");
    assert_eq!(detail(whole(101)), "101 bytes, at most 100");
    assert_eq!(code(later(100)), "pass");
    assert_eq!(code(later(101)), "waf.body_too_large");
    let limits = ask(&waf, "", &[], Body::Later { declared: None }).unwrap().limits;
    assert_eq!(limits.admit(100), Ok(()));
    assert_eq!(limits.admit(101), Err(Deny::BodyTooLarge { bytes: 101, max: 100 }));
    assert_eq!(limits, waf.limits(RouteId::new(0), None));
}

#[test]
fn a_body_is_too_large_before_anything_else_is_wrong_with_it() {
    let waf = compiled(&Settings { body_max: At::nowhere(Size::new(1)), ..site() });
    assert_eq!(code(ask(&waf, "", &[("content-encoding", "gzip")], Body::Whole(b"ab"))), "waf.body_too_large");
}

fn at<T>(value: T) -> Option<At<T>> {
    Some(At { value, span: 7..9 })
}

#[test]
fn a_tenant_may_tighten_and_its_grant_may_raise() {
    let site = site();
    let route = Override { urls_max: at(10), ..Override::default() };
    let routes = [
        (RouteRef { id: RouteId::new(0), name: "h/plain".into() }, None),
        (RouteRef { id: RouteId::new(1), name: "h/links".into() }, Some(&route)),
    ];
    let grant = Override { phones_max: at(9), ..Override::default() };
    let own = Override { urls_max: at(7), phones_max: at(8), body_max: at(Size::new(10)), ..Override::default() };
    let acme = TenantId::parse("acme").unwrap();
    let tenants = [(acme.clone(), Layers { grant: Some(&grant), own: Some(&own) })];
    let mut issues = Issues::default();
    let waf = Waf::compile(Input { site: &site, routes: &routes, tenants: &tenants }, &(), &mut issues).unwrap();
    let of = |route, tenant| waf.table.of(RouteId::new(route), tenant);
    assert_eq!((of(0, None).urls_max, of(1, None).urls_max), (5, 10));
    assert_eq!((of(0, Some(&acme)).urls_max, of(1, Some(&acme)).urls_max), (5, 7));
    assert_eq!((of(0, Some(&acme)).phones_max, of(0, Some(&acme)).body_max), (8, 10));
    let other = TenantId::parse("other").unwrap();
    assert_eq!(of(1, Some(&other)), of(1, None));
    assert_eq!(of(9, None), of(0, None));
    let too_large = ask_as(&waf, Some(&acme), "", &[], Body::Whole(b"12345678901"));
    assert_eq!(code(too_large), "waf.body_too_large");
}

#[test]
fn a_tenant_may_not_raise_its_limit() {
    let site = site();
    let grant = Override { urls_max: at(4), ..Override::default() };
    let own = Override {
        urls_max: at(5),
        phones_max: at(4),
        chars_max: at(NonZeroU32::new(8193).unwrap()),
        body_max: at(Size::new(2 << 20)),
    };
    let tenants = [(TenantId::parse("acme").unwrap(), Layers { grant: Some(&grant), own: Some(&own) })];
    let mut issues = Issues::default();
    assert!(Waf::compile(Input { site: &site, routes: &[], tenants: &tenants }, &(), &mut issues).is_none());
    let issues = issues.into_vec();
    let messages: Vec<_> = issues.iter().map(|issue| (issue.message.as_str(), issue.span.clone())).collect();
    assert_eq!(
        messages,
        [
            ("tenant `acme` sets its own urls_max to 5, above the 4 that it is granted", 7..9),
            ("tenant `acme` sets its own phones_max to 4, above the 3 that it is granted", 7..9),
            ("tenant `acme` sets its own chars_max to 8193, above the 8192 that it is granted", 7..9),
            ("tenant `acme` sets its own body_max to 2MiB, above the 1MiB that it is granted", 7..9),
        ]
    );
}

#[test]
fn a_region_without_a_numbering_plan_is_an_issue() {
    let region = |text: &str| At { value: serde_json::from_str(&format!("\"{text}\"")).unwrap(), span: 3..7 };
    let site = Settings { phone_regions: vec![region("GB"), region("QQ")], ..site() };
    let mut issues = Issues::default();
    assert!(Waf::compile(Input { site: &site, routes: &[], tenants: &[] }, &(), &mut issues).is_none());
    assert_eq!((issues.as_slice()[0].code, issues.as_slice()[0].span.clone()), ("waf.unknown_region", 3..7));
}
