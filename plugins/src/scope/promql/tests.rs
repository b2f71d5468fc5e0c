use proptest::{prelude::*, strategy::ValueTree as _};

use super::*;

const ACME: &[Matcher<'_>] = &[Matcher { label: "tenant", value: "acme" }];

fn confined(query: &str) -> Result<String, Unscoped> {
    confine(query, Kind::Expression, ACME)
}

#[test]
fn every_selector_of_a_query_gets_the_matcher() {
    for (query, sent) in [
        ("up", r#"up{tenant="acme"}"#),
        ("up{}", r#"up{tenant="acme"}"#),
        (r#"{__name__="up"}"#, r#"{__name__="up",tenant="acme"}"#),
        (r#"up{job="api",}"#, r#"up{job="api",tenant="acme"}"#),
        (r#"{"foo.bar", "a b"='c'}"#, r#"{"a b"="c",__name__="foo.bar",tenant="acme"}"#),
        ("rate(x[5m])", r#"rate(x{tenant="acme"}[5m])"#),
        ("x[5m] offset 1h", r#"x{tenant="acme"}[5m] offset 1h"#),
        ("x offset -1h @ end()", r#"x{tenant="acme"} @ end() offset -1h"#),
        ("x @ 1609746000", r#"x{tenant="acme"} @ 1609746000.000"#),
        ("max_over_time(rate(x[1m])[10m:30s])", r#"max_over_time(rate(x{tenant="acme"}[1m])[10m:30s])"#),
        // The parser's own walk leaves out the parameter.
        ("topk(scalar(k), x)", r#"topk(scalar(k{tenant="acme"}), x{tenant="acme"})"#),
        ("count_values(\"v\", x)", r#"count_values("v", x{tenant="acme"})"#),
        (
            "sum by (job) (a) / on (job) group_left (b) c",
            r#"sum by (job) (a{tenant="acme"}) / on (job) group_left (b) c{tenant="acme"}"#,
        ),
        (
            "a and b or c unless d",
            r#"a{tenant="acme"} and b{tenant="acme"} or c{tenant="acme"} unless d{tenant="acme"}"#,
        ),
        ("-(a)", r#"-(a{tenant="acme"})"#),
        ("a # {tenant=\"x\"}\n+ b", r#"a{tenant="acme"} + b{tenant="acme"}"#),
        ("{ # \"\n a=~'b' }", r#"{a=~"b",tenant="acme"}"#),
        (r#"label_replace(a, "tenant", "x", "", "")"#, r#"label_replace(a{tenant="acme"}, "tenant", "x", "", "")"#),
        (r#"x{a="}", b=~"[{]\\d+", c!~`\w`}"#, r#"x{a="}",b=~"[{]\\d+",c!~"\\w",tenant="acme"}"#),
        // Expressions that Go knows and this parser's own engine does not.
        (r#"x{a=~"\\Qa.b\\E|\\pL"}"#, r#"x{a=~"\\Qa.b\\E|\\pL",tenant="acme"}"#),
        (r#"sum"#, r#"sum{tenant="acme"}"#),
        ("1 + vector(1)", "1 + vector(1)"),
    ] {
        assert_eq!(confined(query).as_deref(), Ok(sent), "{query}");
    }
}

#[test]
fn the_matcher_may_be_there_already_and_is_sent_once() {
    for query in [
        r#"up{tenant="acme"}"#,
        r#"up{tenant="acme",tenant='acme'}"#,
        r#"up{"tenant"="acme"}"#,
        r#"up{tenant="\x61cme"}"#,
    ] {
        assert_eq!(confined(query).as_deref(), Ok(r#"up{tenant="acme"}"#), "{query}");
    }
}

#[test]
fn another_matcher_for_the_label_is_a_conflict_wherever_it_stands() {
    for matcher in [
        r#"tenant="globex""#,
        r#"tenant=~"acme""#,
        r#"tenant=~".*""#,
        r#"tenant!="acme""#,
        r#"tenant!~"globex""#,
        r#"tenant="""#,
        r#""tenant"="globex""#,
        r#""\x74enant"="globex""#,
        r#""\u0074enant"="globex""#,
        r#"tenant="acme",tenant="globex""#,
    ] {
        for query in [
            format!("up{{{matcher}}}"),
            format!("sum(rate({{{matcher},a=\"b\"}}[5m]))"),
            format!("topk(scalar(up{{{matcher}}}), up)"),
            format!("up or up{{{matcher}}} offset 5m"),
            format!("max_over_time(up{{{matcher}}}[5m:])"),
        ] {
            assert_eq!(confined(&query), Err(Unscoped::Conflict), "{query}");
        }
    }
}

#[test]
fn what_reads_series_without_a_selector_or_is_not_agreed_on_is_refused() {
    for query in [
        "info(up)",
        r#"info(up, {tenant="globex"})"#,
        r#"up{a="b" or tenant="globex"}"#,
        r#"up{a="b" OR tenant="globex"}"#,
        r#"up{or="x"}"#,
        r#"up{a="\xff"}"#,
        r#"up{a="\377"}"#,
        r#"up{a="\é"}"#,
    ] {
        assert!(matches!(confined(query), Err(Unscoped::Unsupported(_))), "{query} {:?}", confined(query));
    }
}

#[test]
fn what_cannot_be_parsed_is_refused() {
    for query in [
        "",
        " ",
        "#",
        "{",
        "}",
        "up{",
        "up}",
        "(up",
        "up)",
        "up{a}",
        "up{a=}",
        "up{a=b}",
        "up up",
        "up;down",
        "nothing(up)",
        "up{a=\"b}",
        "\"",
        "up[5m",
        "up[]",
        "up[5m]]",
        "up offset",
        "up @",
        "up{a=\"b\"\u{0}}",
        "\u{fe0f}up",
        "u\u{301}p",
        "up{tenant=\"acme\"} globex",
        "with (a = up) a",
        "up keep_metric_names",
        "up{a=~\"b\" \"c\"}",
        "up{a=\"\\\"",
        "!",
        "=~",
        "{=~\"a\"}",
    ] {
        assert!(matches!(confined(query), Err(Unscoped::Syntax)), "{query:?} {:?}", confined(query));
    }
}

#[test]
fn a_query_that_would_be_sent_with_another_meaning_is_refused() {
    // The parser prints a time before 1970 as 1970.
    assert_eq!(confined("up @ -5"), Err(Unscoped::Changed));
}

#[test]
fn a_duration_that_the_parser_panics_at_is_refused_before() {
    for query in [
        "up[1e300]",
        "up[Inf]",
        "up[NaN]",
        "up[0x10]",
        "up[1e3:]",
        "up[5m:1e300]",
        "up offset 1e300",
        "up offset Inf",
        "up offset -nan",
        "up offset + # x\n inf",
        "up[99999999999s]",
        "up OFFSET 0xff",
    ] {
        assert!(matches!(confined(query), Err(Unscoped::Unsupported(_))), "{query} {:?}", confined(query));
    }
    assert!(confined("up[300] offset 60").is_ok());
    assert!(confined("offset offset 5m").is_ok() && confined("inf + up").is_ok());
}

#[test]
fn a_selector_is_one_selector() {
    let selector = |text: &str| confine(text, Kind::Selector, ACME);
    assert_eq!(selector("up").as_deref(), Ok(r#"up{tenant="acme"}"#));
    for query in ["up[5m]", "up + up", "(up)", "1", "\"up\"", "sum(up)", "-up"] {
        assert_eq!(selector(query), Err(Unscoped::Syntax), "{query}");
    }
    assert_eq!(all(ACME), r#"{tenant="acme"}"#);
    assert_eq!(selector(&all(ACME)).as_deref(), Ok(r#"{tenant="acme"}"#));
}

#[test]
fn several_labels_are_each_carried() {
    let both = [Matcher { label: "tenant", value: "acme" }, Matcher { label: "cluster", value: "a\"\\\n" }];
    let sent = confine("up", Kind::Expression, &both);
    assert_eq!(sent.as_deref(), Ok(r#"up{cluster="a\"\\\n",tenant="acme"}"#));
    assert_eq!(all(&both), r#"{tenant="acme",cluster="a\"\\\n"}"#);
    assert_eq!(confine(r#"up{cluster="b"}"#, Kind::Expression, &both), Err(Unscoped::Conflict));
}

#[test]
fn each_bound_holds_at_its_edge_and_not_one_past_it() {
    let nested = |n: usize| format!("{}up{}", "(".repeat(n), ")".repeat(n));
    let chained = |n: usize| format!("up{}", " + 1".repeat(n));
    let negated = |n: usize| format!("{}up", "-".repeat(n));
    let subqueries = |n: usize| format!("up{}", "[5m:]".repeat(n));
    let selectors = |n: usize| format!("sum(up{})", " or up".repeat(n - 1));
    let regexes = |n: usize| format!("up{{{}}}", vec!["a=~\"b\""; n].join(","));
    let bytes = |n: usize| format!("up{{a=\"{}\"}}", "b".repeat(n - 8));
    let edge = |make: &dyn Fn(usize) -> String, max: usize, what: &'static str| {
        assert!(confined(&make(max)).is_ok(), "{what} {:?}", confined(&make(max)));
        assert_eq!(confined(&make(max + 1)), Err(Unscoped::TooLarge { what, max }), "{what}");
    };
    edge(&nested, DEPTH_MAX, "brackets in each other");
    edge(&chained, STEPS_MAX, "operators");
    edge(&negated, STEPS_MAX, "operators");
    edge(&regexes, REGEXES_MAX, "regular expressions");
    edge(&bytes, QUERY_BYTES_MAX, "bytes");
    assert!(matches!(confined(&subqueries(STEPS_MAX + 1)), Err(Unscoped::TooLarge { .. })));
    assert!(matches!(confined(&selectors(SELECTORS_MAX + 2)), Err(Unscoped::TooLarge { .. })));
    // 14 bytes a selector as it comes, 30 as it is sent; a number can become much longer.
    assert_eq!(
        confined(&vec!["1e300"; 200].join("+")),
        Err(Unscoped::TooLarge { what: "bytes", max: CONFINED_BYTES_MAX })
    );
}

#[test]
fn the_deepest_tree_fits_a_small_stack() {
    let deepest = format!("{}{}up{}", "-".repeat(STEPS_MAX), "abs(".repeat(DEPTH_MAX), ")".repeat(DEPTH_MAX));
    let mixed = format!("{}up{}", "sum((".repeat(DEPTH_MAX / 2), "))".repeat(DEPTH_MAX / 2));
    let ranges = format!("up{}", "[5m:]".repeat(STEPS_MAX));
    // A quarter of what a worker of the runtime has.
    let small = std::thread::Builder::new().stack_size(512 << 10);
    let run = small.spawn(move || [deepest, mixed, ranges].map(|query| confined(&query).err())).unwrap();
    let [deepest, mixed, _] = run.join().unwrap();
    assert_eq!([deepest, mixed], [None, None]);
}

/// A query with each of its selectors marked: `\u{1}` stands where a selector's braces are.
fn query() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        r"[a-z]{0,4}",
        Just("}".to_owned()),
        Just("{".to_owned()),
        Just("a\\\"b".to_owned()),
        Just("# x".to_owned())
    ];
    let op = prop_oneof![Just("="), Just("!="), Just("=~"), Just("!~")];
    let name = prop_oneof![
        "[a-su-z_][a-z0-9_]{0,5}".prop_filter("a word of another meaning", |name| name != "or"),
        Just("\"a b\"".to_owned())
    ];
    let matcher = (name, op, value).prop_map(|(name, op, value)| format!("{name}{op}\"{value}\""));
    let matchers = prop::collection::vec(prop_oneof![4 => matcher, 1 => Just("tenant=\"acme\"".to_owned())], 0..4);
    let metric =
        prop_oneof![Just("up"), Just("http:requests"), Just("sum"), Just("by"), Just("start"), Just("or"), Just("x_y")];
    let selector = (metric, matchers).prop_map(|(metric, matchers)| format!("{metric}{{{}}}", matchers.join(", ")));
    let leaf = prop_oneof![
        6 => selector.clone(),
        1 => selector.prop_map(|selector| format!("rate({selector}[5m] offset 1h)")),
        1 => Just("time()".to_owned()),
        1 => Just("vector(1)".to_owned()),
    ];
    leaf.prop_recursive(6, 48, 3, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            pair.clone().prop_map(|(a, b)| format!("({a}) + on (job) group_left (x) ({b})")),
            pair.clone().prop_map(|(a, b)| format!("{a} >= bool {b}")),
            pair.clone().prop_map(|(a, b)| format!("({a}) unless ignoring (z) ({b})")),
            pair.prop_map(|(a, b)| format!("topk(scalar({a}), {b})")),
            inner.clone().prop_map(|a| format!("sum without (job) ({a})")),
            inner.clone().prop_map(|a| format!("quantile(0.9, {a}) by (le)")),
            inner.clone().prop_map(|a| format!("max_over_time(({a})[1h:5m] @ end())")),
            inner.clone().prop_map(|a| format!("label_replace({a}, \"tenant\", \"globex\", \"a\", \".*\")")),
            inner.clone().prop_map(|a| format!("-({a}) # {{\n")),
            inner.prop_map(|a| format!("histogram_quantile(0.9, {a})")),
        ]
    })
}

/// The braces of a text, outside of strings: read without the parser and without the sieve.
fn braces(text: &str) -> Vec<String> {
    let (mut found, mut open, mut quoted, mut escaped) = (Vec::new(), None::<String>, false, false);
    for c in text.chars() {
        let is_quote = c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        quoted ^= is_quote;
        match (c, quoted, &mut open) {
            ('{', false, None) => open = Some(String::new()),
            ('}', false, Some(_)) => found.extend(open.take()),
            (_, _, Some(open)) => open.push(c),
            (_, _, None) => {}
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_query_of_the_grammar_is_sent_with_a_selector_that_lacks_the_matcher(query in query()) {
        let asked = query.matches("# {\n").count();
        match confined(&query) {
            Ok(sent) => {
                let sent_braces = braces(&sent);
                let without_comments = query.replace("# {\n", " ");
                prop_assert_eq!(sent_braces.len(), braces(&without_comments).len(), "{} {}", asked, sent);
                for matchers in sent_braces {
                    prop_assert_eq!(matchers.matches("tenant=\"acme\"").count(), 1, "{}", matchers);
                }
                // Confined once more for the same tenant nothing changes, and for another it is refused.
                prop_assert_eq!(confined(&sent), Ok(sent.clone()));
                let other = [Matcher { label: "tenant", value: "globex" }];
                let others = confine(&sent, Kind::Expression, &other);
                prop_assert!(!sent.contains("tenant=\"acme\"") || others == Err(Unscoped::Conflict), "{}", sent);
            }
            Err(why) => prop_assert!(
                matches!(why, Unscoped::Syntax | Unscoped::TooLarge { .. }),
                "{} of {}", format!("{why:?}"), query
            ),
        }
    }

    #[test]
    fn whatever_is_sent_has_the_matcher_in_every_brace_and_nothing_panics(query in r#"[a-z{}()\[\]"'`\\=~!#,:@+\-0-9. \n]{0,60}"#) {
        if let Ok(sent) = confined(&query) {
            for matchers in braces(&sent) {
                prop_assert!(matchers.contains("tenant=\"acme\""), "{}", sent);
            }
        }
    }
}

#[test]
fn most_queries_of_the_property_are_confined() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let drawn = |runner: &mut _| query().new_tree(runner).unwrap().current();
    let confined = (0..200).filter(|_| confined(&drawn(&mut runner)).is_ok()).count();
    assert!(confined > 60, "the property would say little of {confined} of 200");
}
