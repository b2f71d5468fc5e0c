//! `doctor`: whether an upstream can be asked around the gateway, and whether it refuses what the gateway did not send.
//!
//! Every question is the same request, and one thing is wrong with each. What an upstream answers to a good one is the
//! measure: without it an app that refuses everything, or a path that is not there, would look like one that verifies.
//!
//! Invariant: what is sent speaks of nobody (`anonymous`), and the deployment's key signs nothing else here. A token that
//! is let in where it should not be gives no more than a public route does.

mod ask;
mod papers;
mod verdict;

use std::net::SocketAddr;

use pingora_core::{protocols::l4::socket::SocketAddr as PeerAddr, upstreams::peer::HttpPeer};
use portcullis_config::UpstreamSpec;

pub(crate) use ask::Question;
pub(crate) use papers::Papers;
pub(crate) use verdict::{Answer, Check, Verdict};

/// An upstream, and what is asked of each of its servers.
pub(crate) struct Examination<'e> {
    spec: &'e UpstreamSpec,
    question: Question<'e>,
    /// Where the upstream gets assertions.
    papers: Option<Papers<'e>>,
    peer: HttpPeer,
}

/// What was found at one server.
pub(crate) struct Findings {
    /// What somebody gets who brings neither a certificate nor an assertion.
    pub(crate) stranger: Answer,
    /// What a request gets as the gateway sends them.
    pub(crate) good: Answer,
    /// What each question showed.
    pub(crate) verdicts: Vec<(Check, Verdict, Answer)>,
}

impl<'e> Examination<'e> {
    /// Prepares the questions.
    ///
    /// # Errors
    /// When no connection to the upstream could be described; the configuration has checked that.
    pub(crate) fn new(
        spec: &'e UpstreamSpec,
        question: Question<'e>,
        papers: Option<Papers<'e>>,
    ) -> pingora_error::Result<Self> {
        Ok(Self { spec, question, papers, peer: crate::upstreams::peer(spec, 0)? })
    }

    /// Asks one server everything.
    ///
    /// # Errors
    /// When an assertion cannot be made.
    pub(crate) async fn of(&self, address: SocketAddr) -> anyhow::Result<Findings> {
        let mut ours = self.peer.clone();
        ours._address = PeerAddr::Inet(address);
        let mut stranger = ours.clone();
        stranger.client_cert_key = None;
        let good = self.question.ask(&ours, self.good()?.as_ref()).await;
        let without = self.question.ask(&stranger, None).await;
        let mut verdicts = Vec::new();
        for check in self.checks() {
            let answer = match check {
                Check::Anybody => without.clone(),
                Check::NoCertificate => self.question.ask(&stranger, self.good()?.as_ref()).await,
                Check::NoAssertion => self.question.ask(&ours, None).await,
                Check::Forged | Check::OtherUpstream | Check::Expired | Check::OtherPath => {
                    let Some(papers) = &self.papers else { continue };
                    self.question.ask(&ours, Some(&papers.bad(check)?)).await
                }
            };
            verdicts.push((check, Verdict::of(check, &answer, &good), answer));
        }
        Ok(Findings { stranger: without, good, verdicts })
    }

    /// What an upstream with these settings is able to refuse.
    fn checks(&self) -> Vec<Check> {
        let shows = self.spec.tls.as_ref().is_some_and(|tls| tls.client_certificate.is_some());
        let mut checks = Vec::new();
        if shows {
            checks.push(Check::NoCertificate);
        }
        if self.papers.is_some() {
            let of_assertions =
                [Check::NoAssertion, Check::Forged, Check::OtherUpstream, Check::Expired, Check::OtherPath];
            checks.extend(of_assertions);
        }
        if checks.is_empty() {
            checks.push(Check::Anybody);
        }
        checks
    }

    /// Anew for each question: an app may remember what it has seen.
    fn good(&self) -> anyhow::Result<Option<http::HeaderValue>> {
        self.papers.as_ref().map(Papers::good).transpose()
    }
}
