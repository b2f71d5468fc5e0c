//! `/admin/v1/limits/NAME?PART=VALUE&...`: how one bucket of a limit stands (GET), and its reset (DELETE).
//!
//! A part is named as in the limit's key: `client`, `api_key`, `subject` with `issuer`, `tenant`, `route`, `header` as
//! `NAME:VALUE`. Values are percent-encoded.

use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use portcullis_api::{Clock, TenantId};
use portcullis_plugins::{
    authentication::API_KEY_ISSUER,
    in_flight::{InFlight, Seen},
    rate_limit::{self, InspectError, Named},
};
use serde_json::json;

use super::json as page;
use crate::boot::Runtime;

pub(super) async fn answer(runtime: &Runtime, method: &Method, limit: &str, query: &str) -> Response<Vec<u8>> {
    let named = match named(query) {
        Ok(named) => named,
        Err(why) => return page(StatusCode::BAD_REQUEST, &json!({ "error": why })),
    };
    let snapshot = runtime.gateway.snapshot.load_full();
    let Some(rules) = snapshot.controls.rate_limit.control().map(|control| control.rules()) else {
        return page(StatusCode::NOT_FOUND, &json!({ "error": "limits are switched off" }));
    };
    if let Some((issuer, _)) = &named.subject
        && issuer != API_KEY_ISSUER
        && !snapshot.controls.authentication.control().is_some_and(|control| control.knows_issuer(issuer))
    {
        let why = format!("there is no issuer `{issuer}`: write its name in the configuration");
        return page(StatusCode::NOT_FOUND, &json!({ "error": why }));
    }
    if let Some(id) = &named.api_key
        && !runtime.api_keys.table().knows(id)
    {
        let why = "there is no API key of this id: `portcullis keys list` tells the ids";
        return page(StatusCode::NOT_FOUND, &json!({ "error": why }));
    }
    // Both kinds are found by what they are called: a rate has a name before a limit of requests under way has it.
    if !rules.names().any(|name| name == limit)
        && let Some(in_flight) = snapshot.controls.in_flight.control().filter(|control| control.knows(limit))
    {
        return under_way(in_flight, method, limit, &named);
    }
    let limits = runtime.limits();
    let result = match *method {
        Method::GET => limits.look(rules, limit, &named).await.map(|seen| shown(limit, &seen)),
        Method::DELETE => limits.reset(rules, limit, &named).await.map(|bucket| {
            let (at, bucket) = (runtime.gateway.clock.unix(), format!("{bucket:032x}"));
            tracing::warn!(event = "limits.reset", limit, bucket, at, "an operator filled a bucket of a limit");
            json!({ "reset": true, "bucket": bucket })
        }),
        _ => return page(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "GET shows, DELETE resets" })),
    };
    match result {
        Ok(value) => page(StatusCode::OK, &value),
        Err(why) => refused(&why),
    }
}

/// How many requests are under way. They end by themselves, so there is nothing to reset.
fn under_way(control: &InFlight, method: &Method, limit: &str, named: &Named) -> Response<Vec<u8>> {
    if *method != Method::GET {
        let why = format!("`{limit}` counts requests under way: they end by themselves, there is nothing to reset");
        return page(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": why }));
    }
    match control.look(limit, named) {
        Ok(Seen { under_way, here, all }) => page(
            StatusCode::OK,
            &json!({ "limit": limit, "counted": "in_flight", "under_way": under_way, "here": here, "requests": all }),
        ),
        Err(why) => refused(&why),
    }
}

fn refused(why: &InspectError) -> Response<Vec<u8>> {
    let status = match why {
        InspectError::Unknown(..) | InspectError::NoRoute(_) => StatusCode::NOT_FOUND,
        InspectError::Missing { .. } | InspectError::Unused { .. } => StatusCode::BAD_REQUEST,
        InspectError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    page(status, &json!({ "error": why.to_string() }))
}

fn shown(
    limit: &str,
    rate_limit::Seen { level, burst, cost, numbers, counted }: &rate_limit::Seen,
) -> serde_json::Value {
    json!({
        "limit": limit,
        "counted": counted,
        "remaining": level.remaining,
        "burst": burst,
        "cost": cost,
        "requests": numbers.requests(),
        "window": numbers.window().to_string(),
        "retry_after_ms": level.retry_after.div_ceil(1_000),
        "full_after_ms": level.reset_after.div_ceil(1_000),
    })
}

/// Whose bucket, or what is wrong with the query. A part that is not known is an error: the bucket would be another.
fn named(query: &str) -> Result<Named, String> {
    let mut named = Named::default();
    let (mut issuer, mut subject) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (part, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` is no PART=VALUE"))?;
        // What is named twice names two buckets.
        if part != "header" && query.split('&').filter(|other| other.split('=').next() == Some(part)).count() > 1 {
            return Err(format!("`{part}` stands twice"));
        }
        let value = percent_decode_str(value).decode_utf8().map_err(|_| format!("{part} is no UTF-8"))?.into_owned();
        match part {
            "client" => named.client = Some(value.parse().map_err(|_| format!("`{value}` is no address"))?),
            "api_key" => named.api_key = Some(value),
            "issuer" => issuer = Some(value),
            "subject" => subject = Some(value),
            "tenant" => named.tenant = Some(TenantId::parse(&value).map_err(|why| why.to_string())?),
            "route" => named.route = Some(value),
            "header" => {
                let (name, value) =
                    value.split_once(':').ok_or_else(|| format!("header `{value}` is no NAME:VALUE"))?;
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` names no header"))?;
                // As a request's is read: without what stands around it.
                let value =
                    HeaderValue::from_str(value.trim()).map_err(|_| format!("no value of a header: {value:?}"))?;
                named.headers.append(name, value);
            }
            _ => {
                return Err(format!(
                    "`{part}` is no part of a key: client, api_key, issuer, subject, tenant, route, header"
                ));
            }
        }
    }
    named.subject = match (issuer, subject) {
        (Some(issuer), Some(subject)) => Some((issuer, subject)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err("a subject is named by issuer and subject together".into()),
    };
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_each_part_percent_decoded() {
        let named = named("client=203.0.113.9&issuer=https%3A%2F%2Fid.test%2F&subject=a%26b&tenant=acme&route=h%2Fr&header=x-plan:gold").unwrap();
        assert_eq!(named.client, Some("203.0.113.9".parse().unwrap()));
        assert_eq!(named.subject, Some(("https://id.test/".to_owned(), "a&b".to_owned())));
        assert_eq!((named.tenant.unwrap().as_str(), named.route.as_deref()), ("acme", Some("h/r")));
        assert_eq!(named.headers["x-plan"], "gold");
        assert!(super::named("").unwrap().client.is_none());
    }

    #[test]
    fn what_names_no_part_is_refused() {
        for query in [
            "client=x",
            "tenat=acme",
            "tenant",
            "subject=a",
            "issuer=a",
            "tenant=%20",
            "header=a",
            "header=a%20b:c",
            "client=::1&client=::2",
            "route=%ff",
        ] {
            assert!(named(query).is_err(), "{query}");
        }
    }
}
