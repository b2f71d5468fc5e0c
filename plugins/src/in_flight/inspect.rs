//! A look at who is under way: an operator's question, on no request's way.

use super::{InFlight, Most, rules::Rule};
use crate::rate_limit::{InspectError, Named};

/// How a limit stands for one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Under way in this gateway.
    pub under_way: u32,
    /// Of so many in this gateway.
    pub here: u32,
    /// Of so many in all gateways.
    pub all: u32,
}

impl InFlight {
    /// Whether a route is under a limit of this name.
    #[must_use]
    pub fn knows(&self, limit: &str) -> bool {
        self.rule(limit).is_some()
    }

    /// How many are under way.
    ///
    /// # Errors
    /// [`InspectError`].
    pub fn look(&self, limit: &str, named: &Named) -> Result<Seen, InspectError> {
        let rule = self.rule(limit).ok_or_else(|| InspectError::Unknown(limit.to_owned(), String::new()))?;
        named.fits(limit, &rule.parts, rule.has_tenants())?;
        if let Some(route) = named.route.as_ref().filter(|route| !self.rules.is_under(route, limit)) {
            return Err(InspectError::NoRoute(route.clone()));
        }
        let Most { here, all } = rule.most(named.tenant.as_ref()).among(self.needs.instances());
        let under_way = self.needs.slots.count(rule.key(&named.origin(), &self.needs.hasher));
        Ok(Seen { under_way, here: here.get(), all: all.get() })
    }

    fn rule(&self, limit: &str) -> Option<&Rule> {
        self.rules.plans().flat_map(|plan| plan.rules.iter()).find(|rule| *rule.name == *limit).map(|rule| &**rule)
    }
}
