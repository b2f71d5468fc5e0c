//! Who sends what and when: drawn before the run from a fixed seed, so that two runs ask the same.

use std::{sync::Arc, time::Duration};

use portcullis_benches::{
    number::{float, rounded},
    pace,
};

/// A stream of requests that are spread over keys.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    /// The path of its route.
    pub(crate) path: Arc<str>,
    pub(crate) keys: Keys,
    /// Requests per second.
    pub(crate) rate: u32,
    /// The gateway that gets all of them; when none, each request meets one by chance.
    pub(crate) gateway: Option<u32>,
}

/// The keys of a stream, and how requests are spread over them.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// Keys of another prefix have buckets of their own.
    pub(crate) prefix: String,
    pub(crate) count: u32,
    /// Key number `n` comes with a weight of `1 / n^skew`: 0 for all alike.
    pub(crate) skew: f64,
}

/// One request to come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    /// After the start.
    pub(crate) at: Duration,
    /// Which of the streams.
    pub(crate) stream: u32,
    /// Which of its keys.
    pub(crate) key: u32,
    /// Which gateway.
    pub(crate) gateway: u32,
}

/// Everything that is sent in one run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) streams: Vec<Stream>,
    pub(crate) requests: Vec<Planned>,
}

impl Plan {
    /// The streams together for so long.
    pub(crate) fn draw(streams: Vec<Stream>, length: Duration, gateways: u32, seed: u64) -> Self {
        let mut requests = Vec::new();
        for (number, stream) in (0..).zip(&streams) {
            let mut random = Random(seed.wrapping_add(u64::from(number).wrapping_mul(GOLDEN)));
            let weights = stream.keys.cumulated();
            for at in pace::evenly(stream.rate).take_while(|at| *at < length) {
                let key = pick(&weights, random.unit());
                let chance = rounded((random.unit() * f64::from(gateways)).floor());
                requests.push(Planned { at, stream: number, key, gateway: stream.gateway.unwrap_or(chance) });
            }
        }
        requests.sort_by_key(|planned| planned.at);
        Self { streams, requests }
    }
}

impl Plan {
    /// One request for each of these keys of a stream that has one gateway, as fast as it answers.
    pub(crate) fn each(stream: Stream, keys: impl Iterator<Item = u32>) -> Self {
        let gateway = stream.gateway.unwrap_or(0);
        let requests = keys.map(|key| Planned { at: Duration::ZERO, stream: 0, key, gateway }).collect();
        Self { streams: vec![stream], requests }
    }
}

impl Keys {
    /// The share of the keys up to each.
    fn cumulated(&self) -> Vec<f64> {
        let mut sum = 0.0;
        let mut shares: Vec<f64> = (1..=self.count)
            .map(|n| {
                sum += f64::from(n).powf(-self.skew);
                sum
            })
            .collect();
        shares.iter_mut().for_each(|share| *share /= sum);
        shares
    }
}

fn pick(shares: &[f64], at: f64) -> u32 {
    u32::try_from(shares.partition_point(|share| *share <= at)).unwrap_or(u32::MAX)
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64: no crate for ten lines whose only task is to be the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below 1.
    fn unit(&mut self) -> f64 {
        float(self.next() >> 32) / 4_294_967_296.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(rate: u32, count: u32, skew: f64) -> Stream {
        Stream { path: "/".into(), keys: Keys { prefix: "k".to_owned(), count, skew }, rate, gateway: None }
    }

    #[test]
    fn requests_come_at_their_rate_in_order_and_reach_every_gateway_alike() {
        let plan = Plan::draw(vec![stream(300, 5, 0.0), stream(600, 5, 0.0)], Duration::from_secs(4), 3, 1);
        assert_eq!(plan.requests.len(), 3_600);
        assert!(plan.requests.is_sorted_by_key(|planned| planned.at));
        for gateway in 0..3 {
            let at = plan.requests.iter().filter(|planned| planned.gateway == gateway).count();
            assert!((1_100..1_300).contains(&at), "{at}");
        }
        for key in 0..5 {
            let of = plan.requests.iter().filter(|planned| planned.key == key).count();
            assert!((600..850).contains(&of), "{of}");
        }
    }

    #[test]
    fn a_skew_makes_the_first_key_the_busiest_and_no_key_is_out_of_range() {
        let plan = Plan::draw(vec![stream(10_000, 1_000, 1.1)], Duration::from_secs(1), 1, 2);
        let first = plan.requests.iter().filter(|planned| planned.key == 0).count();
        assert!((1_500..2_100).contains(&first), "{first}");
        assert!(plan.requests.iter().all(|planned| planned.key < 1_000));
    }

    #[test]
    fn the_same_seed_asks_the_same() {
        let draw = |seed| {
            let plan = Plan::draw(vec![stream(100, 50, 1.1)], Duration::from_secs(1), 3, seed);
            plan.requests.iter().map(|planned| (planned.key, planned.gateway)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
