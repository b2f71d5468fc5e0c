//! HDR-01 as a property: no spelling, case, duplicate, `Connection` nomination, protocol or path lets a reserved header
//! through.

use portcullis_tests::{Protocol, Request, seen::fold, tokens::main_token};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    EVIL,
    headers::{RESERVED, handshake},
    world,
};

/// One field of an attacker: a reserved name, spelt in some way.
fn spelling() -> impl Strategy<Value = String> {
    (select(RESERVED), vec(any::<bool>(), 48), vec(select(&["-", "_", "--", ".", "~", "-_"][..]), 6), 0..4_usize)
        .prop_map(|(name, cases, marks, style)| {
            let mut marks = marks.iter();
            name.chars()
                .zip(cases.iter().cycle())
                .map(|(c, upper)| match c {
                    // Most spellings keep their dashes: they must get past the first check to be worth anything.
                    '-' if style == 0 => (*marks.next().unwrap_or(&"-")).to_owned(),
                    '-' => "-".to_owned(),
                    c if *upper => c.to_ascii_uppercase().to_string(),
                    c => c.to_ascii_lowercase().to_string(),
                })
                .collect()
        })
}

#[derive(Debug, Clone)]
struct Attack {
    protocol: Protocol,
    route: usize,
    fields: Vec<(String, String)>,
    nominate: Option<usize>,
    method: &'static str,
}

fn attack() -> impl Strategy<Value = Attack> {
    let value = prop_oneof![Just(EVIL.to_owned()), Just(format!("acme,{EVIL}")), Just(format!(" {EVIL}"))];
    (
        select(&Protocol::BOTH[..]),
        0..6_usize,
        vec((spelling(), value), 1..6),
        proptest::option::weighted(0.3, 0..6_usize),
        select(&["GET", "HEAD", "POST"][..]),
    )
        .prop_map(|(protocol, route, fields, nominate, method)| Attack {
            protocol,
            route,
            fields,
            nominate,
            method,
        })
}

fn request(attack: &Attack) -> Request {
    let token = main_token("acme");
    let mut request = match attack.route {
        0 => Request::new(attack.method, "/public"),
        1 => Request::new(attack.method, "/v1/orders").bearer(token),
        2 => Request::new(attack.method, "/v1/orders/deep/er?x=y").header("X-Api-Key", world().gateway.key("acme")),
        3 if attack.protocol == Protocol::H1 => handshake("/ws").bearer(token),
        3 => Request::get("/ws").bearer(token),
        4 => Request::get("/forward").bearer(token),
        _ => Request::get("/nowhere").bearer(token),
    };
    if request.method == "POST" {
        request = request.body("{}").header("Content-Type", "application/json");
    }
    for (name, value) in &attack.fields {
        request = request.header(name, value);
    }
    let nominated = attack.nominate.and_then(|at| attack.fields.get(at % attack.fields.len()));
    if let (Some((name, _)), Protocol::H1) = (nominated, attack.protocol) {
        request = request.header("Connection", format!("close, {name}"));
    }
    request
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn hdr_01_no_spelling_lets_a_reserved_header_through(attack in attack()) {
        let request = request(&attack);
        let status = world().gateway.status(attack.protocol, &request);
        for seen in world().upstream.every(&request.mark) {
            let head = String::from_utf8_lossy(&seen.head).into_owned();
            prop_assert!(!head.contains(EVIL), "{head}");
            let folded: Vec<String> = seen.fields().iter().map(|(name, _)| fold(name)).collect();
            let ours = |name: &str| folded.iter().filter(|folded| *folded == name).count();
            prop_assert_eq!(ours("x-portcullis-tenant"), usize::from(attack.route != 0), "{}", head);
            prop_assert_eq!(ours("x-portcullis-kind"), 1, "{}", head);
            if attack.route != 0 {
                let tenant = seen.header("x-portcullis-tenant");
                prop_assert_eq!(tenant.as_deref(), Some("acme"));
            }
        }
        prop_assert!(!matches!(status, Some(500..)), "{:?}", status);
    }
}
