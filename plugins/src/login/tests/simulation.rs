//! Attacks on a day of logins, simulated: password spraying, credential stuffing, guessing, and locking as a weapon.
//!
//! In process, with a clock and chances of its own, so the figures are the same each time. They stand in
//! `docs/controls/login.md`, and the test holds that they do.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::*;

const HOUR: Micros = 3_600 * SECOND;
const DAY: Micros = 24 * HOUR;

/// The same chances each time (SplitMix64).
struct Chances(u64);

impl Chances {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

/// Somebody who logs in now and then.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// Of many networks; how many logins it has tried.
    Bot { network: u32, tried: u32 },
    /// At home, in the network of that number; one password in twenty is mistyped.
    User(u32),
    /// The same one, where it has never been; tries again until it is in.
    Traveller(u32),
}

/// How a bot goes on.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// Once a second; when it is refused it waits as it is told.
    AsTold,
    /// After so long, whatever it is told.
    Every(Micros),
}

#[derive(Debug, Default)]
struct Figures {
    /// Of attackers, that the app was asked.
    guesses: u64,
    /// Of those, right.
    taken: u64,
    /// Of users at home.
    logins: u64,
    refused: u64,
    /// When a traveller was let in, since the start.
    let_in: Vec<Micros>,
}

struct Day {
    gate: Gate,
    chances: Chances,
    queue: BinaryHeap<Reverse<(Micros, u32, Who)>>,
    count: u32,
    start: Micros,
    figures: Figures,
}

fn bot(network: u32) -> IpAddr {
    IpAddr::from((0x0a00_0000 + network).to_be_bytes())
}

fn home(user: u32) -> IpAddr {
    IpAddr::from((0xc0a8_0000 + user).to_be_bytes())
}

fn hotel(user: u32) -> IpAddr {
    IpAddr::from((0xac10_0000 + user).to_be_bytes())
}

impl Day {
    /// Users `0..users` have logged in from their homes before.
    fn new(users: u32) -> Self {
        let gate = Gate::new("");
        for user in 0..users {
            assert_eq!(gate.log_in(&format!("user{user}"), home(user), 200), Ok(()));
        }
        gate.advance_s(60);
        let start = gate.clock.now();
        let mut day =
            Self { gate, chances: Chances(1), queue: BinaryHeap::new(), count: 0, start, figures: Figures::default() };
        for user in 0..users {
            let at = day.chances.next() % (2 * HOUR);
            day.at(at, Who::User(user));
        }
        day
    }

    fn at(&mut self, since_start: Micros, who: Who) {
        self.count += 1;
        self.queue.push(Reverse((self.start + since_start, self.count, who)));
    }

    fn bots(&mut self, networks: u32) {
        for network in 0..networks {
            // Not all at once, so that none waits for another one's login.
            self.at(u64::from(network) * 997, Who::Bot { network, tried: 0 });
        }
    }

    /// A day. `guess` says whose login a bot tries next and whether the password is right; `None` when it has no more.
    /// Answers with the time of the last guess.
    fn run(&mut self, pace: Pace, mut guess: impl FnMut(u32, u32) -> Option<(u32, bool)>) -> Micros {
        let mut last = 0;
        while let Some(Reverse((at, _, who))) = self.queue.pop() {
            if at - self.start >= DAY {
                break;
            }
            self.gate.clock.advance(at - self.gate.clock.now());
            let next = match who {
                Who::Bot { network, tried } => guess(network, tried).map(|(account, right)| {
                    last = at - self.start;
                    let status = if right { 200 } else { 401 };
                    let asked = self.gate.log_in(&format!("user{account}"), bot(network), status);
                    self.figures.guesses += u64::from(asked.is_ok());
                    self.figures.taken += u64::from(asked.is_ok() && right);
                    let wait = match pace {
                        Pace::AsTold => asked.err().unwrap_or(1) * SECOND,
                        Pace::Every(wait) => wait,
                    };
                    (wait, Who::Bot { network, tried: tried + u32::from(asked.is_ok()) })
                }),
                Who::User(user) => {
                    self.figures.logins += 1;
                    let right = !self.chances.one_in(20);
                    let asked = self.gate.log_in(&format!("user{user}"), home(user), if right { 200 } else { 401 });
                    self.figures.refused += u64::from(asked.is_err());
                    let wait = if asked.is_ok() && right { 2 * HOUR } else { 10 * SECOND };
                    Some((wait, Who::User(user)))
                }
                Who::Traveller(user) => match self.gate.log_in(&format!("user{user}"), hotel(user), 200) {
                    Ok(()) => {
                        self.figures.let_in.push(at - self.start);
                        None
                    }
                    Err(wait_s) => Some((wait_s * SECOND, Who::Traveller(user))),
                },
            };
            if let Some((wait, who)) = next {
                self.at(at + wait - self.start, who);
            }
        }
        last
    }
}

/// One password after the other, each for every account in turn.
fn spraying(networks: u32) -> Figures {
    let mut day = Day::new(500);
    day.bots(networks);
    day.run(Pace::AsTold, |network, tried| Some(((network * 37 + tried) % 5_000, false)));
    day.figures
}

/// A list of names and passwords that leaked elsewhere: one of two hundred is right.
fn stuffing(networks: u32, list: u32) -> (Figures, Micros) {
    let mut day = Day::new(500);
    day.bots(networks);
    let last = day.run(Pace::AsTold, |network, tried| {
        let line = tried * networks + network;
        (line < list).then_some((10_000 + line, line.is_multiple_of(200)))
    });
    (day.figures, last)
}

/// Networks try one account in turn, one a second, whatever they are told. Who is at home logs in; the same one tries from a
/// new network from the first hour on.
fn weapon(networks: u32) -> Figures {
    let mut day = Day::new(1);
    for network in 0..networks {
        day.at(u64::from(network) * SECOND, Who::Bot { network, tried: 0 });
    }
    day.at(HOUR, Who::Traveller(0));
    day.run(Pace::Every(u64::from(networks) * SECOND), |_, _| Some((0, false)));
    day.figures
}

fn hours(micros: Micros) -> String {
    let minutes = micros / (60 * SECOND);
    format!("{} h {:02} min", minutes / 60, minutes % 60)
}

fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

/// The rows of the table in the docs.
fn rows() -> Vec<String> {
    let mut rows = Vec::new();
    for networks in [1, 100] {
        let Figures { guesses, logins, refused, .. } = spraying(networks);
        assert_eq!(refused, 0, "no user at home is refused");
        rows.push(format!(
            "| spraying 5,000 accounts for a day | {networks} | {} | {} | {refused} of {} |",
            thousands(u64::from(networks) * 86_400),
            thousands(guesses),
            thousands(logins)
        ));
    }
    for networks in [10, 1_000] {
        let (Figures { guesses, taken, logins, refused, .. }, last) = stuffing(networks, 50_000);
        rows.push(format!(
            "| stuffing a list of 50,000, 250 of them right | {} | 50,000 in {} min | {} in {}, {taken} right | {refused} of {} |",
            thousands(networks.into()),
            (50_000_u64 / u64::from(networks)).div_ceil(60),
            thousands(guesses),
            hours(last),
            thousands(logins)
        ));
    }
    let Figures { guesses, logins, refused, let_in, .. } = weapon(10_000);
    assert!(refused == 0 && guesses < 50, "{refused} {guesses}");
    let traveller = let_in.first().map_or("never that day".to_owned(), |at| format!("after {}", hours(at - HOUR)));
    rows.push(format!(
        "| one account, every second of a day | 10,000 | 86,400 | {guesses} | {refused} of {logins} at home; from a new network: {traveller} |"
    ));
    rows
}

#[test]
fn the_figures_of_the_docs_are_what_the_simulation_gives() {
    let docs = include_str!("../../../../docs/controls/login.md");
    let missing: Vec<String> = rows().into_iter().filter(|row| !docs.contains(row.as_str())).collect();
    assert!(missing.is_empty(), "the docs do not say:\n{}", missing.join("\n"));
}
