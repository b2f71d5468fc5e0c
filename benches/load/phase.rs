//! One measurement of one proxy: open the lanes, warm up, read the account, wait, read it again.

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use portcullis_benches::{
    account::{CpuTime, resident_kib},
    number::float,
    pace,
};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc},
    task::JoinSet,
};

use crate::{
    client::{Lane, Target},
    flags::Flags,
};

/// What is still on its way when a measurement ends gets this long.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Latencies are kept up to a minute, with three digits.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// After this many errors in a row a lane gives up.
const ERRORS_MAX: u32 = 20;

/// How requests are spaced.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// The next when the answer is there.
    Closed,
    /// So many a second, whether answers come or not.
    Open(u32),
}

/// What one measurement found.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// Answers per second.
    pub(crate) per_second: f64,
    /// CPU of the proxy per answer, in microseconds.
    pub(crate) cpu_us: f64,
    /// CPUs that the proxy kept busy.
    pub(crate) busy: f64,
    /// Latency in nanoseconds, of the open loop.
    pub(crate) latency: Histogram<u64>,
    /// Resident memory of the proxy at the end.
    pub(crate) rss_kib: u64,
    /// Exchanges that failed, and why the first one did.
    pub(crate) failed: u64,
    pub(crate) first_error: Option<String>,
}

/// What the lanes of a measurement share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    measuring: AtomicBool,
    answers: AtomicU64,
    failed: AtomicU64,
    first_error: Mutex<Option<String>>,
}

impl Shared {
    fn fail(&self, error: &anyhow::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut first) = self.first_error.lock() {
            first.get_or_insert_with(|| format!("{error:#}"));
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// When each request of an open loop is due. All lanes take from one queue, so a slow answer holds up one lane only.
type Due = Arc<AsyncMutex<mpsc::UnboundedReceiver<Instant>>>;

/// Measures one proxy.
pub(crate) async fn measure(target: &Target, pid: u32, flags: &Flags, pace: Pace) -> anyhow::Result<Measured> {
    let lanes = target.lanes(flags.connections, flags.streams).await?;
    let shared = Arc::new(Shared::default());
    let mut tasks = JoinSet::new();
    match pace {
        Pace::Closed => {
            for lane in lanes {
                tasks.spawn(closed(lane, Arc::clone(&shared)));
            }
        }
        Pace::Open(rate) => {
            let (sender, receiver) = mpsc::unbounded_channel();
            let due = Arc::new(AsyncMutex::new(receiver));
            for lane in lanes {
                tasks.spawn(open(lane, Arc::clone(&shared), Arc::clone(&due)));
            }
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("pace".to_owned()).spawn(move || keep_pace(rate, &sender, &shared))?;
        }
    }

    tokio::time::sleep(Duration::from_secs_f64(flags.warmup)).await;
    shared.measuring.store(true, Ordering::Relaxed);
    let (cpu, answers, start) = (CpuTime::read(pid)?, shared.answers.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(Duration::from_secs_f64(flags.seconds)).await;
    let cpu = CpuTime::read(pid)?.since(&cpu).as_secs_f64();
    let answers = shared.answers.load(Ordering::Relaxed).saturating_sub(answers);
    let seconds = start.elapsed().as_secs_f64();
    shared.measuring.store(false, Ordering::Relaxed);
    shared.stop.store(true, Ordering::Relaxed);
    let rss_kib = resident_kib(pid)?;

    let latency = drain(tasks, &shared).await?;
    let first_error = shared.first_error.lock().ok().and_then(|mut first| first.take());
    if answers == 0 {
        bail!("no answer at all: {}", first_error.unwrap_or_else(|| "the proxy is silent".to_owned()));
    }
    Ok(Measured {
        per_second: float(answers) / seconds,
        cpu_us: cpu * 1e6 / float(answers),
        busy: cpu / seconds,
        latency,
        rss_kib,
        failed: shared.failed.load(Ordering::Relaxed),
        first_error,
    })
}

/// Waits for the lanes and adds their latencies up. A lane that does not end in time counts as failed.
async fn drain(mut tasks: JoinSet<Option<Histogram<u64>>>, shared: &Shared) -> anyhow::Result<Histogram<u64>> {
    let mut latency = histogram()?;
    let all = async {
        while let Some(lane) = tasks.join_next().await {
            if let Some(of_lane) = lane.context("a lane failed")? {
                latency.add(of_lane)?;
            }
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(DRAIN_MAX, all).await {
        Ok(result) => result?,
        Err(_) => shared.fail(&anyhow::anyhow!("no answer within {} s", DRAIN_MAX.as_secs())),
    }
    tasks.shutdown().await;
    Ok(latency)
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1_000, LATENCY_MAX_NS, 3).map_err(|error| anyhow::anyhow!("histogram: {error}"))
}

/// Requests without a pause.
async fn closed(mut lane: Lane, shared: Arc<Shared>) -> Option<Histogram<u64>> {
    let mut errors = 0_u32;
    while !shared.stopped() && errors < ERRORS_MAX {
        errors = exchange(&mut lane, &shared, errors).await;
    }
    // A closed loop measures its own waiting, so its latencies say nothing.
    None
}

/// Requests when they are due. Latency counts from then.
async fn open(mut lane: Lane, shared: Arc<Shared>, due: Due) -> Option<Histogram<u64>> {
    let mut latency = histogram().ok()?;
    let mut errors = 0_u32;
    while errors < ERRORS_MAX {
        let Some(at) = due.lock().await.recv().await else { break };
        if shared.stopped() {
            break;
        }
        let measuring = shared.measuring.load(Ordering::Relaxed);
        errors = exchange(&mut lane, &shared, errors).await;
        if measuring && errors == 0 {
            latency.saturating_record(u64::try_from(at.elapsed().as_nanos()).unwrap_or(LATENCY_MAX_NS));
        }
    }
    Some(latency)
}

/// One exchange; the number of errors in a row afterwards.
async fn exchange(lane: &mut Lane, shared: &Shared, errors: u32) -> u32 {
    match lane.exchange().await {
        Ok(()) => {
            shared.answers.fetch_add(1, Ordering::Relaxed);
            0
        }
        Err(error) => {
            shared.fail(&error);
            if let Err(error) = lane.reopen().await {
                shared.fail(&error);
            }
            errors.saturating_add(1)
        }
    }
}

/// Says when a request is due.
fn keep_pace(rate: u32, sender: &mpsc::UnboundedSender<Instant>, shared: &Shared) {
    pace::keep(Instant::now(), pace::evenly(rate), |at| {
        if shared.stopped() || sender.send(at).is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
}
