//! What an entry refuses, how long it is kept, and that none is lost.

use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_800_000_000;
const ISS: &str = "https://id.example.com";

fn reason() -> Reason {
    Reason::try_from("a laptop was stolen".to_owned()).unwrap()
}
fn acme() -> TenantId {
    TenantId::parse("acme").unwrap()
}
fn parse(kind: Kind, value: &str) -> Target {
    let (issuer, tenant) = match kind {
        Kind::Jti | Kind::Sid | Kind::Sub => (Some(ISS), Some(acme())),
        Kind::Kid => (Some(ISS), None),
        Kind::Token | Kind::Tenant | Kind::ApiKey | Kind::Issuer | Kind::Cert => (None, None),
    };
    Target::parse(kind, issuer, tenant.as_ref(), value).unwrap()
}
fn value(kind: Kind) -> &'static str {
    match kind {
        Kind::Token | Kind::Cert => "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        Kind::ApiKey => "7Q2m4kP9xWbT",
        Kind::Jti | Kind::Sid | Kind::Sub | Kind::Tenant | Kind::Kid | Kind::Issuer => "some",
    }
}
fn target(kind: Kind) -> Target {
    parse(kind, value(kind))
}
fn revoke(set: &Revocations, target: &Target, at: u64) -> Result<Learned, Full> {
    set.learn(Record::new(target, at, reason()), NOW)
}

#[test]
fn each_kind_refuses_what_carries_it_and_nothing_else() {
    for kind in Kind::ALL {
        let set = Revocations::new(8);
        assert_eq!(revoke(&set, &target(kind), NOW), Ok(Learned::News));
        for other in Kind::ALL {
            let refused = set.revoked(&Revocable::new(&[target(other)], NOW - 5));
            assert_eq!(refused, (kind == other).then_some(kind), "{kind:?} {other:?}");
        }
    }
}

#[test]
fn what_is_issued_after_the_second_of_the_revocation_comes_in_where_a_new_sign_in_makes_good() {
    for kind in Kind::ALL {
        let set = Revocations::new(8);
        revoke(&set, &target(kind), NOW).unwrap();
        let refused = |issued: u64| set.revoked(&Revocable::new(&[target(kind)], issued)).is_some();
        let for_good = !matches!(kind, Kind::Sub | Kind::Tenant | Kind::Issuer);
        assert_eq!((refused(NOW - 1), refused(NOW), refused(NOW + 1)), (true, true, for_good), "{kind:?}");
    }
}

#[test]
fn the_later_revocation_of_the_same_counts_in_either_order() {
    for times in [[NOW - 100, NOW], [NOW, NOW - 100]] {
        let set = Revocations::new(8);
        let learned = times.map(|at| revoke(&set, &target(Kind::Sub), at).unwrap());
        assert_eq!(learned[0], Learned::News);
        assert_eq!(learned[1] == Learned::News, times[1] == NOW);
        assert!(set.revoked(&Revocable::new(&[target(Kind::Sub)], NOW)).is_some());
        assert_eq!(set.len(), 1);
    }
}

#[test]
fn a_revocation_that_does_not_fit_is_refused_and_none_is_forgotten_for_it() {
    let set = Revocations::new(2);
    let jti = |n: u32| parse(Kind::Jti, &n.to_string());
    revoke(&set, &jti(1), NOW).unwrap();
    assert!(set.room_for(&jti(2).mark()).is_ok());
    revoke(&set, &jti(2), NOW).unwrap();
    assert!(set.room_for(&jti(3).mark()).is_err());
    assert!(revoke(&set, &jti(3), NOW).is_err());
    assert!(set.room_for(&jti(2).mark()).is_ok(), "a known one takes no room");
    assert_eq!(revoke(&set, &jti(2), NOW + 1), Ok(Learned::News));
    let refused = |n: u32| set.revoked(&Revocable::new(&[jti(n)], NOW)).is_some();
    assert_eq!([refused(1), refused(2), refused(3)], [true, true, false]);
    // Room comes back when nothing is valid any more that they refuse.
    assert_eq!(set.expire(NOW + 9 * DAY_S), 2);
    assert_eq!(set.len(), 0);
    assert!(revoke(&set, &jti(3), NOW).is_ok());
}

#[test]
fn an_entry_is_kept_for_longer_than_anything_it_refuses_can_live() {
    for kind in Kind::ALL {
        let record = Record::new(&target(kind), NOW, reason());
        let (tokens, keys) = (7 * DAY_S + 30, crate::authentication::LIFETIME_MAX_S);
        let lives = if matches!(kind, Kind::ApiKey | Kind::Tenant | Kind::Sub | Kind::Cert) { keys } else { tokens };
        assert!(record.expires() > NOW + lives, "{kind:?}");
        let set = Revocations::new(8);
        assert_eq!(set.learn(record.clone(), record.expires() - 1), Ok(Learned::News));
        assert_eq!((set.expire(record.expires() - 1), set.expire(record.expires())), (0, 1), "{kind:?}");
        assert_eq!(set.learn(record.clone(), record.expires()), Ok(Learned::Over));
    }
}

#[test]
fn a_tenant_revokes_its_own_and_a_subject_may_be_meant_in_all_tenants() {
    let other = TenantId::parse("globex").unwrap();
    let set = Revocations::new(8);
    revoke(&set, &target(Kind::Jti), NOW).unwrap();
    let same_jti = |issuer: &str, tenant: &TenantId| {
        let target = Target::parse(Kind::Jti, Some(issuer), Some(tenant), "some").unwrap();
        set.revoked(&Revocable::new(&[target], NOW)).is_some()
    };
    assert!(same_jti(ISS, &acme()));
    assert!(!same_jti(ISS, &other) && !same_jti("https://other.example.com", &acme()));
    let everywhere = Target::parse(Kind::Sub, Some(ISS), None, "some").unwrap();
    assert_ne!(everywhere.mark(), target(Kind::Sub).mark());
}

#[test]
fn what_is_missing_too_much_or_the_value_of_nothing_is_told() {
    let acme = acme();
    for (kind, issuer, tenant, value, told) in [
        (Kind::Jti, None, Some(&acme), "j", TargetError::NoIssuer(Kind::Jti)),
        (Kind::Jti, Some(ISS), None, "j", TargetError::NoTenant(Kind::Jti)),
        (Kind::Sid, Some(ISS), None, "s", TargetError::NoTenant(Kind::Sid)),
        (Kind::Sub, None, Some(&acme), "u", TargetError::NoIssuer(Kind::Sub)),
        (Kind::Kid, Some(ISS), Some(&acme), "k", TargetError::Tenant(Kind::Kid)),
        (Kind::Kid, Some(ISS), None, "k k", TargetError::Value(Kind::Kid)),
        (Kind::Tenant, Some(ISS), None, "acme", TargetError::Issuer(Kind::Tenant)),
        (Kind::Tenant, None, None, "Acme!", TargetError::Value(Kind::Tenant)),
        (Kind::ApiKey, None, None, "short", TargetError::Value(Kind::ApiKey)),
        (Kind::Token, None, None, "abc", TargetError::Value(Kind::Token)),
        (Kind::Issuer, None, None, "", TargetError::Value(Kind::Issuer)),
        (Kind::Jti, Some(ISS), Some(&acme), "", TargetError::Value(Kind::Jti)),
        (Kind::Jti, Some(ISS), Some(&acme), "a\u{0}b", TargetError::Value(Kind::Jti)),
    ] {
        assert_eq!(Target::parse(kind, issuer, tenant, value), Err(told), "{value:?}");
    }
    assert!(Target::parse(Kind::Jti, Some(ISS), Some(&acme), &"j".repeat(128)).is_ok());
    assert!(Target::parse(Kind::Jti, Some(ISS), Some(&acme), &"j".repeat(129)).is_err());
}

#[test]
fn a_reason_has_bounds() {
    let ok = |text: String| Reason::try_from(text).is_ok();
    assert!(ok("x".into()) && ok("\u{e9}".repeat(200)));
    assert!(!ok(String::new()) && !ok("  ".into()) && !ok("x".repeat(201)) && !ok("a\nb".into()));
}

#[test]
fn a_record_is_written_and_read_and_holds_no_value_that_names_somebody() {
    for kind in Kind::ALL {
        let record = Record::new(&target(kind), NOW, reason());
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        let hidden = matches!(kind, Kind::Jti | Kind::Sid | Kind::Sub | Kind::Token);
        assert_eq!(text.contains(&format!("\"{}\"", value(kind))), !hidden, "{text}");
    }
    for bad in ["{}", r#"{"kind":"jti"}"#, r#"{"kind":"x","mark":"","at":1,"reason":"r"}"#] {
        assert!(serde_json::from_str::<Record>(bad).is_err());
    }
}

proptest! {
    #[test]
    fn two_targets_have_one_mark_only_when_they_are_one(
        a in ("[a-z]{1,3}", "[a-z]{2,3}", "[a-z]{1,3}"),
        b in ("[a-z]{1,3}", "[a-z]{2,3}", "[a-z]{1,3}"),
        kinds in (0_usize..8, 0_usize..8),
    ) {
        let target = |(issuer, tenant, value): &(String, String, String), kind: usize| {
            let tenant = TenantId::parse(tenant).unwrap();
            Target::parse(Kind::ALL[kind], Some(issuer), Some(&tenant), value).ok()
        };
        if let (Some(one), Some(other)) = (target(&a, kinds.0), target(&b, kinds.1)) {
            prop_assert_eq!(one == other, one.mark() == other.mark());
        }
    }

    #[test]
    fn arbitrary_text_is_no_mark_or_that_mark(text in ".{0,40}|[0-9a-f]{32}") {
        if let Ok(mark) = text.parse::<Mark>() {
            prop_assert_eq!(mark.to_string(), text);
        }
    }
}
