//! What is kept of access lines: of each request that passed, when it began and what limits could count it by.
//!
//! Invariant: memory is bounded by the log. A request is 32 bytes; each address, key, subject and tenant is held once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    num::NonZeroU32,
};

use portcullis_api::Micros;

/// An address with so many callers is taken for many people.
pub(super) const PEOPLE: usize = 5;

/// A number for a text of the log.
pub(super) type Id = NonZeroU32;

/// Everything that was read.
#[derive(Default)]
pub(super) struct Traffic {
    pub(super) routes: BTreeMap<String, Route>,
    pub(super) clients: Names,
    pub(super) api_keys: Names,
    pub(super) subjects: Names,
    pub(super) tenants: Names,
    pub(super) tally: Tally,
}

/// How many lines of which sort there were.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Access lines.
    pub(super) lines: usize,
    /// Of these, requests that passed.
    pub(super) counted: usize,
    /// Of these, requests that the gateway answered with a code of its own.
    pub(super) refused: usize,
    /// Of these, requests that ended before they had a route.
    pub(super) routeless: usize,
    /// JSON lines that are no access lines.
    pub(super) other: usize,
}

/// What came to one route.
#[derive(Default)]
pub(super) struct Route {
    /// In the order of their times, once sorted.
    pub(super) requests: Vec<Request>,
    /// Requests that limits in force refused.
    pub(super) limited: usize,
}

/// One request that passed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// When it began.
    pub(super) at: Micros,
    pub(super) client: Option<Id>,
    pub(super) api_key: Option<Id>,
    pub(super) subject: Option<Id>,
    pub(super) tenant: Option<Id>,
    pub(super) stage: Stage,
}

/// How far a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Answered before authentication, as a CORS preflight is: limits by identity were not asked.
    Before,
    /// Limits by identity were asked.
    After,
}

/// What a limit can count by, as far as an access line tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Client,
    ApiKey,
    Subject,
    Tenant,
    Caller,
}

/// The bucket of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Bucket {
    /// That of one key.
    Of(Kind, Id),
    /// The one of all requests that lack the part.
    Shared,
}

/// Texts by number.
#[derive(Default)]
pub(super) struct Names(HashMap<Box<str>, Id>);

impl Traffic {
    /// Puts the requests of each route in the order of their times: lines are written when requests end.
    pub(super) fn sort(&mut self) {
        for route in self.routes.values_mut() {
            route.requests.sort_unstable_by_key(|request| request.at);
        }
    }

    /// From the first request to the last.
    pub(super) fn span(&self) -> Micros {
        let first = self.routes.values().filter_map(|route| route.requests.first()).map(|request| request.at).min();
        let last = self.routes.values().filter_map(|route| route.requests.last()).map(|request| request.at).max();
        last.unwrap_or(0).saturating_sub(first.unwrap_or(0))
    }

    /// Addresses that have [`PEOPLE`] callers or more, on whatever routes.
    pub(super) fn crowds(&self) -> HashSet<Id> {
        let mut callers: HashMap<Id, Vec<(Kind, Id)>> = HashMap::new();
        for request in self.routes.values().flat_map(|route| &route.requests) {
            if let (Some(client), Some(caller)) = (request.client, request.principal()) {
                let known = callers.entry(client).or_default();
                if known.len() < PEOPLE && !known.contains(&caller) {
                    known.push(caller);
                }
            }
        }
        callers.into_iter().filter(|(_, known)| known.len() >= PEOPLE).map(|(client, _)| client).collect()
    }
}

impl Route {
    /// Whether the requests have callers of more than one kind. Of one kind, `caller` counts as that kind does.
    pub(super) fn is_mixed(&self) -> bool {
        let kind = |request: &Request| match request.bucket(Kind::Caller)? {
            Bucket::Of(kind, _) => Some(kind),
            Bucket::Shared => None,
        };
        let mut kinds = self.requests.iter().filter_map(kind);
        let first = kinds.next();
        kinds.any(|kind| Some(kind) != first)
    }
}

impl Request {
    /// The bucket that a limit would count it in; `None` where it would not be asked.
    pub(super) fn bucket(&self, kind: Kind) -> Option<Bucket> {
        let id = match kind {
            // The only one that is asked before authentication.
            Kind::Client => return Some(of(kind, self.client)),
            Kind::ApiKey => self.api_key,
            Kind::Subject => self.subject,
            Kind::Tenant => self.tenant,
            Kind::Caller => None,
        };
        match (self.stage, kind) {
            (Stage::Before, _) => None,
            (Stage::After, Kind::Caller) => Some(match self.principal() {
                Some((kind, id)) => Bucket::Of(kind, id),
                None => of(Kind::Client, self.client),
            }),
            (Stage::After, Kind::Client | Kind::ApiKey | Kind::Subject | Kind::Tenant) => Some(of(kind, id)),
        }
    }

    /// The API key, else the subject.
    pub(super) fn principal(&self) -> Option<(Kind, Id)> {
        self.api_key.map(|id| (Kind::ApiKey, id)).or(self.subject.map(|id| (Kind::Subject, id)))
    }
}

fn of(kind: Kind, id: Option<Id>) -> Bucket {
    id.map_or(Bucket::Shared, |id| Bucket::Of(kind, id))
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [Self::Client, Self::ApiKey, Self::Subject, Self::Tenant, Self::Caller];

    /// As in the `key` of a limit.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::ApiKey => "api_key",
            Self::Subject => "subject",
            Self::Tenant => "tenant",
            Self::Caller => "caller",
        }
    }
}

impl Names {
    /// The number of a text; `None` where there are no more numbers.
    pub(super) fn id(&mut self, text: &str) -> Option<Id> {
        if let Some(id) = self.0.get(text) {
            return Some(*id);
        }
        let id = u32::try_from(self.0.len()).ok()?.checked_add(1).and_then(Id::new)?;
        self.0.insert(text.into(), id);
        Some(id)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A request of a client and a subject, by number; 0 for none.
    pub(in super::super) fn request(at: Micros, client: u32, subject: u32) -> Request {
        let subject = Id::new(subject);
        Request { at, client: Id::new(client), api_key: None, subject, tenant: None, stage: Stage::After }
    }

    #[test]
    fn a_request_takes_as_much_memory_as_is_promised() {
        assert_eq!(size_of::<Request>(), 32);
    }

    #[test]
    fn a_text_has_one_number_and_no_two_texts_have_the_same() {
        let mut names = Names::default();
        let (a, b) = (names.id("a"), names.id("b"));
        assert!(a.is_some() && a != b);
        assert_eq!(names.id("a"), a);
    }

    #[test]
    fn a_caller_is_the_key_else_the_subject_else_the_address() {
        let id = |n| Id::new(n).unwrap();
        let mut one = Request { api_key: Some(id(7)), ..request(0, 5, 6) };
        assert_eq!(one.bucket(Kind::Caller), Some(Bucket::Of(Kind::ApiKey, id(7))));
        one.api_key = None;
        assert_eq!(one.bucket(Kind::Caller), Some(Bucket::Of(Kind::Subject, id(6))));
        assert_eq!(one.bucket(Kind::ApiKey), Some(Bucket::Shared));
        one.subject = None;
        assert_eq!(one.bucket(Kind::Caller), Some(Bucket::Of(Kind::Client, id(5))));
    }

    #[test]
    fn callers_of_one_kind_are_not_mixed() {
        let of = |requests: &[Request]| Route { requests: requests.to_vec(), limited: 0 }.is_mixed();
        let (anonymous, subject) = (request(0, 5, 0), request(0, 5, 6));
        assert!(
            !of(&[]) && !of(&[anonymous, anonymous]) && !of(&[subject, Request { stage: Stage::Before, ..anonymous }])
        );
        assert!(of(&[anonymous, subject]) && of(&[subject, Request { api_key: Id::new(7), ..subject }]));
    }

    #[test]
    fn a_preflight_is_counted_by_address_only() {
        let one = Request { stage: Stage::Before, ..request(0, 5, 0) };
        for kind in Kind::ALL {
            assert_eq!(one.bucket(kind).is_some(), kind == Kind::Client, "{kind:?}");
        }
    }

    #[test]
    fn an_address_with_five_callers_is_a_crowd_and_one_with_four_is_not() {
        let mut traffic = Traffic::default();
        let of = |client, callers| (1..=callers).map(move |subject| request(1, client, subject));
        traffic.routes.entry("a".into()).or_default().requests = of(1, 5).chain(of(2, 4)).collect();
        // What somebody does on another route, once more, makes nobody a crowd.
        traffic.routes.entry("b".into()).or_default().requests = of(2, 4).collect();
        assert_eq!(traffic.crowds(), HashSet::from([Id::new(1).unwrap()]));
    }
}
