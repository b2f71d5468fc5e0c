//! The numbers that hold for a route and a tenant, settled when the configuration is loaded.

use std::{collections::HashMap, fmt::Display, num::NonZeroU32, ops::Range};

use portcullis_api::{At, Issues, Layers, RouteId, RouteRef, Size, TenantId};

use super::{Override, Settings};

/// The numbers of one route and tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) urls_max: u32,
    pub(super) phones_max: u32,
    pub(super) chars_max: u32,
    pub(super) body_max: u64,
}

/// The numbers of every route and tenant.
#[derive(Debug)]
pub(super) struct Table {
    site: Limits,
    routes: Vec<Limits>,
    tenants: HashMap<TenantId, Vec<Limits>>,
}

impl Table {
    /// Merges the layers: site, replaced by the route, replaced by the tenant's grant, narrowed by the tenant's own.
    pub(super) fn compile(
        site: &Settings,
        routes: &[(RouteRef, Option<&Override>)],
        tenants: &[(TenantId, Layers<'_, Override>)],
        issues: &mut Issues,
    ) -> Self {
        let site = Limits {
            urls_max: site.urls_max.value,
            phones_max: site.phones_max.value,
            chars_max: site.chars_max.value.get(),
            body_max: site.body_max.value.bytes(),
        };
        let routes: Vec<Limits> =
            routes.iter().map(|(_, route)| route.map_or(site, |route| site.replaced(route))).collect();
        let tenants = tenants
            .iter()
            .map(|(tenant, Layers { grant, own })| {
                let granted: Vec<Limits> =
                    routes.iter().map(|route| grant.map_or(*route, |grant| route.replaced(grant))).collect();
                let Some(own) = own else { return (tenant.clone(), granted) };
                let base = grant.map_or(site, |grant| site.replaced(grant));
                let ceiling = granted.iter().fold(base, |ceiling, limits| ceiling.highest(*limits));
                own_is_within(tenant, own, ceiling, issues);
                (tenant.clone(), granted.into_iter().map(|limits| limits.narrowed(own)).collect())
            })
            .collect();
        Self { site, routes, tenants }
    }

    /// The numbers that hold for a request. A tenant that the document does not name has none of its own.
    pub(super) fn of(&self, route: RouteId, tenant: Option<&TenantId>) -> Limits {
        let routes = tenant.and_then(|tenant| self.tenants.get(tenant)).unwrap_or(&self.routes);
        routes.get(route.index()).copied().unwrap_or(self.site)
    }
}

impl Limits {
    fn replaced(self, by: &Override) -> Self {
        let Override { urls_max, phones_max, chars_max, body_max } = by;
        Self {
            urls_max: urls_max.as_ref().map_or(self.urls_max, |at| at.value),
            phones_max: phones_max.as_ref().map_or(self.phones_max, |at| at.value),
            chars_max: chars_max.as_ref().map_or(self.chars_max, |at| at.value.get()),
            body_max: body_max.as_ref().map_or(self.body_max, |at| at.value.bytes()),
        }
    }

    fn narrowed(self, by: &Override) -> Self {
        self.lowest(self.replaced(by))
    }

    fn lowest(self, other: Self) -> Self {
        let Self { urls_max, phones_max, chars_max, body_max } = other;
        Self {
            urls_max: self.urls_max.min(urls_max),
            phones_max: self.phones_max.min(phones_max),
            chars_max: self.chars_max.min(chars_max),
            body_max: self.body_max.min(body_max),
        }
    }

    fn highest(self, other: Self) -> Self {
        let Self { urls_max, phones_max, chars_max, body_max } = other;
        Self {
            urls_max: self.urls_max.max(urls_max),
            phones_max: self.phones_max.max(phones_max),
            chars_max: self.chars_max.max(chars_max),
            body_max: self.body_max.max(body_max),
        }
    }
}

/// A tenant's own number above every number that holds for it would loosen nothing, and its author believes it does.
fn own_is_within(tenant: &TenantId, own: &Override, ceiling: Limits, issues: &mut Issues) {
    let Override { urls_max, phones_max, chars_max, body_max } = own;
    let mut check = |name: &str, span: &Range<usize>, above: bool, own: &dyn Display, ceiling: &dyn Display| {
        if above {
            issues.push_help(
                "waf.own_above_grant",
                span,
                format!("tenant `{tenant}` sets its own {name} to {own}, above the {ceiling} that it is granted"),
                "a tenant's own settings may only tighten: lower it, or raise the tenant's grant",
            );
        }
    };
    if let Some(At { value, span }) = urls_max {
        check("urls_max", span, *value > ceiling.urls_max, value, &ceiling.urls_max);
    }
    if let Some(At { value, span }) = phones_max {
        check("phones_max", span, *value > ceiling.phones_max, value, &ceiling.phones_max);
    }
    if let Some(At { value, span }) = chars_max {
        check("chars_max", span, NonZeroU32::get(*value) > ceiling.chars_max, value, &ceiling.chars_max);
    }
    if let Some(At { value, span }) = body_max {
        check("body_max", span, value.bytes() > ceiling.body_max, value, &Size::new(ceiling.body_max));
    }
}
