//! One run of the script: what is asked, as Redis reads it, and its answer, as it writes it.

use ::redis::Cmd;
use portcullis_api::Micros;
use portcullis_plugins::rate_limit::{Answer, Binding, Bucket, Level};

pub(super) const SCRIPT: &str = include_str!("../take.lua");

/// The buckets of one request, on their own: they may be asked for after the request gave up.
#[derive(Debug)]
pub(super) struct Ask(Vec<Asked>);

#[derive(Debug)]
struct Asked {
    key: String,
    interval: Micros,
    burst: u32,
    cost: u32,
    binding: Binding,
}

impl Ask {
    pub(super) fn of(buckets: &[Bucket<'_>], prefix: &str) -> Self {
        let asked = |bucket: &Bucket<'_>| Asked {
            key: key(bucket, prefix),
            interval: bucket.rate.interval(),
            burst: bucket.rate.burst(),
            cost: bucket.rate.cost(),
            binding: bucket.binding,
        };
        Self(buckets.iter().map(asked).collect())
    }

    pub(super) fn buckets(&self) -> usize {
        self.0.len()
    }
}

/// `PREFIXrule:hash`.
pub(super) fn key(&Bucket { rule, key, .. }: &Bucket<'_>, prefix: &str) -> String {
    format!("{prefix}{rule}:{key:032x}")
}

/// The command for a batch. `clock` is a test's, in microseconds.
pub(super) fn command(verb: &str, script: &str, batch: &[&Ask], clock: Option<u64>) -> Cmd {
    let mut command = ::redis::cmd(verb);
    command.arg(script).arg(batch.iter().map(|ask| ask.buckets()).sum::<usize>());
    for Asked { key, .. } in batch.iter().flat_map(|ask| &ask.0) {
        command.arg(key);
    }
    command.arg(clock.map_or_else(String::new, |micros| micros.to_string()));
    for ask in batch {
        command.arg(ask.buckets());
        for &Asked { key: _, interval, burst, cost, binding } in &ask.0 {
            let binding = match binding {
                Binding::Together => "t",
                Binding::Alone => "a",
            };
            command.arg(interval).arg(burst).arg(cost).arg(binding);
        }
    }
    command
}

/// Four integers a bucket, call after call; anything else is no answer.
pub(super) fn levels(reply: &[i64], batch: &[&Ask]) -> Option<Vec<Vec<Level>>> {
    let (mut fours, rest) = reply.as_chunks::<4>();
    let mut answers = Vec::with_capacity(batch.len());
    for ask in batch {
        let (mine, others) = fours.split_at_checked(ask.buckets())?;
        answers.push(mine.iter().map(level).collect::<Option<_>>()?);
        fours = others;
    }
    (fours.is_empty() && rest.is_empty()).then_some(answers)
}

fn level(&[answer, remaining, retry_after, reset_after]: &[i64; 4]) -> Option<Level> {
    Some(Level {
        answer: match answer {
            0 => Answer::Spared,
            1 => Answer::Charged,
            2 => Answer::Short,
            _ => return None,
        },
        remaining: u32::try_from(remaining).ok()?,
        retry_after: u64::try_from(retry_after).ok()?,
        reset_after: u64::try_from(reset_after).ok()?,
    })
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
        let good = [1, 9, 0, 100, 2, 0, 7, 100];
        let answers = levels(&good, &[&one, &two]).unwrap();
        assert_eq!((answers[0][0].answer, answers[1][0].answer), (Answer::Charged, Answer::Short));
        assert_eq!((answers[1][0].retry_after, answers[0][0].remaining), (7, 9));
        for bad in
            [&good[..4], &good[..7], &[&good[..], &[1]].concat(), &[3, 9, 0, 1, 1, 1, 1, 1], &[1, -1, 0, 1, 1, 1, 1, 1]]
        {
            assert_eq!(levels(bad, &[&one, &two]), None, "{bad:?}");
        }
    }
}
