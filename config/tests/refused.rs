//! Every document in `tests/refused` and in `tests/refused_by_controls` is refused, and says so in the words of its
//! snapshot. A case is a file, no code.

mod common;

#[cfg(test)]
mod cases {
    use std::{collections::BTreeSet, fs, path::Path};

    use portcullis_api::Issues;
    use portcullis_config::{Report, Surroundings, control_inputs, parse, settle_in};
    use rcgen::{CertifiedIssuer, IsCa, KeyPair};

    use crate::common::fixtures::{SECRET, certificate, dated, params, public, secret};

    /// 2026-01-01: between the dates of the expired certificate and of the one that is not valid yet.
    const NOW: u64 = 1_767_225_600;

    fn prepare(base: &Path) {
        let host = ["api.example.com"];
        certificate(base, "chain.pem", "key.pem", &host);
        certificate(base, "other-chain.pem", "other-key.pem", &["other.example.com", "*.api.example.com"]);
        dated(base, "expired-chain.pem", "expired-key.pem", &host, (2020, 2021));
        dated(base, "future-chain.pem", "future-key.pem", &host, (2100, 2101));
        issued(base, "issued-chain.pem", "reversed-chain.pem", "issued-key.pem", &host);
        for_servers(base, "servers-chain.pem", "servers-key.pem");
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        secret(base, "p384.pem", &p384.serialize_pem());
        public(base, "open-key.pem", &fs::read_to_string(base.join("key.pem")).unwrap());
        public(base, "open-secret", SECRET);
        public(base, "nothing.pem", "no certificate is in here\n");
        public(base, "jwks.json", "{\"keys\":[]}");
        secret(base, "secret", SECRET);
        let folder = base.join("open-folder");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        secret(base, "short-secret", "thirty-one bytes are one too few\n".get(1..).unwrap());
        secret(base, "empty-secret", "\n");
        secret(base, "mysql-url", "mysql://db.internal/");
    }

    /// Writes a certificate that may be shown by servers only, and its key.
    fn for_servers(base: &Path, chain: &str, key: &str) {
        let made = KeyPair::generate().unwrap();
        let mut params = params(&["gateway.example.com"], 2020, 2120);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        public(base, chain, &params.self_signed(&made).unwrap().pem());
        secret(base, key, &made.serialize_pem());
    }

    /// Writes a leaf and its issuer, the leaf first in `chain` and last in `reversed`, and the leaf's key.
    fn issued(base: &Path, chain: &str, reversed: &str, key: &str, names: &[&str]) {
        let mut authority = params(&[], 2020, 2120);
        authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let made = KeyPair::generate().unwrap();
        let mut leaf = params(names, 2020, 2120);
        leaf.distinguished_name.push(rcgen::DnType::CommonName, "a leaf");
        let leaf = leaf.signed_by(&made, &authority).unwrap();
        public(base, chain, &format!("{}{}", leaf.pem(), authority.pem()));
        public(base, reversed, &format!("{}{}", authority.pem(), leaf.pem()));
        secret(base, key, &made.serialize_pem());
    }

    fn environment(name: &str) -> Option<std::ffi::OsString> {
        match name {
            "PRESENT" => Some(SECRET.into()),
            "EMPTY" => Some("".into()),
            _ => None,
        }
    }

    /// The report of a document; `None` when it was accepted.
    fn refusal(text: &str, origin: &Path, base: &Path) -> Option<Report> {
        let document = match parse(text, origin) {
            Ok(document) => document,
            Err(report) => return Some(report),
        };
        let mut issues = Issues::default();
        let settled = settle_in(&document, &Surroundings { base, now: NOW, env: &environment }, &mut issues);
        assert_eq!(
            settled.is_none(),
            !issues.is_empty(),
            "{}: settled exactly when nothing is wrong",
            origin.display()
        );
        (!issues.is_empty()).then(|| Report::new(text, origin, issues))
    }

    /// The report of a document that only the controls refuse; `None` when they accept it too.
    fn refusal_by_controls(text: &str, origin: &Path, base: &Path) -> Option<Report> {
        assert!(refusal(text, origin, base).is_none(), "{}: not the controls refuse it", origin.display());
        let document = parse(text, origin).unwrap();
        let mut issues = Issues::default();
        portcullis_plugins::controls::lint(&control_inputs(&document), &mut issues);
        (!issues.is_empty()).then(|| Report::new(text, origin, issues))
    }

    /// Compares the report of each document of a folder with its snapshot. Answers the number of documents.
    fn compare(folder: &str, refusal: fn(&str, &Path, &Path) -> Option<Report>) -> usize {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
        let base = tempfile::tempdir().unwrap();
        prepare(base.path());
        let mut cases = BTreeSet::new();
        let mut snapshots = BTreeSet::new();
        for entry in fs::read_dir(&folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            match name.split_once('.') {
                Some((case, "toml")) => cases.insert(case.to_owned()),
                Some((case, "snap")) => snapshots.insert(case.to_owned()),
                other => panic!("what is {other:?} here for?"),
            };
        }
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(&folder);
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        for case in &cases {
            let file = format!("{case}.toml");
            let text = fs::read_to_string(folder.join(&file)).unwrap();
            let report = refusal(&text, Path::new(&file), base.path());
            let report = report.unwrap_or_else(|| panic!("{file} was accepted"));
            let plain = report.plain().replace(base.path().to_str().unwrap(), "/etc/portcullis");
            settings.bind(|| insta::assert_snapshot!(case.as_str(), plain));
        }
        let stale: Vec<_> = snapshots.difference(&cases).collect();
        assert!(stale.is_empty(), "snapshots without a case: {stale:?}");
        cases.len()
    }

    #[test]
    fn every_case_is_refused_in_the_words_of_its_snapshot() {
        let cases = compare("refused", refusal);
        assert!(cases >= 45, "{cases} cases");
    }

    #[test]
    fn every_case_of_the_controls_is_refused_in_the_words_of_its_snapshot() {
        let cases = compare("refused_by_controls", refusal_by_controls);
        assert!(cases >= 30, "{cases} cases");
    }

    #[test]
    fn no_report_shows_an_inline_secret() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refused");
        let base = tempfile::tempdir().unwrap();
        prepare(base.path());
        let mut seen = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let report = refusal(&text, &path, base.path()).unwrap();
            seen += usize::from(text.contains("hunter2"));
            assert!(!report.plain().contains("hunter2"), "{}", report.plain());
            assert!(!report.excerpts(120).contains("hunter2"), "{}", report.excerpts(120));
        }
        assert!(seen >= 4, "{seen} cases write a secret inline");
    }
}
