//! `faults`: what each posture does while the store is away, and when it is back. All three postures are asked at the
//! same time, each on a route of its own, so that one fault shows all of them.

use std::{
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use portcullis_benches::redis_server::Server;

use crate::{
    client::{Client, Outcome},
    detour::{Detour, Way},
    faults_table::{Report, Timeline},
    flags::Flags,
    fleet::{Fleet, Store, World},
    limit::{GATEWAYS, Limited, Numbers},
    plan::{Keys, Plan, Stream},
};

/// How long a check may wait for the store: the default of the gateway.
pub(crate) const DEADLINE: Duration = Duration::from_millis(25);
/// How much too late an answer of the store comes.
const LATE: Duration = Duration::from_millis(50);
/// Half as many again are offered as the limit admits.
pub(crate) const NUMBERS: Numbers = Numbers { requests: 20, window: Duration::from_secs(1), burst: 20 };
const OFFERED_PER_KEY: u32 = 30;
/// Between two faults, for the gateways to find that all is well.
const REST: Duration = Duration::from_millis(1_500);

/// What a limit does while the store is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Posture {
    LocalShare,
    Deny,
    Allow,
}

impl Posture {
    pub(crate) const ALL: [Self; 3] = [Self::LocalShare, Self::Deny, Self::Allow];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::LocalShare => "local_share",
            Self::Deny => "deny",
            Self::Allow => "allow",
        }
    }

    fn limited(self) -> Limited {
        let posture = match self {
            Self::LocalShare => "\"local_share\"",
            Self::Deny => "\"deny\"",
            Self::Allow => "{ allow = \"measured\" }",
        };
        Limited {
            name: self.word().to_owned(),
            limits: 1,
            numbers: NUMBERS,
            more: format!("on_store_failure = {posture}"),
        }
    }
}

/// What happens to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Late,
    CutOff,
    Pause,
    Full,
    Stop,
    Kill,
}

impl Fault {
    const ALL: [Self; 6] = [Self::Late, Self::CutOff, Self::Pause, Self::Full, Self::Stop, Self::Kill];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Late => "every answer 50 ms late",
            Self::CutOff => "one of three gateways cut off",
            Self::Pause => "`CLIENT PAUSE`",
            Self::Full => "`maxmemory` full",
            Self::Stop => "`kill -STOP`, then `CONT`",
            Self::Kill => "`kill -9`, then started empty",
        }
    }

    fn begin(self, length: Duration, server: &mut Server, detours: &[Detour]) -> anyhow::Result<()> {
        match self {
            Self::Late => detours.iter().for_each(|detour| detour.set(Way::Late(LATE))),
            Self::CutOff => detours.first().into_iter().for_each(|detour| detour.set(Way::Cut)),
            // Ends by itself: nothing that the server is told meanwhile is heard.
            Self::Pause => server.command::<()>(&["CLIENT", "PAUSE", &length.as_millis().to_string(), "ALL"])?,
            Self::Full => {
                server.command::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])?;
                server.command::<()>(&["CONFIG", "SET", "maxmemory", "1"])?;
            }
            Self::Stop => server.signal("STOP")?,
            Self::Kill => server.kill(),
        }
        Ok(())
    }

    fn mend(self, server: &mut Server, detours: &[Detour]) -> anyhow::Result<()> {
        match self {
            Self::Late | Self::CutOff => detours.iter().for_each(|detour| detour.set(Way::Open)),
            Self::Pause => {}
            Self::Full => server.command::<()>(&["CONFIG", "SET", "maxmemory", "0"])?,
            Self::Stop => server.signal("CONT")?,
            Self::Kill => server.restart()?,
        }
        Ok(())
    }
}

/// Everything, in order.
pub(crate) async fn run(flags: &Flags, world: &World<'_>) -> anyhow::Result<Report> {
    let mut server = Server::start(world.folder)?;
    let mut detours = Vec::new();
    for _ in 0..GATEWAYS {
        detours.push(Detour::start(server.address).await?);
    }
    let stores: Vec<Store> =
        detours.iter().map(|detour| Store::Redis { address: detour.address, deadline: DEADLINE }).collect();
    let fleet = Fleet::start(world, "faults", &stores, &Posture::ALL.map(Posture::limited))?;
    let mut timelines = Vec::new();
    for fault in Fault::ALL {
        writeln!(io::stderr(), "faults: {}", fault.title())?;
        tokio::time::sleep(flags.pause(REST)).await;
        let timeline = one(flags, fault, &mut server, &detours, &fleet).await;
        timelines.push(timeline.with_context(|| format!("{}:\n{}", fault.title(), fleet.last_words()))?);
    }
    Ok(Report { rate: flags.fault_rate, seconds: flags.fault_seconds, timelines })
}

/// Traffic without a pause: half the time of the fault all is well, then it lasts, then two thirds of its time all is
/// well again.
async fn one(
    flags: &Flags,
    fault: Fault,
    server: &mut Server,
    detours: &[Detour],
    fleet: &Fleet,
) -> anyhow::Result<Timeline> {
    let lasts = Duration::from_secs_f64(flags.fault_seconds);
    let (before, after) = (lasts.mul_f64(0.5), lasts.mul_f64(2.0 / 3.0));
    let rate = flags.fault_rate / 3;
    let streams = Posture::ALL.map(|posture| Stream {
        path: posture.limited().path().into(),
        keys: Keys { prefix: format!("{fault:?}"), count: (rate / OFFERED_PER_KEY).max(1), skew: 0.0 },
        rate,
        gateway: None,
    });
    let length = before.saturating_add(lasts).saturating_add(after);
    let plan = Arc::new(Plan::draw(streams.into(), length, GATEWAYS, flags.seed));
    let mut client = Client::connect(&fleet.addresses(), flags.connections).await?;

    let start = Instant::now();
    let at = |after: Duration| start.checked_add(after).context("clock");
    // Lanes and detours run on the runtime's own threads: this one may wait for the server.
    let script = async {
        tokio::time::sleep_until(at(before)?.into()).await;
        let broken = start.elapsed();
        fault.begin(lasts, server, detours)?;
        tokio::time::sleep_until(at(broken.saturating_add(lasts))?.into()).await;
        let mended = start.elapsed();
        fault.mend(server, detours)?;
        anyhow::Ok((nanos(broken), nanos(mended)))
    };
    let (outcomes, moments) = tokio::join!(client.run(&plan, start), script);
    let (broken, mended) = moments?;
    let outcomes = outcomes?;
    ensure!(outcomes.iter().any(|outcome| outcome.due > mended), "nothing was sent after the fault");
    Ok(Timeline { fault, broken, mended, outcomes: by_posture(&outcomes)? })
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn by_posture(outcomes: &[Outcome]) -> anyhow::Result<Vec<(Posture, Vec<Outcome>)>> {
    let mut all = Vec::new();
    for (number, posture) in Posture::ALL.into_iter().enumerate() {
        let number = u32::try_from(number)?;
        all.push((posture, outcomes.iter().filter(|outcome| outcome.planned.stream == number).copied().collect()));
    }
    Ok(all)
}
