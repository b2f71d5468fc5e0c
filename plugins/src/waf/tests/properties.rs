//! What no input can do.

use proptest::prelude::*;

use super::*;

const KINDS: &[&str] = &[
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "text/plain",
    "text/html",
    "image/png",
    "application/x",
    "",
];

/// Text that is likely to reach every corner of the scanners.
fn spicy() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z0-9.:/@+() \\-]{0,12}",
        2 => prop::sample::select(vec![
            "http://", "https:\\\\", "hxxp", "www.", ".com", ".рф", "[.]", "(dot)", " dot ", "{at}", "%2e", "%", "&#46;", "&amp;",
            "\\u002e", "\\u", "\\x2", "\\ud83d", "+44 20 7946 0018", "00442079460018", "2024-05-01", "4111 1111 1111 1111", "call ",
            "\u{200b}", "\u{3002}", "\u{ff0e}", "\u{0660}", "日本", "é", "\u{0}", "\r\n", "\n", "\"", "{", "}", "[", "]", ",", "=", "&",
            "--b", "--b--", "Content-Disposition: form-data; name=a\r\n\r\n", "xn--", "1.2.3.4/a", ":8080", "x123", "(0)",
        ]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200), kind in prop::sample::select(KINDS), query in "\\PC{0,60}") {
        let waf = compiled(&site());
        let _ = ask(&waf, &query, &[("content-type", kind)], Body::Whole(&body));
    }

    #[test]
    fn no_text_makes_it_panic(body in spicy(), kind in prop::sample::select(KINDS)) {
        let waf = compiled(&site());
        let _ = ask(&waf, &body, &[("content-type", kind)], Body::Whole(body.as_bytes()));
        let _ = json(&waf, &serde_json::to_string(&body).unwrap());
    }

    #[test]
    fn no_digits_make_the_numbering_plans_panic(text in "[+]?[0-9() .-]{0,40}") {
        let _ = counts(&format!("call {text}"), &rules(&[]));
        let _ = counts(&text, &rules(&["US", "GB", "DE", "FR", "IN", "IT"]));
    }

    #[test]
    fn lines_count_as_much_together_as_apart(lines in prop::collection::vec(spicy(), 0..5)) {
        // Folding looks across lines (a full stop of another script is read by its neighbours), so each is folded first.
        let rules = rules(&["GB"]);
        let lines: Vec<String> = lines.iter().map(|line| super::super::fold::fold(line).replace(['\n', '\r'], " ")).collect();
        let apart = lines.iter().map(|line| plain_counts(line, &rules)).fold((0, 0), |(u, p): (u32, u32), (v, q)| (u.saturating_add(v), p.saturating_add(q)));
        prop_assert_eq!(plain_counts(&lines.join("\n"), &rules), apart);
    }

    #[test]
    fn a_json_document_is_refused_exactly_when_it_is_none(body in spicy()) {
        let waf = compiled(&Settings { urls_max: At::nowhere(u32::MAX), phones_max: At::nowhere(u32::MAX), ..site() });
        let valid = serde_json::from_str::<serde_json::Value>(&body).is_ok();
        if !body.is_empty() {
            prop_assert_eq!(json(&waf, &body).is_ok(), valid, "{:?}", body);
        }
    }

    #[test]
    fn every_string_of_a_document_is_seen(texts in prop::collection::vec(spicy(), 0..6)) {
        let waf = compiled(&Settings { urls_max: At::nowhere(0), ..site() });
        let document = serde_json::json!({ "a": texts, "b": { "c": texts.first() } });
        let any = texts.iter().any(|text| urls(text) > 0);
        prop_assert_eq!(code(json(&waf, &document.to_string())) == "waf.urls", any);
    }

    #[test]
    fn a_count_stops_one_past_its_limit(text in spicy(), stop_at in 0_u32..4) {
        let whole = super::super::urls::count(&text, "", Style::Plain, u32::MAX);
        prop_assert_eq!(super::super::urls::count(&text, "", Style::Plain, stop_at), whole.min(stop_at));
    }

    #[test]
    fn a_tenant_only_ever_tightens(site_max in 0_u32..9, route in prop::option::of(0_u32..9), grant in prop::option::of(0_u32..9), own in prop::option::of(0_u32..9)) {
        let layer = |value: Option<u32>| value.map(|value| Override { urls_max: Some(At::nowhere(value)), ..Override::default() });
        let (route, grant, own) = (layer(route), layer(grant), layer(own));
        let routes = [(RouteRef { id: RouteId::new(0), name: "h/r".into() }, route.as_ref())];
        let tenant = TenantId::parse("acme").unwrap();
        let site = Settings { urls_max: At::nowhere(site_max), ..site() };
        let compile = |own| {
            let layers = portcullis_api::Layers { grant: grant.as_ref(), own };
            let tenants = [(tenant.clone(), layers)];
            Waf::compile(Input { site: &site, routes: &routes, tenants: &tenants }, &(), &mut Issues::default())
        };
        let of = |waf: &Waf| waf.table.of(RouteId::new(0), Some(&tenant)).urls_max;
        let granted = of(&compile(None).unwrap());
        if let Some(waf) = compile(own.as_ref()) {
            prop_assert!(of(&waf) <= granted);
        }
    }
}

fn plain_counts(text: &str, rules: &Rules) -> (u32, u32) {
    let urls = super::super::urls::count(text, "own.example", Style::Plain, u32::MAX);
    let phones = super::super::phones::Counter::new(&rules.plan).count(text, None, u32::MAX).unwrap_or(0);
    (urls, phones)
}
