//! What an answer shows. Only a success is taken for "let in", and only a refusal that a good request does not get too for
//! "refused": everything else is not known.

use std::fmt;

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Nothing could be: the upstream is given nothing to tell it by.
    Anybody,
    /// The connection shows no client certificate.
    NoCertificate,
    /// There is no assertion.
    NoAssertion,
    /// The claims and the key's name are right, the signature is of another key.
    Forged,
    /// It is for an upstream of another name.
    OtherUpstream,
    /// It was good an hour ago.
    Expired,
    /// It is for another path.
    OtherPath,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anybody => "a request of anybody",
            Self::NoCertificate => "a connection without a client certificate",
            Self::NoAssertion => "a request without an assertion",
            Self::Forged => "a forged assertion",
            Self::OtherUpstream => "an assertion for another upstream",
            Self::Expired => "an expired assertion",
            Self::OtherPath => "an assertion for another path",
        })
    }
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An HTTP answer with this status.
    Status(u16),
    /// None, and why.
    Nothing(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "HTTP {status}"),
            Self::Nothing(why) => write!(f, "no answer: {why}"),
        }
    }
}

/// What is known then.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is refused.
    Refused,
    /// It is served.
    LetIn,
    /// It cannot be told, and why.
    Unknown(&'static str),
}

impl Verdict {
    /// Of an answer to a request with one thing wrong, beside the answer to a good one.
    pub(crate) fn of(check: Check, answer: &Answer, good: &Answer) -> Self {
        match (answer, good) {
            (Answer::Status(200..=299), _) => Self::LetIn,
            (Answer::Status(400 | 401 | 403), Answer::Status(400 | 401 | 403)) => {
                Self::Unknown("a good request is refused too")
            }
            (Answer::Status(400 | 401 | 403), Answer::Status(_)) => Self::Refused,
            // A handshake that fails is a refusal where one with a certificate does not.
            (Answer::Nothing(_), Answer::Status(_)) if check == Check::NoCertificate => Self::Refused,
            (Answer::Status(_), Answer::Status(_)) => Self::Unknown("this is no refusal, and no success"),
            (Answer::Nothing(_), Answer::Status(_)) => Self::Unknown("a refusal would be an answer"),
            (Answer::Status(_) | Answer::Nothing(_), Answer::Nothing(_)) => {
                Self::Unknown("a good request is not answered")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_success_is_let_in_and_only_what_a_good_request_does_not_get_is_a_refusal() {
        let nothing = || Answer::Nothing("closed".to_owned());
        let of = |answer: Answer, good: Answer| match Verdict::of(Check::Forged, &answer, &good) {
            Verdict::Refused => "refused",
            Verdict::LetIn => "let in",
            Verdict::Unknown(_) => "unknown",
        };
        for status in [400, 401, 403] {
            for good in [200, 204, 302, 404, 500] {
                assert_eq!(of(Answer::Status(status), Answer::Status(good)), "refused", "{status} {good}");
            }
            for good in [400, 401, 403] {
                assert_eq!(of(Answer::Status(status), Answer::Status(good)), "unknown", "{status} {good}");
            }
            assert_eq!(of(Answer::Status(status), nothing()), "unknown");
        }
        for status in [200, 204, 299] {
            for good in [Answer::Status(200), Answer::Status(401), nothing()] {
                assert_eq!(of(Answer::Status(status), good), "let in");
            }
        }
        for status in [100, 199, 300, 302, 404, 405, 500, 503] {
            assert_eq!(of(Answer::Status(status), Answer::Status(200)), "unknown", "{status}");
        }
        assert_eq!(of(nothing(), Answer::Status(200)), "unknown");
    }

    #[test]
    fn a_handshake_that_fails_is_a_refusal_only_where_another_succeeds() {
        let nothing = Answer::Nothing("alert".to_owned());
        assert_eq!(Verdict::of(Check::NoCertificate, &nothing, &Answer::Status(404)), Verdict::Refused);
        assert!(matches!(Verdict::of(Check::NoCertificate, &nothing, &nothing), Verdict::Unknown(_)));
    }
}
