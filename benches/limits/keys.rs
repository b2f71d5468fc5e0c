//! `keys`: what live keys cost. Three gateways count in memory: one has room for all keys to come, one for the usual 65,536,
//! one is left alone. The first two get as many different keys as asked, one after the other as fast as they answer, each of
//! which stays live for the rest of the run. Before and after, C uses up its own limit among them. Then B, under a limit of
//! its own and of theirs, asks the three in turns.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use portcullis_benches::{aim::sorted, number::float};

use crate::{
    client::{Client, Outcome},
    flags::Flags,
    fleet::{Fleet, Store, World},
    keys_table::Report,
    limit::{Limited, Numbers},
    plan::{Keys, Plan, Stream},
};

/// One token comes back in six minutes: a key that was seen once stays live until the run is over.
const FLOODED: Numbers = Numbers { requests: 10, window: Duration::from_secs(3_600), burst: 10 };
/// What nobody uses up.
const CALM: Numbers = Numbers { requests: 1_000_000, window: Duration::from_secs(1), burst: 1_000_000 };
const B_RATE: u32 = 1_000;
const B_KEYS: u32 = 100;
const WARM_UP: Duration = Duration::from_millis(400);
const TURN: Duration = Duration::from_secs(2);
/// Room for buckets of a limit where nothing is written.
const PLACES: u32 = 65_536;
/// How many keys go out before the next are drawn.
const PIECE: u32 = 50_000;

/// One of the gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Alone,
    Roomy,
    Usual,
}

impl Subject {
    pub(crate) const ALL: [Self; 3] = [Self::Alone, Self::Roomy, Self::Usual];

    const fn gateway(self) -> u32 {
        match self {
            Self::Alone => 0,
            Self::Roomy => 1,
            Self::Usual => 2,
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Alone => "no keys, room for all",
            Self::Roomy => "all keys, room for all",
            Self::Usual => "all keys, room for 65,536",
        }
    }

    const fn is_flooded(self) -> bool {
        match self {
            Self::Alone => false,
            Self::Roomy | Self::Usual => true,
        }
    }
}

/// What the flood of one gateway was.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Flood {
    pub(crate) seconds: f64,
    /// Of B's and C's tables and all else, in KiB.
    pub(crate) before_kib: u64,
    pub(crate) after_kib: u64,
    /// Of C, who had used up its limit before.
    pub(crate) freed: u64,
    pub(crate) crowded: f64,
}

/// How long B waited in one turn, sorted, in microseconds.
pub(crate) type Rounds = BTreeMap<Subject, Vec<Vec<f64>>>;

/// Everything, in order.
pub(crate) async fn run(flags: &Flags, world: &World<'_>) -> anyhow::Result<Report> {
    let limited = |name: &str, numbers| Limited { name: name.to_owned(), limits: 1, numbers, more: String::new() };
    let (flooded, calm) = (limited("flooded", FLOODED), limited("calm", CALM));
    let room = flags.keys.saturating_mul(2).max(1_024);
    let stores = Subject::ALL.map(|subject| match subject {
        Subject::Alone | Subject::Roomy => Store::Memory { keys_max: Some(room) },
        Subject::Usual => Store::Memory { keys_max: None },
    });
    let fleet = Fleet::start(world, "keys", &stores, &[flooded.clone(), calm.clone()])?;
    let bench = Bench { flags, fleet: &fleet, flooded: &flooded, calm: &calm };
    let mut floods = BTreeMap::new();
    for subject in Subject::ALL.into_iter().filter(|subject| subject.is_flooded()) {
        writeln!(io::stderr(), "keys: {}", subject.title())?;
        floods.insert(subject, bench.flood(subject).await.with_context(|| fleet.last_words())?);
    }
    let mut rounds = Rounds::new();
    for round in 0..flags.fair_rounds {
        let mut order = Subject::ALL;
        let shift = usize::try_from(round)?.checked_rem(order.len()).unwrap_or(0);
        order.rotate_left(shift);
        for subject in order {
            let turn = bench.turn(subject, round).await.with_context(|| fleet.last_words())?;
            rounds.entry(subject).or_default().push(turn);
        }
    }
    let places = f64::from(room.next_power_of_two().saturating_sub(PLACES)) * 2.0;
    Ok(Report { keys: flags.keys, rate: B_RATE, places, rounds, floods })
}

struct Bench<'b> {
    flags: &'b Flags,
    fleet: &'b Fleet,
    flooded: &'b Limited,
    calm: &'b Limited,
}

impl Bench<'_> {
    fn stream(&self, limited: &Limited, prefix: &str, (count, rate): (u32, u32), subject: Subject) -> Stream {
        let keys = Keys { prefix: prefix.to_owned(), count, skew: 0.0 };
        Stream { path: limited.path().into(), keys, rate, gateway: Some(subject.gateway()) }
    }

    async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(&self.fleet.addresses(), self.flags.connections).await
    }

    async fn flood(&self, subject: Subject) -> anyhow::Result<Flood> {
        let mut client = self.client().await?;
        let burst = u64::from(FLOODED.burst);
        ensure!(self.ask_as_c(&mut client, subject).await? == burst, "C was not admitted up to its limit");
        let (gateway, start) = (subject.gateway(), Instant::now());
        let before_kib = self.fleet.resident_kib(gateway)?;
        let mut sent = 0;
        while sent < self.flags.keys {
            let end = sent.saturating_add(PIECE).min(self.flags.keys);
            let stream = self.stream(self.flooded, "flood", (self.flags.keys, 1), subject);
            let outcomes = client.run(&Arc::new(Plan::each(stream, sent..end)), Instant::now()).await?;
            ensure!(outcomes.iter().all(is_counted), "an answer to the flood that is neither 200 nor 429");
            sent = end;
        }
        Ok(Flood {
            seconds: start.elapsed().as_secs_f64(),
            before_kib,
            after_kib: self.fleet.resident_kib(gateway)?,
            freed: self.ask_as_c(&mut client, subject).await?,
            crowded: self.fleet.crowded(gateway)?,
        })
    }

    /// Twice what C may; answers how much was admitted.
    async fn ask_as_c(&self, client: &mut Client, subject: Subject) -> anyhow::Result<u64> {
        let stream = self.stream(self.flooded, "c", (1, 1), subject);
        let twice = FLOODED.burst.saturating_mul(2);
        let plan = Arc::new(Plan::each(stream, (0..twice).map(|_| 0)));
        let outcomes = client.run(&plan, Instant::now()).await?;
        ensure!(outcomes.iter().all(is_counted), "an answer to C that is neither 200 nor 429");
        Ok(u64::try_from(outcomes.iter().filter(|outcome| outcome.status == 200).count())?)
    }

    async fn turn(&self, subject: Subject, round: u32) -> anyhow::Result<Vec<f64>> {
        let mut client = self.client().await?;
        let draw = |length| {
            let stream = self.stream(self.calm, "b", (B_KEYS, B_RATE), subject);
            Arc::new(Plan::draw(vec![stream], length, 3, self.flags.seed.wrapping_add(u64::from(round))))
        };
        client.run(&draw(self.flags.pause(WARM_UP)), Instant::now()).await?;
        let outcomes = client.run(&draw(self.flags.pause(TURN)), Instant::now()).await?;
        ensure!(outcomes.iter().all(|outcome| outcome.status == 200), "B was refused");
        Ok(sorted(outcomes.iter().map(Outcome::latency_us)))
    }
}

fn is_counted(outcome: &Outcome) -> bool {
    [200, 429].contains(&outcome.status)
}

impl Flood {
    pub(crate) fn keys_per_second(&self, keys: u32) -> f64 {
        f64::from(keys) / self.seconds
    }

    pub(crate) fn grown_mib(&self) -> f64 {
        (float(self.after_kib) - float(self.before_kib)) / 1024.0
    }
}
