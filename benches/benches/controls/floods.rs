//! Many keys: what a bucket costs among a million, and what ten million strangers do to memory and to those who were
//! there before.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::Instant,
};

use anyhow::{Context, ensure};
use portcullis_api::{Micros, Millis};
use portcullis_benches::Suite;
use portcullis_plugins::{
    bans::BanTable,
    rate_limit::{Answer, KEYS_MAX, Rate, Table},
    waf,
};

/// Keys of the flood.
const STRANGERS: u64 = 10_000_000;
/// In which they come.
const MINUTE: Micros = 60_000_000;
/// What may be taken beside the tables, whose memory is taken before.
const GROWTH_MAX_KB: u64 = 4_096;
const NOW: Micros = 3_600_000_000;

/// Keys as the gateway makes them: nobody outside chooses where they fall.
struct Keys(RandomState, RandomState);

impl Keys {
    fn of(&self, n: u64) -> u128 {
        (u128::from(self.0.hash_one(n) << 8) << 64) | u128::from(self.1.hash_one(n))
    }
}

fn rate(requests: u32, window: Millis) -> anyhow::Result<Rate> {
    let requests = NonZeroU32::new(requests).context("no requests")?;
    Ok(Rate::new(requests, window, requests)?)
}

/// One bucket among a thousand, a hundred thousand and a million that are in use.
pub(crate) fn live_keys(suite: &mut Suite) -> anyhow::Result<()> {
    let keys = Keys(RandomState::new(), RandomState::new());
    // A day's rate: no bucket fills again while the bench looks.
    let rate = rate(1_000_000, Millis::from_secs(86_400))?;
    for (live, keys_max) in [(1_000_u64, KEYS_MAX), (100_000, 1 << 18), (1_000_000, 1 << 21)] {
        let table = Table::new(keys_max);
        for n in 0..live {
            ensure!(table.take_one(NOW, keys.of(n), rate).answer == Answer::Charged, "{n} of {live}");
        }
        // At half of the slots in use one set in some hundred is full.
        ensure!(table.crowded().saturating_mul(500) <= live, "{} of {live} keys are crowded", table.crowded());
        let mut n = 0_u64;
        suite.bench(&format!("table: {live} keys in use, {keys_max} slots of 21 bytes"), None, || {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            table.take_one(NOW, keys.of((n >> 33).checked_rem(live).unwrap_or(0)), rate)
        })?;
    }
    Ok(())
}

/// Ten million keys in a minute, over clients that are refused, and blocked, from before.
pub(crate) fn strangers() -> anyhow::Result<()> {
    let keys = Keys(RandomState::new(), RandomState::new());
    for (name, rate) in [
        ("10 a second", rate(10, Millis::from_secs(1))?),
        ("100 a minute", rate(100, Millis::from_secs(60))?),
        ("1000 a day", rate(1_000, Millis::from_secs(86_400))?),
    ] {
        let (table, neighbour) = (Table::new(KEYS_MAX), Table::new(KEYS_MAX));
        let refused = keys.of(u64::MAX);
        while table.take_one(NOW, refused, rate).answer == Answer::Charged {}
        let before = resident_kb()?;
        let start = Instant::now();
        let mut freed = 0_u32;
        for n in 0..STRANGERS {
            let at = NOW.saturating_add(n.saturating_mul(MINUTE).checked_div(STRANGERS).unwrap_or(0));
            let _ = table.take_one(at, keys.of(n), rate);
            // The one who was refused goes on asking, faster than his limit.
            if n.is_multiple_of(100) {
                freed = freed.saturating_add(u32::from(table.take_one(at, refused, rate).answer == Answer::Charged));
            }
        }
        let took = start.elapsed();
        let grown = resident_kb()?.saturating_sub(before);
        let flowed_in = MINUTE.checked_div(rate.interval()).unwrap_or(0).saturating_add(1);
        ensure!(u64::from(freed) <= flowed_in, "{name}: {freed} requests where {flowed_in} flowed in");
        ensure!(grown <= GROWTH_MAX_KB, "{name}: {grown} kB more");
        let newcomer = table.take_one(NOW.saturating_add(MINUTE), keys.of(u64::MAX - 1), rate).remaining;
        let other = neighbour.take_one(NOW.saturating_add(MINUTE), keys.of(1), rate).remaining;
        ensure!(other == rate.burst().saturating_sub(1), "another limit pays for the flood");
        writeln!(
            io::stdout(),
            "| flood: 10 million keys, {name}: {} ns each, {grown} kB more, {} checks crowded; refused one had {freed} of \
             {flowed_in}; newcomer has {newcomer} of {} left | | | | |",
            took.as_nanos().checked_div(u128::from(STRANGERS)).unwrap_or(0),
            table.crowded(),
            rate.burst(),
        )?;
    }
    blocked()
}

/// Ten million clients with a violation each, over one who is blocked.
fn blocked() -> anyhow::Result<()> {
    let table = BanTable::new(&waf::Violations::default(), RandomState::new());
    let blocked: IpAddr = "192.0.2.1".parse()?;
    while table.record(blocked, "waf.urls", NOW).is_none() {}
    // What the table may take is taken once the flood has filled it.
    let flood = |from: u64, to: u64| {
        for n in from..to {
            let client = IpAddr::V6(Ipv6Addr::from(u128::from(n) << 64));
            let _ = table.record(client, "waf.urls", NOW.saturating_add(n.checked_div(1_000).unwrap_or(0)));
        }
    };
    flood(0, 1_000_000);
    let before = resident_kb()?;
    let start = Instant::now();
    flood(1_000_000, STRANGERS);
    let took = start.elapsed();
    let grown = resident_kb()?.saturating_sub(before);
    ensure!(table.active(blocked, NOW.saturating_add(1)).is_some(), "the flood has freed a blocked client");
    ensure!(table.lost() == 0 && grown <= GROWTH_MAX_KB, "{} blocks lost, {grown} kB more", table.lost());
    writeln!(
        io::stdout(),
        "| flood: 10 million clients with a violation each: {} ns each, {grown} kB more than after the first million, the \
         blocked one stays blocked | | | | |",
        took.as_nanos().checked_div(9_000_000).unwrap_or(0),
    )?;
    Ok(())
}

fn resident_kb() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
