//! What an error of the proxy means: whose it is, and so what the client is told.

use pingora_error::{Error, ErrorSource, ErrorType};

use crate::{edge, refusal::Own, trip::Trip};

/// Whether the edge ended the connection because the request's body was late.
pub(crate) fn is_late(trip: &Trip) -> bool {
    trip.phase.as_ref().is_some_and(edge::RequestPhase::is_late)
}

/// What an error of the proxy means to the client; `None` when the client is gone.
pub(crate) fn classify(error: &Error, late: bool) -> Option<Own> {
    let why = || error.etype().as_str().to_owned();
    match (error.esource(), error.etype()) {
        (ErrorSource::Upstream, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => Some(Own::Timeout),
        (
            ErrorSource::Upstream,
            ErrorType::ConnectTimedout
            | ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError
            | ErrorType::ConnectProxyFailure
            | ErrorType::TLSWantX509Lookup
            | ErrorType::TLSHandshakeFailure
            | ErrorType::TLSHandshakeTimedout
            | ErrorType::InvalidCert
            | ErrorType::HandshakeError
            | ErrorType::BindError
            | ErrorType::SocketError,
        ) => Some(Own::Unreachable(why())),
        (ErrorSource::Upstream, _) => Some(Own::BadAnswer(why())),
        (ErrorSource::Downstream, _) if late => Some(Own::BodyTimeout),
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => Some(Own::BodyTimeout),
        (
            ErrorSource::Downstream,
            ErrorType::WriteError
            | ErrorType::ReadError
            | ErrorType::ConnectionClosed
            | ErrorType::WriteTimedout
            | ErrorType::H2Error,
        ) => None,
        (ErrorSource::Downstream, _) => Some(Own::Body),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Own::Bug(why())),
    }
}
