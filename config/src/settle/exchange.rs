//! The exchange: secrets that nothing else has, and hosts that are there.

use std::{collections::BTreeMap, ops::Range};

use portcullis_api::{Cidrs, Secret, nearest};
use portcullis_plugins::authentication::{
    Algorithm, STALE_DEFAULT,
    exchange::{EXCHANGE_ISSUER, ExchangeSettings},
};

use super::Room;
use crate::settled::{ApiKeysSpec, IssuerSpec, KeySource};

const OLDER_KEYS_MAX: usize = 7;

impl Room<'_> {
    /// The hosts that serve it; it is added to the issuers.
    pub(super) fn exchange(
        &mut self,
        issuers: &mut BTreeMap<String, IssuerSpec>,
        api_keys: Option<&ApiKeysSpec>,
    ) -> Vec<String> {
        let document = self.document;
        let Some(settings) = &document.exchange else { return Vec::new() };
        let ExchangeSettings { issuer, key, older_keys, hosts, lifetime: _, rate: _ } = settings;
        if let Some(other) = document.assertion.as_ref().filter(|other| other.issuer.value == issuer.value) {
            let message = "[assertion] has the same issuer: an assertion and a token would be of one name";
            let help = "write another URL for one of them";
            self.issues.push_help("exchange.issuer_twice", &other.issuer.span, message, help);
        }
        if let Some(over) = older_keys.get(OLDER_KEYS_MAX) {
            let message = format!("there are {} older keys", older_keys.len());
            let help = "at most 7: tokens live 15 minutes at most, so one is enough";
            self.issues.push_help("exchange.older_keys", &over.span, message, help);
        }
        let mut read: Vec<Secret> = Vec::new();
        for reference in std::iter::once(key).chain(older_keys) {
            let Some(secret) = self.secret(&reference.value, &reference.span, "the key of the exchange") else {
                continue;
            };
            self.only_here(&secret, &reference.span, (issuers, api_keys, &read));
            read.push(secret);
        }
        let mut read = read.into_iter();
        if let Some(newest) = read.next() {
            let spec = IssuerSpec {
                issuer: issuer.value.clone(),
                keys: KeySource::Own { newest, older: read.collect() },
                algorithms: vec![Algorithm::HS256],
                private_networks: Cidrs::default(),
                max_stale: STALE_DEFAULT,
                copy: None,
            };
            issuers.insert(EXCHANGE_ISSUER.to_owned(), spec);
        }
        self.served_on(settings);
        hosts.value.iter().map(|host| host.value.clone()).collect()
    }

    /// Whoever has a secret can make all that is made with it: one that is used for two things is worth both.
    fn only_here(
        &mut self,
        secret: &Secret,
        span: &Range<usize>,
        (issuers, api_keys, before): (&BTreeMap<String, IssuerSpec>, Option<&ApiKeysSpec>, &[Secret]),
    ) {
        let is = |other: &Secret| other.equals(secret.expose());
        let issuer = issuers.iter().find(|(_, spec)| match &spec.keys {
            KeySource::Secret(other) => is(other),
            KeySource::JwksUrl(_) | KeySource::Discovery(_) | KeySource::JwksFile(_) | KeySource::Own { .. } => false,
        });
        let pepper = api_keys.is_some_and(|spec| is(&spec.pepper) || spec.older_peppers.iter().any(is));
        let owner = match (issuer, pepper) {
            (Some((name, _)), _) => format!("issuer `{name}`"),
            (None, true) => "[api_keys]".to_owned(),
            (None, false) if before.iter().any(is) => "the exchange itself".to_owned(),
            (None, false) => return,
        };
        let message = format!("a key of the exchange is a secret of {owner} too");
        self.issues.push_help("exchange.key_twice", span, message, "make another with: openssl rand -hex 32");
    }

    fn served_on(&mut self, settings: &ExchangeSettings) {
        let known = &self.document.hosts;
        let hosts = &settings.hosts;
        if hosts.value.is_empty() {
            let message = "the exchange is served on no host";
            self.issues.push_help("exchange.hosts", &hosts.span, message, "write hosts = [\"api.example.com\"]");
        }
        for (index, host) in hosts.value.iter().enumerate() {
            if hosts.value.iter().take(index).any(|earlier| earlier.value == host.value) {
                let message = format!("host `{}` is written twice", host.value);
                self.issues.push_help("exchange.hosts", &host.span, message, "write each host once");
            }
            if known.contains_key(&host.value) {
                continue;
            }
            let message = format!("there is no host `{}`", host.value);
            let help = match nearest(&host.value, known.keys().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "write a name of [hosts]".to_owned(),
            };
            self.issues.push_help("exchange.hosts", &host.span, message, help);
        }
    }
}
