//! `/admin/v1/lockouts`: the locks that failed logins began (GET), and lifting them (DELETE): `/admin/v1/lockouts/LOCK` with
//! a listed key or an address, or `/admin/v1/lockouts?in=REALM&account=NAME` for all of an account. Values are percent-encoded.

use std::net::IpAddr;

use http::{Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use portcullis_plugins::login::{Account, AccountName};
use serde_json::json;

use super::json as page;
use crate::{boot::Runtime, lockouts::Lifting};

/// What an operator has to name of an account.
const WHOSE: &str = "an account is named by `in`, a tenant or a host, and `account`";

pub(super) async fn answer(runtime: &Runtime, method: &Method, query: &str) -> Response<Vec<u8>> {
    match *method {
        Method::GET => {
            let (locks, now) = runtime.gateway.lockouts.list();
            let listed = locks.iter().map(|lock| {
                json!({
                    "lock": lock.key.to_string(),
                    "scope": lock.scope.as_str(),
                    "failures": lock.failures,
                    "remaining_s": lock.remaining_s(now),
                })
            });
            page(StatusCode::OK, &json!({ "lockouts": listed.collect::<Vec<_>>() }))
        }
        Method::DELETE => match of_account(runtime, query) {
            Ok(lifting) => lifted(runtime, lifting).await,
            Err((status, why)) => page(status, &json!({ "error": why })),
        },
        _ => page(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "GET lists, DELETE lifts" })),
    }
}

/// Lifts one lock by its key or by the address of its network.
pub(super) async fn lift(runtime: &Runtime, method: &Method, lock: &str, query: &str) -> Response<Vec<u8>> {
    if *method != Method::DELETE || !query.is_empty() {
        return page(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "DELETE lifts one, without a query" }));
    }
    match (lock.parse::<IpAddr>(), lock.parse()) {
        (Ok(network), _) => lifted(runtime, Lifting::Network(network)).await,
        (Err(_), Ok(key)) => lifted(runtime, Lifting::Key(key)).await,
        (Err(_), Err(_)) => page(StatusCode::BAD_REQUEST, &json!({ "error": "that is no address and no listed lock" })),
    }
}

async fn lifted(runtime: &Runtime, lifting: Lifting) -> Response<Vec<u8>> {
    match runtime.gateway.lockouts.lift(lifting).await {
        Ok(0) => page(StatusCode::NOT_FOUND, &json!({ "error": "no such lock is on" })),
        Ok(lifted) => page(StatusCode::OK, &json!({ "lifted": lifted })),
        Err(here_only) => page(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": here_only.to_string() })),
    }
}

fn of_account(runtime: &Runtime, query: &str) -> Result<Lifting, (StatusCode, String)> {
    let wrong = |why: &str| (StatusCode::BAD_REQUEST, why.to_owned());
    let (mut realm, mut account) = (None, None);
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').ok_or_else(|| wrong(WHOSE))?;
        let value = percent_decode_str(value).decode_utf8().map_err(|_| wrong("that is no text"))?.into_owned();
        let place = match name {
            "in" => &mut realm,
            "account" => &mut account,
            _ => return Err(wrong(WHOSE)),
        };
        if place.replace(value).is_some() {
            return Err(wrong(WHOSE));
        }
    }
    let (Some(realm), Some(account)) = (realm, account) else { return Err(wrong(WHOSE)) };
    let snapshot = runtime.gateway.snapshot.load_full();
    let realms = snapshot.controls.login.control().map(portcullis_plugins::login::Login::realms).unwrap_or_default();
    let known = |known: &&&str| known.split_once(':').is_some_and(|(_, name)| name == realm);
    let Some(found) = realms.iter().find(known) else {
        let names: Vec<&str> = realms.iter().filter_map(|realm| Some(realm.split_once(':')?.1)).collect();
        let why = format!("nobody logs in to `{realm}`: known are {}", names.join(", "));
        return Err((StatusCode::NOT_FOUND, why));
    };
    let account = AccountName::parse(&account).ok_or_else(|| wrong("that is no account"))?;
    Ok(Lifting::Account { realm: (*found).to_owned(), account: Account::Named(account) })
}
