//! A look at one bucket, and its reset: an operator's questions, on no request's way.
//!
//! Invariant: a bucket is found by the very hash under which requests are counted, so what is shown is what they meet.

use std::net::{IpAddr, Ipv4Addr};

use http::HeaderMap;
use portcullis_api::{TenantId, counted, nearest};

use super::{
    Needs, Numbers, Rules, StoreFault,
    charge::Place,
    counters::Level,
    define::Rule,
    keys::{Origin, Part, Parts, Who},
};

/// Whose bucket: what the limit counts by, as an operator names it.
#[derive(Debug, Clone, Default)]
pub struct Named {
    /// Any address of the client.
    pub client: Option<IpAddr>,
    /// An API key's id.
    pub api_key: Option<String>,
    /// The issuer's name in the configuration, and the subject.
    pub subject: Option<(String, String)>,
    /// The tenant; it also decides whose numbers hold.
    pub tenant: Option<TenantId>,
    /// `host/route`.
    pub route: Option<String>,
    /// Header values.
    pub headers: HeaderMap,
}

/// Why there is no bucket to look at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// No such limit.
    #[error("there is no limit `{0}`{1}")]
    Unknown(String, String),
    /// The limit counts by something that was not named.
    #[error("limit `{limit}` counts by {part}, which is not named")]
    Missing {
        /// The limit.
        limit: String,
        /// As in the limit's `key`.
        part: String,
    },
    /// Something was named that the limit does not count by.
    #[error("limit `{limit}` does not count by {part}")]
    Unused {
        /// The limit.
        limit: String,
        /// As in the limit's `key`.
        part: String,
    },
    /// No such route, or one that is not under the limit.
    #[error("there is no route `{0}` under this limit: write HOST/ROUTE, as in the configuration")]
    NoRoute(String),
    /// The shared store did not answer.
    #[error(transparent)]
    Store(#[from] StoreFault),
}

/// How a bucket stands.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its level.
    pub level: Level,
    /// What it holds when it is full, in this gateway or in the store.
    pub burst: u32,
    /// What one request takes.
    pub cost: u32,
    /// The numbers of the whole limit.
    pub numbers: Numbers,
    /// `memory`, `shared` or `share`.
    pub counted: &'static str,
}

impl Needs {
    /// How a bucket stands. Takes nothing of it.
    ///
    /// # Errors
    /// [`InspectError`].
    pub async fn look(&self, rules: &Rules, limit: &str, named: &Named) -> Result<Seen, InspectError> {
        let (rule, numbers, key) = self.find(rules, limit, named)?;
        let (bucket, place) = self.place(rule, numbers, key);
        // What no request has met is full.
        let here = || match self.table(rule) {
            Some(table) => table.peek(self.now(), &bucket),
            None => Level::at_rest(bucket.rate, 0, self.now()),
        };
        let (level, counted) = match place {
            Place::Memory => (here(), "memory"),
            Place::Share => (here(), "share"),
            Place::Shared(store) => (store.peek(&bucket).await?, "shared"),
        };
        let (burst, cost) = (bucket.rate.burst(), bucket.rate.cost());
        Ok(Seen { level, burst, cost, numbers: numbers.clone(), counted })
    }

    /// Fills a bucket, and answers with its hash. Gateways that share it see it within a second.
    ///
    /// # Errors
    /// [`InspectError`].
    pub async fn reset(&self, rules: &Rules, limit: &str, named: &Named) -> Result<u128, InspectError> {
        let (rule, numbers, key) = self.find(rules, limit, named)?;
        match self.place(rule, numbers, key) {
            (bucket, Place::Memory | Place::Share) => {
                self.table(rule).into_iter().for_each(|table| table.clear(self.now(), &bucket));
            }
            (bucket, Place::Shared(store)) => {
                // What this gateway admitted by its share while the store was away, too.
                self.table(rule).into_iter().for_each(|table| table.clear(self.now(), &bucket));
                store.clear(&bucket).await?;
            }
        }
        Ok(key)
    }

    fn find<'r>(
        &self,
        rules: &'r Rules,
        limit: &str,
        named: &Named,
    ) -> Result<(&'r Rule, &'r Numbers, u128), InspectError> {
        let rule = rules.rule(limit).ok_or_else(|| {
            let near = nearest(limit, rules.names()).map(|near| format!("; did you mean `{near}`?"));
            InspectError::Unknown(limit.to_owned(), near.unwrap_or_default())
        })?;
        named.fits(limit, &rule.parts, rule.has_tenants())?;
        // A bucket of what does not exist would be shown as full.
        if let Some(route) = named.route.as_ref().filter(|route| !rules.is_under(route, &rule.name)) {
            return Err(InspectError::NoRoute(route.clone()));
        }
        let numbers = rule.numbers(named.tenant.as_ref());
        Ok((rule, numbers, rule.key(numbers, &named.origin(), self.hasher())))
    }
}

impl Named {
    /// Whether it names what a limit counts by, and nothing else.
    pub(crate) fn fits(&self, limit: &str, parts: &Parts, has_tenants: bool) -> Result<(), InspectError> {
        let limit = || limit.to_owned();
        if let Some(part) = parts.iter().find(|part| !self.has(part)) {
            return Err(InspectError::Missing { limit: limit(), part: part.to_string() });
        }
        // Whose numbers hold decides which bucket it is.
        if has_tenants && self.tenant.is_none() {
            let part = "tenant, some of which have their own numbers".into();
            return Err(InspectError::Missing { limit: limit(), part });
        }
        self.unused(parts).map_or(Ok(()), |part| Err(InspectError::Unused { limit: limit(), part }))
    }

    fn has(&self, part: &Part) -> bool {
        match part {
            Part::Client => self.client.is_some(),
            Part::ApiKey => self.api_key.is_some(),
            Part::Subject => self.subject.is_some(),
            Part::Tenant => self.tenant.is_some(),
            Part::Route => self.route.is_some(),
            Part::Caller => self.api_key.is_some() || self.subject.is_some() || self.client.is_some(),
            Part::Header(name) => self.headers.contains_key(name),
        }
    }

    /// A part that is named and not counted by. The tenant may always be: it decides whose numbers hold.
    fn unused(&self, parts: &Parts) -> Option<String> {
        let counts = |wanted: &[Part]| parts.iter().any(|part| wanted.contains(part));
        let plain = [
            (self.client.is_some(), &[Part::Client, Part::Caller][..], "client"),
            (self.api_key.is_some(), &[Part::ApiKey, Part::Caller], "api_key"),
            (self.subject.is_some(), &[Part::Subject, Part::Caller], "subject"),
            (self.route.is_some(), &[Part::Route], "route"),
        ];
        let mut unused =
            plain.into_iter().filter(|(named, by, _)| *named && !counts(by)).map(|(_, _, part)| part.into());
        let header = || self.headers.keys().find(|name| !counts(&[Part::Header((*name).clone())]));
        unused.next().or_else(|| header().map(|name| format!("header:{name}")))
    }

    pub(crate) fn origin(&self) -> Origin<'_> {
        Origin {
            // A limit that counts by none has no use for it.
            client: counted(self.client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
            route: self.route.as_deref().unwrap_or_default(),
            headers: &self.headers,
            who: Who {
                key_id: self.api_key.as_deref(),
                subject: self.subject.as_ref().map(|(issuer, subject)| (issuer.as_str(), subject.as_str())),
                tenant: self.tenant.as_ref(),
            },
        }
    }
}
