//! `bounds`: what is admitted, refused and spent where the store is well. Every way of counting takes its turn in every
//! round, in front of the same upstream, with the same requests.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use portcullis_benches::{
    aim::sorted,
    number::{float, rounded},
    redis_server::{Server, Work},
};

use crate::{
    bounds_table::{Report, Section},
    client::{Client, Outcome},
    flags::{Flags, ShapeName},
    fleet::{Fleet, OPEN, Store, World},
    judge::{Answer, Judged, Limit, Seen},
    limit::{Counting, GATEWAYS, Limited, Numbers},
    plan::{Keys, Plan, Stream},
};

/// Requests per second where the machine can do twice as many.
const RATE: u32 = 3_000;
/// Traffic before each measurement, on keys of its own: connections and caches are warm, buckets are not.
const WARM_UP: Duration = Duration::from_millis(400);
/// Longer than a busy machine holds the store up: what is measured is how it is counted, and a check that is late is
/// counted by shares. What the deadline does is measured by `faults`.
const DEADLINE: Duration = Duration::from_secs(1);
/// How long the store is watched without a request, for what gateways ask it anyway.
const IDLE: Duration = Duration::from_secs(3);

/// A limit and how requests are spread over its keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: ShapeName,
    pub(crate) title: &'static str,
    pub(crate) numbers: Numbers,
    pub(crate) keys: u32,
    /// Limits of these numbers on the route.
    pub(crate) limits: u32,
    /// Turns are so many times shorter and more: where nothing is refused only the cost is of interest, and that is
    /// compared best between turns that are near to each other.
    pub(crate) cut: u32,
}

const fn per(requests: u32, seconds: u64) -> Numbers {
    Numbers { requests, window: Duration::from_secs(seconds), burst: requests }
}

/// Weights of the keys fall with this power of their number.
pub(crate) const SKEW: f64 = 1.1;
/// The first three leave a part of the requests out, as limits of clients do; the last two, as sums of whole tenants, do not.
const SHAPES: [Shape; 5] = [
    Shape {
        name: ShapeName::Small,
        title: "10/s, burst 10, 1,000 keys",
        numbers: per(10, 1),
        keys: 1_000,
        limits: 1,
        cut: 1,
    },
    Shape {
        name: ShapeName::Minute,
        title: "1,000/min, burst 1,000, 20 keys",
        numbers: per(1_000, 60),
        keys: 20,
        limits: 1,
        cut: 1,
    },
    Shape {
        name: ShapeName::Hot,
        title: "200/s, burst 200, 50 keys",
        numbers: per(200, 1),
        keys: 50,
        limits: 1,
        cut: 1,
    },
    Shape {
        name: ShapeName::Sums,
        title: "2,000/s, burst 2,000, 3 keys",
        numbers: per(2_000, 1),
        keys: 3,
        limits: 1,
        cut: 4,
    },
    Shape {
        name: ShapeName::Three,
        title: "three limits of 2,000/s, burst 2,000, 3 keys",
        numbers: per(2_000, 1),
        keys: 3,
        limits: 3,
        cut: 4,
    },
];

/// What one measurement of one way of counting found.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) judged: Judged,
    pub(crate) work: Work,
    /// CPU of the gateways, in microseconds.
    pub(crate) cpu_us: f64,
    /// Of the answers of the upstream, sorted, in microseconds.
    pub(crate) latencies: Vec<f64>,
    /// How late requests went out, sorted, in microseconds.
    pub(crate) late: Vec<f64>,
    /// Checks that the store did not decide in time.
    pub(crate) undecided: f64,
}

/// What was measured of each way of counting, round by round.
pub(crate) type Rounds = BTreeMap<Counting, Vec<Measured>>;

/// Both fleets and their store.
struct Bench {
    server: Server,
    shared: Fleet,
    apart: Fleet,
    idle: Work,
}

/// Everything, in order.
pub(crate) async fn run(flags: &Flags, world: &World<'_>) -> anyhow::Result<Report> {
    let server = Server::start(world.folder)?;
    let stores = [Store::Redis { address: server.address, deadline: DEADLINE }; 3];
    let shared =
        Fleet::start(world, "shared", &stores, &limits(&[Counting::Local, Counting::Leased, Counting::Exact]))?;
    let apart = Fleet::start(world, "apart", &[Store::Memory { keys_max: None }; 3], &limits(&[Counting::Memory]))?;
    let mut bench = Bench { server, shared, apart, idle: Work::default() };

    let rate = match flags.rate {
        Some(rate) => rate,
        None => bench.sustained(flags).await?,
    };
    let before = bench.server.account()?;
    tokio::time::sleep(flags.pause(IDLE)).await;
    bench.idle = bench.server.account()?.since(&before, Work::default());
    let mut sections = Vec::new();
    for shape in SHAPES.into_iter().filter(|shape| flags.shapes.contains(&shape.name)) {
        writeln!(io::stderr(), "bounds: {}", shape.title)?;
        let rounds = bench.in_turns(flags, shape, rate).await.with_context(|| bench.shared.last_words())?;
        sections.push(Section { shape, rounds });
    }
    Ok(Report { rate, seconds: flags.seconds, rounds: flags.rounds, sections, idle: bench.idle })
}

impl Bench {
    fn fleet(&self, counting: Counting) -> &Fleet {
        match counting {
            Counting::Memory => &self.apart,
            Counting::Nothing | Counting::Local | Counting::Leased | Counting::Exact => &self.shared,
        }
    }

    /// Half of what the gateways answer without a limit, where that is less than [`RATE`]: above it a queue would
    /// measure the machine. In hundreds.
    async fn sustained(&self, flags: &Flags) -> anyhow::Result<u32> {
        let stream =
            Stream { path: format!("/{OPEN}").into(), keys: keys("sustained", 100), rate: RATE * 10, gateway: None };
        let plan = Arc::new(Plan::draw(vec![stream], Duration::from_millis(200), GATEWAYS, flags.seed));
        let mut client = Client::connect(&self.shared.addresses(), flags.connections).await?;
        client.run(&plan, Instant::now()).await?;
        let start = Instant::now();
        client.run(&plan, start).await?;
        let per_second = float(u64::try_from(plan.requests.len())?) / start.elapsed().as_secs_f64();
        let hundreds = rounded((per_second / 200.0).floor()).saturating_mul(100);
        ensure!(hundreds > 0, "{per_second:.0} requests per second are too few to measure anything");
        Ok(hundreds.min(RATE))
    }

    /// Every way of counting once in each round. The order turns, so that none always comes after the same one.
    async fn in_turns(&self, flags: &Flags, shape: Shape, rate: u32) -> anyhow::Result<Rounds> {
        let mut rounds = Rounds::new();
        for round in 0..flags.rounds.saturating_mul(shape.cut) {
            let mut order = Counting::ALL;
            let shift = usize::try_from(round)?.checked_rem(order.len()).unwrap_or(0);
            order.rotate_left(shift);
            for counting in order {
                let measured = self.measure(flags, shape, counting, rate, round).await;
                let measured = measured.with_context(|| format!("{}, {}", shape.title, counting.name()))?;
                rounds.entry(counting).or_default().push(measured);
            }
        }
        Ok(rounds)
    }

    async fn measure(
        &self,
        flags: &Flags,
        shape: Shape,
        counting: Counting,
        rate: u32,
        round: u32,
    ) -> anyhow::Result<Measured> {
        let fleet = self.fleet(counting);
        let draw = |what: &str, length| {
            let keys = keys(&format!("{what}-{}-{}-{round}", shape.name, counting.word()), shape.keys);
            let stream = Stream { path: path(shape, counting).into(), keys, rate, gateway: None };
            Arc::new(Plan::draw(vec![stream], length, GATEWAYS, flags.seed.wrapping_add(u64::from(round))))
        };
        let length = Duration::from_secs_f64(flags.seconds / f64::from(shape.cut));
        let (warm_up, plan) = (draw("warm", flags.pause(WARM_UP)), draw("run", length));
        let mut client = Client::connect(&fleet.addresses(), flags.connections).await?;
        client.run(&warm_up, Instant::now()).await?;

        let undecided = fleet.undecided()?;
        let (account, cpu) = (self.server.account()?, fleet.cpu()?);
        let outcomes = client.run(&plan, Instant::now()).await?;
        let cpu_us = fleet.cpu_us_since(&cpu)?;
        let work = self.server.account()?.since(&account, self.idle);
        let limit = match counting {
            Counting::Nothing => None,
            Counting::Memory | Counting::Local | Counting::Leased | Counting::Exact => {
                Some(shape.numbers.judged(counting))
            }
        };
        Ok(Measured {
            judged: judged(limit, &outcomes)?,
            work,
            cpu_us,
            latencies: sorted(outcomes.iter().filter(|outcome| outcome.status == 200).map(Outcome::latency_us)),
            undecided: fleet.undecided()? - undecided,
            late: sorted(outcomes.iter().map(Outcome::late_us)),
        })
    }
}

fn judged(limit: Option<Limit>, outcomes: &[Outcome]) -> anyhow::Result<Judged> {
    let seen = outcomes.iter().map(|outcome| {
        let answer = match outcome.status {
            200 => Answer::Admitted,
            429 => Answer::Refused,
            other => anyhow::bail!("an answer with status {other}, where the store is well"),
        };
        Ok(Seen { key: outcome.planned.key, sent: outcome.sent, received: outcome.received, answer })
    });
    let seen = seen.collect::<anyhow::Result<Vec<_>>>()?;
    let Some(limit) = limit else {
        ensure!(seen.iter().all(|one| one.answer == Answer::Admitted), "a refusal where there is no limit");
        let all = u64::try_from(seen.len())?;
        return Ok(Judged { offered: all, admitted: all, ideal: all, ..Judged::default() });
    };
    Ok(Judged::of(limit, &seen))
}

fn keys(prefix: &str, count: u32) -> Keys {
    Keys { prefix: prefix.to_owned(), count, skew: SKEW }
}

fn limits(countings: &[Counting]) -> Vec<Limited> {
    let pairs = SHAPES.iter().flat_map(|shape| countings.iter().map(move |counting| (shape, *counting)));
    pairs
        .map(|(shape, counting)| Limited {
            name: format!("{}-{}", shape.name, counting.word()),
            limits: shape.limits,
            numbers: if counting == Counting::Memory { shape.numbers.share() } else { shape.numbers },
            more: match counting {
                Counting::Nothing | Counting::Memory => String::new(),
                Counting::Local | Counting::Leased | Counting::Exact => {
                    format!("consistency = \"{}\"", counting.word())
                }
            },
        })
        .collect()
}

fn path(shape: Shape, counting: Counting) -> String {
    match counting {
        Counting::Nothing => format!("/{OPEN}"),
        Counting::Memory | Counting::Local | Counting::Leased | Counting::Exact => {
            format!("/{}-{}", shape.name, counting.word())
        }
    }
}
