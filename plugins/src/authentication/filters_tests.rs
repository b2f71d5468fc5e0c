use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parse(json: &serde_json::Value) -> Result<String, FiltersError> {
    Filters::parse(json.to_string().as_bytes()).map(|filters| filters.as_str().to_owned())
}

#[test]
fn there_is_one_spelling_of_one_set() {
    let one = r#"{"v":1,"all":[{"v":["us","eu","eu"],"f":"region","op":"in"},{"f":"age","op":"gte","v":18}]}"#;
    let wanted = r#"{"all":[{"f":"age","op":"gte","v":18},{"f":"region","op":"in","v":["eu","us"]}],"v":1}"#;
    assert_eq!(Filters::parse(one.as_bytes()).unwrap().as_str(), wanted);
    assert_eq!(serde_json::to_string(&Filters::parse(one.as_bytes()).unwrap()).unwrap(), wanted);
    assert_eq!(serde_json::from_str::<Filters>(one).unwrap().as_str(), wanted);
}

#[test]
fn what_an_app_could_read_in_another_way_is_no_filter() {
    let term = |f: &str, op: &str, v: serde_json::Value| json!({"v": 1, "all": [{"f": f, "op": op, "v": v}]});
    assert!(parse(&term("region", "eq", json!("eu"))).is_ok());
    for bad in [
        json!({}),
        json!([]),
        json!({"v": 1}),
        json!({"v": 1, "all": []}),
        json!({"v": 2, "all": [{"f": "a", "op": "eq", "v": 1}]}),
        json!({"all": [{"f": "a", "op": "eq", "v": 1}]}),
        json!({"v": 1, "all": [{"f": "a", "op": "eq", "v": 1}], "any": []}),
        json!({"v": 1, "all": [{"f": "a", "op": "eq"}]}),
        json!({"v": 1, "all": [{"f": "a", "op": "eq", "v": 1, "or": 1}]}),
        json!({"v": 1, "all": [{"all": [{"f": "a", "op": "eq", "v": 1}]}]}),
        term("region", "or", json!("eu")),
        term("region", "EQ", json!("eu")),
        term("", "eq", json!("eu")),
        term("r\u{435}gion", "eq", json!("eu")),
        term("region'--", "eq", json!("eu")),
        term("1a", "eq", json!("eu")),
        term("region", "eq", json!(1.0)),
        term("region", "eq", json!(1.5)),
        term("region", "eq", json!(-1)),
        term("region", "eq", json!(1u64 << 53)),
        term("region", "eq", json!(null)),
        term("region", "eq", json!(["eu"])),
        term("region", "eq", json!({"a": 1})),
        term("region", "eq", json!("e\u{202e}u")),
        term("region", "in", json!("eu")),
        term("region", "in", json!([])),
        term("region", "in", json!([["eu"]])),
        term("region", "lt", json!(true)),
        term("region", "prefix", json!("")),
        term("region", "prefix", json!(1)),
    ] {
        assert!(parse(&bad).is_err(), "{bad}");
    }
    for text in [
        r#"{"v":1,"v":1,"all":[{"f":"a","op":"eq","v":1}]}"#,
        r#"{"v":1,"all":[{"f":"a","f":"b","op":"eq","v":1}]}"#,
        r#"{"v":1,"all":[{"f":"a","op":"eq","v":1}],"all":[{"f":"b","op":"eq","v":1}]}"#,
        r#"{"v":1,"all":[{"f":"a","op":"eq","v":1}]} x"#,
        "",
    ] {
        assert!(Filters::parse(text.as_bytes()).is_err(), "{text}");
        assert!(serde_json::from_str::<Filters>(text).is_err(), "{text}");
    }
}

#[test]
fn sixteen_terms_and_2_kib_are_the_most() {
    let terms = |count: usize| -> serde_json::Value {
        let terms: Vec<_> = (0..count).map(|n| json!({"f": format!("f{n}"), "op": "eq", "v": n})).collect();
        json!({"v": 1, "all": terms})
    };
    assert!(parse(&terms(16)).is_ok() && parse(&terms(17)).is_err());
    let read = |value: serde_json::Value| Filters::parse(value.to_string().as_bytes()).unwrap();
    let one_more = read(json!({"v": 1, "all": [{"f": "g", "op": "eq", "v": 1}]}));
    assert!(read(terms(15)).and(&one_more).is_ok() && read(terms(16)).and(&one_more).is_err());
    assert!(read(terms(16)).and(&read(terms(16))).is_ok(), "the same terms are no more");
    let long = |bytes: usize| {
        let spelled = parse(&json!({"v": 1, "all": [{"f": "a", "op": "in", "v": ["b"]}]})).unwrap().len() - 1;
        let mut rest = bytes - spelled;
        let mut values = Vec::new();
        while rest > 0 {
            let length = rest.min(200);
            values.push(format!("{:0>width$}", values.len(), width = length - 3));
            rest -= length;
        }
        values
    };
    // Each value takes its length, two quotes and a comma.
    let spelled = |values: Vec<String>| parse(&json!({"v": 1, "all": [{"f": "a", "op": "in", "v": values}]}));
    let fits = spelled(long(2048 - 20)).unwrap();
    assert!(fits.len() <= 2048);
    assert!(spelled(long(2048 + 40)).is_err());
}

fn scalar() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        any::<bool>().prop_map(Into::into),
        (0..1u64 << 53).prop_map(Into::into),
        "[ -~é]{0,8}".prop_map(Into::into)
    ]
}

fn any_term() -> impl Strategy<Value = serde_json::Value> {
    let simple = ("[a-c]", prop_oneof![Just("eq"), Just("ne")], scalar());
    let list = ("[a-c]", Just("in"), prop::collection::vec(scalar(), 1..4).prop_map(serde_json::Value::from));
    let text = ("[a-c]", prop_oneof![Just("prefix"), Just("lt"), Just("gte")], "[a-z]{1,4}".prop_map(Into::into));
    prop_oneof![simple, list, text].prop_map(|(f, op, v)| json!({"f": f, "op": op, "v": v}))
}

fn any_filters() -> impl Strategy<Value = Filters> {
    prop::collection::vec(any_term(), 1..6)
        .prop_map(|all| Filters::parse(json!({"all": all, "v": 1}).to_string().as_bytes()).unwrap())
}

proptest! {
    #[test]
    fn the_one_spelling_reads_as_itself_everywhere(filters in any_filters()) {
        prop_assert_eq!(&Filters::parse(filters.as_str().as_bytes()).unwrap(), &filters);
        let claim = strict_json::parse(filters.as_str().as_bytes(), strict_json::TOKEN).unwrap();
        prop_assert_eq!(&Filters::of(&claim).unwrap(), &filters);
        let told = URL_SAFE_NO_PAD.decode(filters.header()).unwrap();
        prop_assert_eq!(told, filters.as_str().as_bytes());
    }

    #[test]
    fn and_loses_no_term_of_either_and_its_order_does_not_matter(a in any_filters(), b in any_filters()) {
        let both = a.and(&b).unwrap();
        prop_assert!(a.terms.is_subset(&both.terms) && b.terms.is_subset(&both.terms));
        prop_assert_eq!(both.terms.len(), a.terms.union(&b.terms).count());
        prop_assert_eq!(&b.and(&a).unwrap(), &both);
        prop_assert_eq!(&both.and(&a).unwrap(), &both);
    }

    #[test]
    fn nothing_that_is_read_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _read = Filters::parse(&bytes);
    }
}
