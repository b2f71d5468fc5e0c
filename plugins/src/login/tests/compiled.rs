//! What is written, and what is wrong with it.

use super::*;

fn refused(text: &str) -> Vec<&'static str> {
    let issues = compile(text, &Gate::new("").needs).err().unwrap_or_else(|| panic!("accepted: {text}"));
    issues.iter().map(|issue| issue.code).collect()
}

#[test]
fn own_numbers_replace_those_of_the_preset_one_ladder_at_a_time() {
    let gate = Gate::new("[login.accounts]\nwindow = \"1h\"\nsteps = { 3 = \"10s\" }");
    gate.fail("ann", "192.0.2.1", 3);
    assert_eq!(gate.log_in("ann", ip("192.0.2.1"), 200), Err(10));
    assert_eq!(gate.login.numbers.ladder(Scope::Network).most(), 20);
}

#[test]
fn the_body_is_read_only_for_logins_that_name_their_account_in_it() {
    let needs = Gate::new("").needs;
    let login = compile(
        "[routes.a]\naccount = [\"json:user\"]\n[routes.b]\naccount = [\"header:x-login\"]\n[routes.c]\naccount = [\"form:user\"]\nmethods = [\"GET\"]",
        &needs,
    )
    .unwrap();
    let reads = |route, method: &Method| login.reads_body(RouteId::new(route), method);
    assert_eq!([0, 1, 2, 3].map(|route| reads(route, &Method::POST)), [true, false, false, false]);
    assert_eq!([0, 1, 2, 3].map(|route| reads(route, &Method::GET)), [false, false, true, false]);
    assert_eq!(login.realms(), ["host:host"]);
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = r#"
        [login]
        known_for = "366d"
        accounts = { window = "1h", steps = {} }
        networks = { window = "40d", steps = { 5 = "2m", 10 = "1m" } }
        [routes.a]
        account = []
        methods = []
        failures = []
        [routes.b]
        account = ["json:user", "json:user", "header:a b"]
        methods = ["PUT"]
        failures = [401, 200]
    "#;
    let mut codes = refused(text);
    codes.sort_unstable();
    assert_eq!(
        codes,
        [
            "login.account_empty",
            "login.account_header",
            "login.account_twice",
            "login.failures",
            "login.failures",
            "login.methods",
            "login.methods",
            "login.steps",
            "login.steps",
            "login.too_long",
            "login.too_long",
        ]
    );
}

#[test]
fn what_cannot_be_read_is_refused_with_what_to_write() {
    let said =
        |text: &str| toml::from_str::<Written>(text).err().unwrap_or_else(|| panic!("{text}")).message().to_owned();
    for place in ["username", "json:", "json:a//b", "query:user", "form:", "header:", ""] {
        let said = said(&format!("[routes.a]\naccount = [{place:?}]"));
        assert!(said.contains("write json:NAME, form:NAME or header:NAME"), "{said}");
    }
    for failures in ["0", "05", "101", "five", "-1", "4294967296"] {
        let said = said(&format!("[login.accounts]\nwindow = \"1h\"\nsteps = {{ {failures} = \"1m\" }}"));
        assert!(said.contains("is no number of failures: write 1 to 100"), "{said}");
    }
    for text in ["[login]\npreset = \"five\"", "[login]\nlock = \"1m\"", "[routes.a]\naccounts = []"] {
        said(text);
    }
}
