//! The control, asked as the journey asks it, with a clock that is set by hand.

mod asked;
mod compiled;
mod simulation;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header::RETRY_AFTER};
use portcullis_api::{ClientIp, Control, Issue, Issues, Refusal, RouteId, RouteRef, Secret, Topology, Verdict};
use serde::Deserialize;

use super::*;
use crate::testing::{HandClock, facts, now_or_never};

const SECOND: Micros = 1_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    login: Settings,
    #[serde(default)]
    routes: BTreeMap<String, LoginRoute>,
}

/// Compiles routes of one host that admit GET and POST. One more, the last, is no login.
fn compile(text: &str, needs: &Needs) -> Result<Login, Vec<Issue>> {
    let Written { login, routes } = toml::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
    let methods = ["GET", "POST"].map(|method| portcullis_api::At::nowhere(method.to_owned()));
    let refs: Vec<RouteRef> = (0_u32..)
        .zip(routes.keys().map(String::as_str).chain(["other"]))
        .map(|(id, name)| RouteRef { id: RouteId::new(id), name: format!("host/{name}").into() })
        .collect();
    let logins = routes.values().map(Some).chain([None]);
    let routes: Vec<_> = refs
        .iter()
        .zip(logins)
        .map(|(route, login)| RouteLogin { route, login, methods: &methods, tenant: None })
        .collect();
    let mut issues = Issues::default();
    let compiled = Login::compile(Input { settings: &login, routes: &routes }, needs, &mut issues);
    compiled.filter(|_| issues.is_empty()).ok_or(issues.into_vec())
}

fn address(ip: IpAddr) -> ClientIp {
    Topology::Direct.settle(SocketAddr::new(ip, 1), None, &HeaderMap::new()).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A gateway whose logins name their account in a header.
struct Gate {
    clock: Arc<HandClock>,
    needs: Needs,
    login: Login,
}

const ROUTE: &str = "[routes.login]\naccount = [\"header:x-account\"]\n";

impl Gate {
    fn new(settings: &str) -> Self {
        Self::sharing(settings, None)
    }

    fn sharing(settings: &str, shared: Option<Arc<dyn SharedLogins>>) -> Self {
        let clock = HandClock::new();
        let locks = Arc::new(Locks::new(Some(&Secret::new(vec![7; 32]))));
        let needs = Needs { locks, shared, clock: clock.clone() };
        let login = compile(&format!("{ROUTE}{settings}"), &needs).unwrap();
        Self { clock, needs, login }
    }

    fn ask(&self, account: &str, network: IpAddr) -> Result<Unlocked, Deny> {
        let mut headers = HeaderMap::new();
        if !account.is_empty() {
            headers.insert("x-account", HeaderValue::from_bytes(account.as_bytes()).unwrap());
        }
        let facts = facts(&Method::POST, &headers);
        let sees = Sees { facts, client: address(network), route: RouteId::new(0), body: b"" };
        match now_or_never(self.login.check(sees)) {
            Ok(Verdict::Pass(unlocked)) => Ok(unlocked),
            Ok(Verdict::Deny(deny)) => Err(deny),
            Err(fault) => panic!("{fault}"),
        }
    }

    /// What a gateway without a shared store does with an answer.
    fn settle(&self, mut unlocked: Unlocked, status: StatusCode) {
        let now = self.clock.now();
        let (said, _under_way) = unlocked.attempt().unwrap().answered(status);
        match said {
            Said::Failed(failure) => drop(self.needs.locks.fail(&failure, now)),
            Said::Succeeded(success) => self.needs.locks.succeed(&success, now),
            Said::Nothing => {}
        }
    }

    /// A login with a right or a wrong password; refused for how many seconds.
    fn log_in(&self, account: &str, network: IpAddr, status: u16) -> Result<(), u64> {
        let unlocked = self.ask(account, network).map_err(|deny| wait_s(&deny))?;
        self.settle(unlocked, StatusCode::from_u16(status).unwrap());
        Ok(())
    }

    fn fail(&self, account: &str, network: &str, times: usize) {
        for n in 0..times {
            assert_eq!(self.log_in(account, ip(network), 401), Ok(()), "failure {n} of {account} from {network}");
        }
    }

    fn advance_s(&self, seconds: u64) {
        self.clock.advance(seconds * SECOND);
    }
}

/// What `Retry-After` says.
fn wait_s(deny: &Deny) -> u64 {
    let mut headers = HeaderMap::new();
    deny.headers(&mut headers);
    headers[RETRY_AFTER].to_str().unwrap().parse().unwrap()
}
