//! `/admin/v1/issuers`: how the issuers' keys stand (GET), and having them fetched now: `POST /admin/v1/issuers/NAME/refresh`.

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::json as page;
use crate::{
    boot::Runtime,
    key_sets::{Origin, Status},
};

pub(super) fn answer(runtime: &Runtime, method: &Method) -> Response<Vec<u8>> {
    if *method != Method::GET {
        return page(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "GET lists; POST NAME/refresh fetches" }));
    }
    let issuers: Vec<Value> = runtime.key_sets.all().iter().map(|issuer| listed(&issuer.status())).collect();
    page(StatusCode::OK, &json!({ "issuers": issuers }))
}

/// `rest` is what follows `issuers/`.
pub(super) async fn one(runtime: &Runtime, method: &Method, rest: &str) -> Response<Vec<u8>> {
    let Some(name) = rest.strip_suffix("/refresh") else {
        return page(StatusCode::NOT_FOUND, &json!({ "error": "no such page" }));
    };
    if *method != Method::POST {
        return page(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "POST fetches the keys" }));
    }
    match runtime.key_sets.refresh(name).await {
        None => page(StatusCode::NOT_FOUND, &json!({ "error": "there is no issuer of this name" })),
        Some(Ok(())) => page(StatusCode::OK, &json!({ "refreshed": true })),
        Some(Err(why)) => {
            page(StatusCode::BAD_GATEWAY, &json!({ "error": format!("the keys were not loaded: {why}") }))
        }
    }
}

fn listed(status: &Status) -> Value {
    let Status { issuer, source, at, age, max_stale, keys, dropped, next_fetch, last_error } = status;
    let from = age.map(|(_, from)| match from {
        Origin::Source => "source",
        Origin::Copy => "copy",
    });
    let (keys, missing) = match keys {
        Ok(keys) => (keys.as_slice(), None),
        Err(why) => (&[][..], Some(why)),
    };
    let keys: Vec<Value> =
        keys.iter().map(|(kid, algorithm)| json!({ "kid": kid, "algorithm": format!("{algorithm:?}") })).collect();
    json!({
        "issuer": issuer,
        "source": source,
        "at": at,
        "from": from,
        "age_s": age.map(|(age, _)| age.as_secs()),
        "max_stale_s": max_stale.as_secs(),
        "keys": keys,
        "missing": missing,
        "dropped": dropped,
        "next_fetch_s": next_fetch.map(|wait| wait.as_secs()),
        "last_error": last_error.as_ref().map(|(ago, why)| json!({ "why": why, "ago_s": ago.as_secs() })),
    })
}
