//! One run of the script: what is asked, as Redis reads it, and its answer, as it writes it.

use std::{num::NonZeroU32, sync::Arc};

use ::redis::Cmd;
use portcullis_plugins::rate_limit::{Answer, Binding, Bucket, Leasing, Level, Rate};

pub(super) const SCRIPT: &str = include_str!("../take.lua");

/// The buckets of one request, on their own: they may be asked for after the request gave up.
#[derive(Debug)]
pub(super) struct Ask(Vec<Asked>);

/// What is wanted of one bucket.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) name: Arc<str>,
    pub(super) key: u128,
    pub(super) rate: Rate,
    pub(super) leasing: Leasing,
    want: Want,
    /// For how many requests besides.
    pub(super) ahead: u32,
}

/// What is to be taken of one bucket for requests to come.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) name: Arc<str>,
    pub(super) key: u128,
    pub(super) rate: Rate,
    pub(super) requests: NonZeroU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Together,
    Alone,
    /// No request waits: only what is taken ahead.
    Ahead,
}

impl Ask {
    /// For a request.
    pub(super) fn of(buckets: &[Bucket<'_>], keys: &str) -> Self {
        Self(buckets.iter().map(|bucket| Asked::of(bucket, keys, 0)).collect())
    }

    /// For a request, and besides for as many as stand beside each bucket.
    pub(super) fn with_ahead(buckets: &[(usize, Bucket<'_>, u32)], keys: &str) -> Self {
        Self(buckets.iter().map(|(_, bucket, ahead)| Asked::of(bucket, keys, *ahead)).collect())
    }

    /// For requests to come.
    pub(super) fn ahead(buckets: Vec<Ahead>) -> Self {
        Self(buckets.into_iter().map(Asked::ahead).collect())
    }

    pub(super) fn buckets(&self) -> &[Asked] {
        &self.0
    }
}

impl Asked {
    fn ahead(Ahead { name, key, rate, requests }: Ahead) -> Self {
        Self { name, key, rate, leasing: Leasing::Allowed, want: Want::Ahead, ahead: requests.get() }
    }

    /// Whether a request waits for the answer.
    pub(super) fn is_for_request(&self) -> bool {
        self.want != Want::Ahead
    }

    fn of(bucket: &Bucket<'_>, keys: &str, ahead: u32) -> Self {
        let want = match bucket.binding {
            Binding::Together => Want::Together,
            Binding::Alone => Want::Alone,
        };
        let Bucket { rule: _, key, rate, binding: _, leasing } = *bucket;
        Self { name: self::key(bucket, keys).into(), key, rate, leasing, want, ahead }
    }
}

/// `PREFIXrule:hash`.
pub(super) fn key(bucket: &Bucket<'_>, keys: &str) -> String {
    format!("{keys}{}:{:032x}", bucket.rule, bucket.key)
}

/// The command for a batch. `instances` gateways share what is left of a bucket. `clock` is a test's, in
/// microseconds.
pub(super) fn command(verb: &str, script: &str, batch: &[&Ask], instances: NonZeroU32, clock: Option<u64>) -> Cmd {
    let mut command = ::redis::cmd(verb);
    command.arg(script).arg(batch.iter().map(|ask| ask.0.len()).sum::<usize>());
    for asked in batch.iter().flat_map(|ask| &ask.0) {
        command.arg(&*asked.name);
    }
    command.arg(clock.map_or_else(String::new, |micros| micros.to_string())).arg(instances.get());
    for ask in batch {
        command.arg(ask.0.len());
        for Asked { name: _, key: _, rate, leasing: _, want, ahead } in &ask.0 {
            let want = match want {
                Want::Together => "t",
                Want::Alone => "a",
                Want::Ahead => "l",
            };
            command.arg(rate.interval()).arg(rate.burst()).arg(rate.cost()).arg(want).arg(*ahead);
        }
    }
    command
}

/// How a bucket stands, and for how many requests tokens were given ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) level: Level,
    pub(super) ahead: u32,
}

/// Five integers a bucket, call after call; anything else is no answer.
pub(super) fn given(reply: &[i64], batch: &[&Ask]) -> Option<Vec<Vec<Given>>> {
    let (mut fives, rest) = reply.as_chunks::<5>();
    let mut answers = Vec::with_capacity(batch.len());
    for ask in batch {
        let (mine, others) = fives.split_at_checked(ask.0.len())?;
        answers.push(mine.iter().map(one).collect::<Option<_>>()?);
        fives = others;
    }
    (fives.is_empty() && rest.is_empty()).then_some(answers)
}

fn one(&[answer, ahead, remaining, retry_after, reset_after]: &[i64; 5]) -> Option<Given> {
    let level = Level {
        answer: match answer {
            0 => Answer::Spared,
            1 => Answer::Charged,
            2 => Answer::Short,
            _ => return None,
        },
        remaining: u32::try_from(remaining).ok()?,
        retry_after: u64::try_from(retry_after).ok()?,
        reset_after: u64::try_from(reset_after).ok()?,
    };
    Some(Given { level, ahead: u32::try_from(ahead).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_another_length_or_another_word_is_none() {
        let ask = |n: u128| {
            let bucket = crate::stores::redis::tests::bucket("r", n, 10);
            Ask::of(&[bucket], "p:")
        };
        let (one, two) = (ask(1), ask(2));
        let good = [1, 3, 9, 0, 100, 2, 0, 0, 7, 100];
        let answers = given(&good, &[&one, &two]).unwrap();
        assert_eq!((answers[0][0].level.answer, answers[1][0].level.answer), (Answer::Charged, Answer::Short));
        assert_eq!((answers[1][0].level.retry_after, answers[0][0].level.remaining), (7, 9));
        assert_eq!((answers[0][0].ahead, answers[1][0].ahead), (3, 0));
        let another = |at: usize, value| {
            let mut reply = good;
            reply[at] = value;
            reply
        };
        for bad in
            [&good[..5], &good[..9], &[&good[..], &[1]].concat(), &another(0, 3), &another(1, -1), &another(2, -1)]
        {
            assert_eq!(given(bad, &[&one, &two]), None, "{bad:?}");
        }
    }
}
