//! `bans`: a client that violates too often is blocked for a while.
//!
//! The table counts violations per client (its /64 for IPv6) in a sliding window, exactly, and holds the blocks. It is
//! bounded: 65,536 clients, eight to a set; where room is needed, clients without a violation in the window go first,
//! then those with the fewest, and blocked ones last. It outlives every snapshot, so a reload forgives nobody.
//!
//! With a shared store ([`SharedBans`]) violations are counted there, and the table holds what it said. A client is then
//! found by a keyed hash of its address, for that is all that another gateway tells. A request is hashed only while the
//! table may hold a block that is on.

mod shared;
mod table;

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};
use portcullis_api::{ClientIp, Clock, Code, Control, ControlName, Fault, Issues, Micros, Refusal, Strict, Verdict};
pub use shared::{Asking, Block, Change, Changes, Client, ClientKey, Cursor, NoClientKey, SharedBans, Strike, Struck};
pub use table::BanTable;

use crate::waf::Violations;

/// The control's name.
pub const NAME: ControlName = ControlName::new("bans");

/// Clients that the table holds at most.
pub const CLIENTS_MAX: usize = 65_536;

/// The most violations that can be asked for: each one of a client is remembered with its time.
pub const VIOLATIONS_MAX: u32 = 256;

/// Codes whose refusals count as violations.
const VIOLATION_CODES: &[&str] = &["burst.exceeded", "waf.urls", "waf.phones", "waf.chars", "waf.not_utf8"];

/// Whether a refusal with this code counts against the client.
#[must_use]
pub fn is_violation(code: &Code) -> bool {
    VIOLATION_CODES.contains(&code.name)
}

/// The code of a violation that this version does not count and another gateway's does. It blocks all the same.
const CODE_OF_ANOTHER_VERSION: &str = "unknown";

fn known(code: &str) -> &'static str {
    VIOLATION_CODES.iter().find(|known| **known == code).copied().unwrap_or(CODE_OF_ANOTHER_VERSION)
}

/// One block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    /// The client.
    pub client: Client,
    /// The code of the violation that was one too many.
    pub code: &'static str,
    /// When it began, on the monotonic clock.
    pub since: Micros,
    /// When it ends.
    pub until: Micros,
}

impl Ban {
    /// Whole seconds until it ends, rounded up, at least 1.
    #[must_use]
    pub fn remaining_s(&self, now: Micros) -> u64 {
        self.until.saturating_sub(now).div_ceil(1_000_000).max(1)
    }
}

/// No block is on for the client.
#[derive(Debug)]
pub struct NotBanned(());

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deny {
    /// A block is on.
    Active {
        /// The code of the violation that began it.
        code: &'static str,
        /// Whole seconds until it ends, at least 1.
        remaining_s: u64,
    },
}

const ACTIVE: Code =
    Code { name: "bans.active", status: 403, title: "Requests from this client are blocked for a while" };

impl Refusal for Deny {
    const CODES: &'static [Code] = &[ACTIVE];

    fn code(&self) -> Code {
        match self {
            Self::Active { .. } => ACTIVE,
        }
    }

    fn detail(&self) -> Option<Cow<'_, str>> {
        let Self::Active { code, .. } = self;
        Some(Cow::Owned(format!("blocked after repeated {code}")))
    }

    fn headers(&self, answer: &mut HeaderMap) {
        let Self::Active { remaining_s, .. } = self;
        answer.insert(RETRY_AFTER, HeaderValue::from(*remaining_s));
    }
}

/// The control.
pub struct Bans {
    needs: Needs,
}

/// Where the blocks are. Both outlive every snapshot.
#[derive(Clone)]
pub struct Needs {
    /// The table. A snapshot that comes into force calls [`BanTable::configure`]; compiling one changes nothing.
    pub table: Arc<BanTable>,
    /// The monotonic clock.
    pub clock: Arc<dyn Clock>,
}

/// What must be known.
#[derive(Debug, Clone, Copy)]
pub struct Sees {
    /// The settled address.
    pub client: ClientIp,
}

impl Control for Bans {
    const NAME: ControlName = NAME;
    type Settings<'d> = &'d Violations;
    type Sees<'r> = Sees;
    type Proof = NotBanned;
    type Deny = Deny;
    type Needs = Needs;
    type Posture = Strict;

    fn compile(violations: &Violations, needs: &Needs, issues: &mut Issues) -> Option<Self> {
        if violations.max.value.get() > VIOLATIONS_MAX {
            let message = format!("violations.max is {}, more than {VIOLATIONS_MAX}", violations.max.value);
            issues.push_help(
                "bans.violations_max",
                &violations.max.span,
                message,
                "block earlier, or count over a shorter window",
            );
            return None;
        }
        Some(Self { needs: needs.clone() })
    }

    async fn check(&self, sees: Sees) -> Result<Verdict<NotBanned, Deny>, Fault> {
        let Needs { table, clock } = &self.needs;
        let now = clock.now();
        Ok(match table.active(sees.client.counted(), now) {
            Some(ban) => Verdict::Deny(Deny::Active { code: ban.code, remaining_s: ban.remaining_s(now) }),
            None => Verdict::Pass(NotBanned(())),
        })
    }
}
