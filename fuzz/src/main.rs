//! Fuzzes what reads a stranger's credential and an issuer's keys: `make fuzz`. Guided by the branches of the plugins where
//! `fuzz/instrument` compiles them, and by what came of an input elsewhere. Needs no other toolchain than the project's.

mod coverage;
mod mutate;
mod rig;
mod targets;

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;

use coverage::Coverage;
use mutate::{Input, Random, mutated};
use rig::Rig;
use targets::{Credential, Keys, Target, Token};

/// Fuzzes the reading of credentials and key sets.
#[derive(Parser)]
struct Arguments {
    /// How long each target is fuzzed.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// What the inputs are made from; another seed makes others.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// `token`, `credential` or `key_set`; all of them when not written.
    #[arg(long)]
    target: Option<String>,
}

/// When to stop.
#[derive(Clone, Copy)]
enum Until {
    Passed(Duration),
    #[cfg(test)]
    Runs(u64),
}

/// What came of fuzzing.
struct Found {
    runs: u64,
    corpus: usize,
    outcomes: HashSet<String>,
    coverage: Coverage,
    /// The input that did not hold.
    broken: Option<Input>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let until = Until::Passed(Duration::from_secs(arguments.seconds));
    let chosen = |name: &str| arguments.target.as_deref().is_none_or(|target| target == name);
    let mut reports = Vec::new();
    if chosen(Token::NAME) {
        reports.push(report(&Token(Rig::new()), until, arguments.seed));
    }
    if chosen(Credential::NAME) {
        reports.push(report(&Credential(Rig::new()), until, arguments.seed));
    }
    if chosen(Keys::NAME) {
        reports.push(report(&Keys, until, arguments.seed));
    }
    if reports.is_empty() {
        eprintln!("fuzz: there is no such target: write token, credential or key_set");
        return ExitCode::from(2);
    }
    if reports.into_iter().all(|held| held) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether everything held.
fn report<T: Target>(target: &T, until: Until, seed: u64) -> bool {
    let found = fuzz(target, until, seed);
    let Found { runs, corpus, outcomes, coverage, broken } = &found;
    let branches = if coverage.is_measured() { format!("{} branches, ", coverage.taken()) } else { String::new() };
    println!("{}: {runs} runs, {branches}{} outcomes, {corpus} inputs kept", T::NAME, outcomes.len());
    let Some(broken) = broken else { return true };
    println!("{}: this input does not hold (seed {seed}):", T::NAME);
    for part in broken {
        println!("  b\"{}\"", part.escape_ascii());
    }
    false
}

fn fuzz<T: Target>(target: &T, until: Until, seed: u64) -> Found {
    let (start, mut random) = (Instant::now(), Random(seed));
    let mut corpus = T::seeds();
    let mut seeds = corpus.clone().into_iter();
    let mut found = Found { runs: 0, corpus: 0, outcomes: HashSet::new(), coverage: Coverage::new(), broken: None };
    while match until {
        Until::Passed(time) => start.elapsed() < time,
        #[cfg(test)]
        Until::Runs(runs) => found.runs < runs,
    } {
        let input = seeds.next().unwrap_or_else(|| mutated(&corpus, &mut random));
        found.runs += 1;
        let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| target.run(&input))) else {
            found.broken = Some(input);
            break;
        };
        // Both are asked: the second would go unread where the first is true.
        let (reached, came) = (found.coverage.take(), found.outcomes.insert(outcome));
        if reached || came {
            corpus.push(input);
        }
    }
    found.corpus = corpus.len();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough to reach each reason for which a credential is refused, short enough for every run of the tests.
    fn holds<T: Target>(target: &T, outcomes: &[&str]) {
        let found = fuzz(target, Until::Runs(60_000), 7);
        assert_eq!(found.broken, None, "{}", T::NAME);
        for wanted in outcomes {
            let reached = found.outcomes.iter().any(|outcome| outcome.contains(wanted));
            assert!(reached, "{}: {wanted} was not reached: {:#?}", T::NAME, found.outcomes);
        }
    }

    #[test]
    fn a_token_holds() {
        let reasons = [
            "accepted",
            "three parts",
            "base64url",
            "header is no JSON",
            "header with a duplicate",
            "outside alg, typ, kid",
            "alg missing",
            "payload is no JSON",
            "payload with a duplicate",
            "payload beyond a bound",
            "iss missing",
            "iss unknown",
            "does not verify",
            "aud missing",
            "aud without ours",
            "exp, iat or nbf",
            "tenant claim",
        ];
        holds(&Token(Rig::new()), &reasons);
    }

    #[test]
    fn a_credential_holds() {
        let reasons =
            ["token68", "more than one credential", "a credential in the query", "folds to ours", "cookie twice"];
        holds(&Credential(Rig::new()), &reasons);
    }

    #[test]
    fn a_key_set_holds() {
        holds(&Keys, &["1 usable", "2 usable", "nostrictJSON", "noJWKS", "nousablekey"]);
    }

    #[test]
    fn what_does_not_hold_is_found() {
        struct Fragile;
        impl Target for Fragile {
            const NAME: &'static str = "fragile";
            fn seeds() -> Vec<Input> {
                vec![vec![b"{}".to_vec()]]
            }
            fn run(&self, input: &Input) -> String {
                assert!(!input[0].windows(2).any(|pair| pair == b"[["), "an input that it cannot take");
                input[0].len().min(9).to_string()
            }
        }
        let found = fuzz(&Fragile, Until::Runs(20_000), 7);
        assert!(found.broken.is_some_and(|input| input[0].windows(2).any(|pair| pair == b"[[")));
    }
}
