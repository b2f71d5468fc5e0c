//! One request to one server, over a connection of its own that is made as the gateway makes them.
#![expect(clippy::disallowed_methods, reason = "these requests are our own, no client's")]

use std::time::Duration;

use http::HeaderValue;
use pingora_core::{connectors::http::Connector, upstreams::peer::HttpPeer};
use pingora_error::{Error, ErrorType};
use pingora_http::RequestHeader;
use portcullis_plugins::reserved;
use uuid::Uuid;

use super::Answer;

/// The longest that a server may take for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What is asked.
pub(crate) struct Question<'q> {
    /// `Host`.
    pub(crate) host: &'q str,
    /// Path and query.
    pub(crate) target: &'q str,
}

impl Question<'_> {
    /// Asks it, with this assertion or with none.
    pub(crate) async fn ask(&self, peer: &HttpPeer, assertion: Option<&HeaderValue>) -> Answer {
        match tokio::time::timeout(ANSWER_MAX, self.status(peer, assertion)).await {
            Ok(Ok(status)) => Answer::Status(status),
            Ok(Err(error)) => Answer::Nothing(reason(&error)),
            Err(_) => Answer::Nothing(format!("nothing came in {} s", ANSWER_MAX.as_secs())),
        }
    }

    async fn status(&self, peer: &HttpPeer, assertion: Option<&HeaderValue>) -> pingora_error::Result<u16> {
        // A connector of its own: no connection is used twice.
        let (mut session, _) = Connector::new(None).get_http_session(peer).await?;
        session.set_write_timeout(Some(ANSWER_MAX));
        session.set_read_timeout(Some(ANSWER_MAX));
        session.write_request_header(Box::new(self.head(assertion)?)).await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let head = session.response_header().ok_or_else(|| Error::new(ErrorType::InvalidHTTPHeader))?;
        Ok(head.status.as_u16())
    }

    /// As the gateway writes it for a request of nobody.
    fn head(&self, assertion: Option<&HeaderValue>) -> pingora_error::Result<RequestHeader> {
        let mut head = RequestHeader::build("GET", self.target.as_bytes(), None)?;
        head.insert_header("Host", self.host)?;
        head.insert_header("User-Agent", "portcullis-doctor")?;
        head.insert_header(reserved::KIND, "anonymous")?;
        head.insert_header(reserved::REQUEST_ID, Uuid::now_v7().to_string())?;
        if let Some(assertion) = assertion {
            head.insert_header(reserved::ASSERTION, assertion.clone())?;
        }
        Ok(head)
    }
}

/// The innermost of what went wrong: the layers above it say where in Pingora.
fn reason(error: &Error) -> String {
    let mut innermost: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().trim().to_owned()
}
