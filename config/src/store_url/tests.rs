use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> StoreUrl {
    StoreUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn servers_of(text: &str) -> Vec<String> {
    parsed(text).servers().iter().map(ToString::to_string).collect()
}

#[test]
fn each_form_is_read() {
    let url = parsed("redis://127.0.0.1");
    assert_eq!(url.mode(), &StoreMode::Single { database: 0 });
    assert_eq!((url.transport(), url.login().is_none()), (Transport::Plain, true));
    assert_eq!(servers_of("redis://127.0.0.1/"), ["127.0.0.1:6379"]);
    let url = parsed("rediss://u:p%40ss@redis_1.internal:6380/15");
    assert_eq!((url.mode(), url.transport()), (&StoreMode::Single { database: 15 }, Transport::Tls));
    let login = url.login().unwrap();
    assert_eq!((login.user(), login.password().expose()), (Some("u"), &b"p@ss"[..]));
    assert!(url.text().equals(b"rediss://u:p%40ss@redis_1.internal:6380/15"));

    let url = parsed("redis-sentinel://s1,s2:1,[::1],[fe80::1]:2/my-master.1");
    let login = SentinelLogin::None;
    assert_eq!(url.mode(), &StoreMode::Sentinel { master: "my-master.1".to_owned(), database: 0, login });
    assert_eq!(
        servers_of("redis-sentinel://s1,s2:1,[::1],[fe80::1]:2/m"),
        ["s1:26379", "s2:1", "[::1]:26379", "[fe80::1]:2"]
    );
    let url = parsed("rediss-sentinel://:p@s/m?sentinel_auth=same&db=3");
    let login = SentinelLogin::Same;
    assert_eq!(url.mode(), &StoreMode::Sentinel { master: "m".to_owned(), database: 3, login });
    assert_eq!(url.transport(), Transport::Tls);

    assert_eq!(parsed("redis-cluster://u:a:b@h@n").login().unwrap().password().expose(), b"a:b@h");
    assert_eq!(servers_of("rediss-cluster://n1,n2:7000/"), ["n1:6379", "n2:7000"]);
    assert_eq!(parsed("rediss-cluster://n1,n2:7000").mode(), &StoreMode::Cluster);
}

#[test]
fn what_is_no_url_is_told_by_what_is_wrong() {
    use StoreUrlError as E;
    for (text, error) in [
        ("", E::Scheme),
        ("127.0.0.1:6379", E::Scheme),
        ("mysql://h", E::Scheme),
        ("redis-other://h", E::Scheme),
        ("REDIS://h", E::Scheme),
        ("redis://", E::NoServer),
        ("redis-cluster:///", E::NoServer),
        ("redis-sentinel:///m", E::NoServer),
        ("redis-cluster://a,", E::Host { server: 2 }),
        ("redis-cluster://a,,b", E::Host { server: 2 }),
        ("redis-cluster://a, b", E::Host { server: 2 }),
        ("redis://:secret/more@h", E::Port { server: 1 }),
        ("redis://:se?cret@h", E::Port { server: 1 }),
        ("redis://[h]:1", E::Host { server: 1 }),
        ("redis://[::1", E::Host { server: 1 }),
        ("redis://[::1]1", E::Host { server: 1 }),
        ("redis://::1", E::NoBrackets { server: 1 }),
        ("redis-cluster://h,2001:db8::1:6379", E::NoBrackets { server: 2 }),
        ("redis://h:", E::Port { server: 1 }),
        ("redis://h:0", E::Port { server: 1 }),
        ("redis://h:+1", E::Port { server: 1 }),
        ("redis://h:65536", E::Port { server: 1 }),
        ("redis://user:secret", E::Port { server: 1 }),
        ("redis://0.0.0.0", E::EveryAddress { server: 1 }),
        ("redis-cluster://h,[::]", E::EveryAddress { server: 2 }),
        ("redis-cluster://h,h:6379", E::Twice { server: 2 }),
        ("redis://a,b", E::Several(2)),
        ("redis://@h", E::NoPassword),
        ("redis://user@h", E::NoPassword),
        ("redis://user:@h", E::NoPassword),
        ("redis://:100%@h", E::Encoding),
        ("redis://:100%2@h", E::Encoding),
        ("redis://:%ff@h", E::Encoding),
        ("redis://h/one", E::Path),
        ("redis://h/1/", E::Path),
        ("redis://h/-1", E::Path),
        ("redis://h/4294967296", E::Path),
        ("rediss://h/#insecure", E::Fragment),
        ("redis://:se#cret@h", E::Fragment),
        ("redis://h?protocol=resp3", E::Setting),
        ("redis://h/?db=1", E::Setting),
        ("redis-cluster://h?db=1", E::Setting),
        ("redis-cluster://h/1", E::ClusterPath),
        ("redis-sentinel://h", E::NoMaster),
        ("redis-sentinel://h/", E::NoMaster),
        ("redis-sentinel://h/my master", E::NoMaster),
        ("redis-sentinel://h/m/1", E::NoMaster),
        ("redis-sentinel://h/m?", E::Setting),
        ("redis-sentinel://h/m?db", E::Setting),
        ("redis-sentinel://h/m?database=1", E::Setting),
        ("redis-sentinel://h/m?db=1&db=1", E::SettingTwice),
        ("redis-sentinel://h/m?db=", E::Database),
        ("redis-sentinel://h/m?db=x", E::Database),
        ("redis-sentinel://:p@h/m?sentinel_auth=other", E::SentinelAuth),
        ("redis-sentinel://:p@h/m?sentinel_auth=", E::SentinelAuth),
        ("redis-sentinel://h/m?sentinel_auth=same", E::SentinelAuthOfNothing),
    ] {
        assert_eq!(StoreUrl::parse(text).map(|_| ()), Err(error), "{text}");
    }
}

#[test]
fn sixty_four_servers_are_possible_and_one_more_is_not() {
    let url = |count: usize| {
        format!("redis-cluster://{}", (1..=count).map(|n| format!("h:{n}")).collect::<Vec<_>>().join(","))
    };
    assert_eq!(parsed(&url(SERVERS_MAX)).servers().len(), SERVERS_MAX);
    assert_eq!(StoreUrl::parse(&url(SERVERS_MAX + 1)).unwrap_err(), StoreUrlError::TooMany(SERVERS_MAX + 1));
}

#[test]
fn a_number_that_is_empty_is_none() {
    assert_eq!((number::<u16>(""), number::<u16>("7"), number::<u16>("+7")), (None, Some(7), None));
}

#[test]
fn what_a_store_names_is_looked_at_as_what_is_written() {
    assert_eq!(StoreServer::new("::1", 1).unwrap().to_string(), "[::1]:1");
    for (host, port) in [("", 1), ("a b", 1), ("h", 0), ("h/..", 1), ("0.0.0.0", 1)] {
        assert!(StoreServer::new(host, port).is_err(), "{host}:{port}");
    }
}

#[test]
fn a_password_in_a_url_is_seen() {
    for url in
        ["redis://:hunter2@127.0.0.1/", "rediss://u:p@h:6380", "redis-sentinel://u:p@a,b/m", "redis-cluster://:p@a,"]
    {
        assert!(has_password(url), "{url}");
    }
    for url in ["redis://127.0.0.1:6379/0", "redis://user@h", "redis://u:@h", "redis-cluster://a:1,b:2"] {
        assert!(!has_password(url), "{url}");
    }
}

#[test]
fn nothing_that_can_be_printed_shows_the_password() {
    let url = parsed("redis-sentinel://gateway:hunter2@h/m");
    assert!(!format!("{url:?}").contains("hunter2"), "{url:?}");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(rediss?(-sentinel|-cluster)?://)?[a-z0-9:@/?&=%#,.\\[\\]é-]{0,40}") {
        match StoreUrl::parse(&text) {
            Ok(url) => prop_assert!(!url.servers().is_empty()),
            Err(error) => prop_assert!(!error.help().is_empty()),
        }
    }

    #[test]
    fn a_password_that_is_encoded_is_read_back(password in "\\PC{1,20}") {
        let encoded = percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC);
        let url = parsed(&format!("redis://:{encoded}@h"));
        prop_assert!(url.login().unwrap().password().equals(password.as_bytes()));
    }
}
