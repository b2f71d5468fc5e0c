//! The client: an open loop over connections to every gateway. A request goes out when it is due or, where all
//! connections to its gateway are busy, later; latency counts from when it was due.

use std::{
    fmt::Write,
    net::SocketAddr,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::{Buf, BytesMut};
use portcullis_benches::{
    pace,
    upstream::{field, find},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use crate::plan::{Plan, Planned};

/// The host of every route.
pub(crate) const HOST: &str = "limits.test";
/// The header that the limits count by.
pub(crate) const KEY: &str = "x-key";

/// Longest that anything may take: what takes longer hangs, and fails the run.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What came of one request. Times are nanoseconds since the start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) planned: Planned,
    pub(crate) due: i64,
    pub(crate) sent: i64,
    pub(crate) received: i64,
    pub(crate) status: u16,
}

impl Outcome {
    /// From when it was due, in microseconds.
    pub(crate) fn latency_us(&self) -> f64 {
        Duration::from_nanos(u64::try_from(self.received.saturating_sub(self.due)).unwrap_or(0)).as_secs_f64() * 1e6
    }

    /// How late it went out, in microseconds.
    pub(crate) fn late_us(&self) -> f64 {
        Duration::from_nanos(u64::try_from(self.sent.saturating_sub(self.due)).unwrap_or(0)).as_secs_f64() * 1e6
    }
}

/// Open connections to gateways.
pub(crate) struct Client {
    /// The idle ones, gateway by gateway.
    lanes: Vec<Vec<Lane>>,
}

type Due = Arc<Mutex<mpsc::UnboundedReceiver<(Instant, Planned)>>>;

impl Client {
    /// Connects to each gateway so many times.
    pub(crate) async fn connect(gateways: &[SocketAddr], lanes_each: u32) -> anyhow::Result<Self> {
        let mut lanes = Vec::new();
        for address in gateways {
            let mut of_gateway = Vec::new();
            for _ in 0..lanes_each {
                of_gateway.push(Lane::open(*address).await?);
            }
            lanes.push(of_gateway);
        }
        Ok(Self { lanes })
    }

    /// Sends what is planned and waits for every answer. `start` is the zero of all times.
    pub(crate) async fn run(&mut self, plan: &Arc<Plan>, start: Instant) -> anyhow::Result<Vec<Outcome>> {
        let mut tasks = JoinSet::new();
        let mut senders = Vec::new();
        for (gateway, lanes) in self.lanes.drain(..).enumerate() {
            let (sender, receiver) = mpsc::unbounded_channel();
            senders.push(sender);
            let due: Due = Arc::new(Mutex::new(receiver));
            for lane in lanes {
                tasks.spawn(lane.carry(gateway, due.clone(), plan.clone(), start));
            }
        }
        self.lanes = senders.iter().map(|_| Vec::new()).collect();
        let planned = plan.clone();
        std::thread::Builder::new().name("pace".to_owned()).spawn(move || keep_pace(&planned, start, &senders))?;
        let mut all = Vec::with_capacity(plan.requests.len());
        while let Some(ended) = tasks.join_next().await {
            let (gateway, lane, outcomes) = ended.context("a lane failed")??;
            all.extend(outcomes);
            if let Some(lanes) = self.lanes.get_mut(gateway) {
                lanes.push(lane);
            }
        }
        ensure!(all.len() == plan.requests.len(), "{} of {} requests have an outcome", all.len(), plan.requests.len());
        all.sort_by_key(|outcome| outcome.sent);
        Ok(all)
    }
}

/// The senders go with it, and the lanes end when nothing more is due.
fn keep_pace(plan: &Plan, start: Instant, senders: &[mpsc::UnboundedSender<(Instant, Planned)>]) {
    let mut requests = plan.requests.iter();
    pace::keep(start, plan.requests.iter().map(|planned| planned.at), |due| {
        let Some(planned) = requests.next() else { return ControlFlow::Break(()) };
        let sender = usize::try_from(planned.gateway).ok().and_then(|gateway| senders.get(gateway));
        match sender.map(|sender| sender.send((due, *planned))) {
            Some(Ok(())) => ControlFlow::Continue(()),
            Some(Err(_)) | None => ControlFlow::Break(()),
        }
    });
}

/// One connection.
struct Lane {
    address: SocketAddr,
    stream: TcpStream,
    output: String,
    input: BytesMut,
}

impl Lane {
    async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("connect")?;
        stream.set_nodelay(true)?;
        Ok(Self { address, stream, output: String::new(), input: BytesMut::with_capacity(8 << 10) })
    }

    /// Takes what is due at its gateway until nothing more comes.
    async fn carry(
        mut self,
        gateway: usize,
        due: Due,
        plan: Arc<Plan>,
        start: Instant,
    ) -> anyhow::Result<(usize, Self, Vec<Outcome>)> {
        let since = |at: Instant| i64::try_from(at.saturating_duration_since(start).as_nanos()).unwrap_or(i64::MAX);
        let mut outcomes = Vec::new();
        loop {
            let next = due.lock().await.recv().await;
            let Some((due, planned)) = next else { return Ok((gateway, self, outcomes)) };
            self.write_request(&plan, planned)?;
            let sent = Instant::now();
            let status = tokio::time::timeout(ANSWER_MAX, self.exchange())
                .await
                .with_context(|| format!("gateway {gateway} gave no answer within {} s", ANSWER_MAX.as_secs()))?
                .with_context(|| format!("gateway {gateway}"))?;
            let received = since(Instant::now());
            outcomes.push(Outcome { planned, due: since(due), sent: since(sent), received, status });
        }
    }

    fn write_request(&mut self, plan: &Plan, planned: Planned) -> anyhow::Result<()> {
        let stream = plan.streams.get(usize::try_from(planned.stream)?).context("no such stream")?;
        self.output.clear();
        write!(
            self.output,
            "GET {} HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: limits/1\r\naccept: application/json\r\n{KEY}: {}-{}\r\n\r\n",
            stream.path, stream.keys.prefix, planned.key
        )?;
        Ok(())
    }

    /// Sends the request and reads the whole answer.
    async fn exchange(&mut self) -> anyhow::Result<u16> {
        self.stream.write_all(self.output.as_bytes()).await.context("write")?;
        loop {
            if let Some(answer) = Answer::of(&self.input)? {
                self.input.advance(answer.length);
                if answer.closes {
                    *self = Self::open(self.address).await?;
                }
                return Ok(answer.status);
            }
            ensure!(self.stream.read_buf(&mut self.input).await.context("read")? > 0, "the connection ended early");
        }
    }
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    length: usize,
    closes: bool,
}

impl Answer {
    /// The answer that `input` starts with, or none while it is not whole.
    fn of(input: &[u8]) -> anyhow::Result<Option<Self>> {
        let Some(end) = find(input, b"\r\n\r\n") else { return Ok(None) };
        let head = input.get(..end).unwrap_or_default();
        let digits = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()).context("no status")?;
        let status = digits.parse().context("no status")?;
        let body: usize = field(head, "content-length").context("the answer has no length")?.parse()?;
        let length = end.saturating_add(4).saturating_add(body);
        let closes = field(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        Ok((length <= input.len()).then_some(Self { status, length, closes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_last_byte_and_not_before() {
        let whole = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
        for cut in 0..whole.len() {
            assert_eq!(Answer::of(&whole.as_bytes()[..cut]).unwrap(), None, "{cut}");
        }
        let answer = Answer { status: 429, length: whole.len(), closes: true };
        assert_eq!(Answer::of(whole.as_bytes()).unwrap(), Some(answer));
    }

    #[test]
    fn latency_counts_from_when_a_request_was_due() {
        let planned = Planned { at: Duration::ZERO, stream: 0, key: 0, gateway: 0 };
        let outcome = Outcome { planned, due: 1_000, sent: 31_000, received: 51_000, status: 200 };
        assert!((outcome.latency_us() - 50.0).abs() < 1e-9);
        assert!((outcome.late_us() - 30.0).abs() < 1e-9);
    }
}
