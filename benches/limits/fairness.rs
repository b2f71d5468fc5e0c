//! `fairness`: one gateway, one limit, two who are counted apart. B stays well below its limit; A is first at its own
//! limit and then at ten times it. A third turn sends A's flood to another gateway on the same CPU: what B notices of
//! that is the machine's doing and not the gateway's.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use portcullis_benches::{aim::sorted, number::float, redis_server::Server};

use crate::{
    client::{Client, Outcome},
    fairness_table::Report,
    flags::Flags,
    fleet::{Fleet, Store, World},
    limit::{Limited, Numbers},
    plan::{Keys, Plan, Stream},
};

/// The limit of each of the two, and what they send.
pub(crate) const NUMBERS: Numbers = Numbers { requests: 200, window: Duration::from_secs(1), burst: 20 };
pub(crate) const B_RATE: u32 = 120;
pub(crate) const FLOOD: u32 = 10;

const WARM_UP: Duration = Duration::from_millis(300);
const TURN: Duration = Duration::from_millis(2_500);
const DEADLINE: Duration = Duration::from_secs(1);

/// What A does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turn {
    AtLimit,
    Flood,
    Elsewhere,
}

impl Turn {
    pub(crate) const ALL: [Self; 3] = [Self::AtLimit, Self::Flood, Self::Elsewhere];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::AtLimit => "A at its limit",
            Self::Flood => "A at ten times its limit",
            Self::Elsewhere => "A's flood at another gateway",
        }
    }
}

/// What one turn found.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    /// Of B: offered, admitted, and how long it waited, sorted, in microseconds.
    pub(crate) offered: u64,
    pub(crate) admitted: u64,
    pub(crate) latencies: Vec<f64>,
    /// Of A.
    pub(crate) a_admitted: u64,
    pub(crate) a_refused: u64,
    /// CPU of the first gateway, in microseconds.
    pub(crate) cpu_us: f64,
}

/// What was measured of each turn, round by round.
pub(crate) type Rounds = BTreeMap<Turn, Vec<Measured>>;

/// Everything, in order.
pub(crate) async fn run(flags: &Flags, world: &World<'_>) -> anyhow::Result<Report> {
    let server = Server::start(world.folder)?;
    let limited = Limited { name: "fair".to_owned(), limits: 1, numbers: NUMBERS, more: String::new() };
    let store = Store::Redis { address: server.address, deadline: DEADLINE };
    let fleet = Fleet::start(world, "fair", &[store; 2], std::slice::from_ref(&limited))?;
    let mut rounds = Rounds::new();
    for round in 0..flags.fair_rounds {
        writeln!(io::stderr(), "fairness: round {}", round.saturating_add(1))?;
        let mut order = Turn::ALL;
        let shift = usize::try_from(round)?.checked_rem(order.len()).unwrap_or(0);
        order.rotate_left(shift);
        for turn in order {
            let measured = one(flags, &fleet, &limited, turn, round).await;
            rounds.entry(turn).or_default().push(measured.with_context(|| fleet.last_words())?);
        }
    }
    Ok(Report { rounds, count: flags.fair_rounds, seconds: TURN.as_secs_f64() })
}

async fn one(flags: &Flags, fleet: &Fleet, limited: &Limited, turn: Turn, round: u32) -> anyhow::Result<Measured> {
    let a_rate = match turn {
        Turn::AtLimit => NUMBERS.requests,
        Turn::Flood | Turn::Elsewhere => NUMBERS.requests.saturating_mul(FLOOD),
    };
    let a_gateway = match turn {
        Turn::AtLimit | Turn::Flood => 0,
        Turn::Elsewhere => 1,
    };
    let draw = |what: &str, length| {
        let stream = |who: &str, rate, gateway| Stream {
            path: limited.path().into(),
            keys: Keys { prefix: format!("{what}-{who}-{turn:?}-{round}"), count: 1, skew: 0.0 },
            rate,
            gateway: Some(gateway),
        };
        let streams = vec![stream("a", a_rate, a_gateway), stream("b", B_RATE, 0)];
        Arc::new(Plan::draw(streams, length, 2, flags.seed.wrapping_add(u64::from(round))))
    };
    let (warm_up, plan) = (draw("warm", flags.pause(WARM_UP)), draw("run", flags.pause(TURN)));
    let mut client = Client::connect(&fleet.addresses(), flags.connections).await?;
    client.run(&warm_up, Instant::now()).await?;
    let (cpu, start) = (fleet.cpu()?, Instant::now());
    let outcomes = client.run(&plan, start).await?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu_us = fleet.cpu_us_of_first_since(&cpu)?;
    let of = |stream: u32| outcomes.iter().filter(move |outcome| outcome.planned.stream == stream);
    let with = |stream, status| u64::try_from(of(stream).filter(|outcome| outcome.status == status).count());
    ensure!(
        outcomes.iter().all(|outcome| [200, 429].contains(&outcome.status)),
        "an answer that is neither 200 nor 429, where the store is well"
    );
    Ok(Measured {
        seconds,
        offered: u64::try_from(of(1).count())?,
        admitted: with(1, 200)?,
        latencies: sorted(of(1).map(Outcome::latency_us)),
        a_admitted: with(0, 200)?,
        a_refused: with(0, 429)?,
        cpu_us,
    })
}

impl Measured {
    /// Share of its CPU that the first gateway was busy.
    pub(crate) fn busy(&self) -> f64 {
        self.cpu_us / 1e6 / self.seconds
    }

    pub(crate) fn cpu_us_per_second(&self) -> f64 {
        self.cpu_us / self.seconds
    }

    pub(crate) fn refused_per_second(&self) -> f64 {
        float(self.a_refused) / self.seconds
    }
}
