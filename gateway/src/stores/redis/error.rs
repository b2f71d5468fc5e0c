//! What is said of an error of the driver: a code or a kind, never what it may quote.

use std::{borrow::Cow, error::Error, sync::Arc};

use ::redis::RedisError;
use rustls::CertificateError;

pub(super) fn said(error: &RedisError) -> String {
    match error.code() {
        Some(code) => code.to_owned(),
        None if error.is_connection_refusal() => "connection refused".to_owned(),
        None if error.is_timeout() => "timed out".to_owned(),
        None => certificate(error).unwrap_or_else(|| error.category()).to_owned(),
    }
}

/// What a code means to a gateway in this mode, where that is more than the code.
pub(super) fn meaning<'w>(mode: &str, why: &'w str) -> Cow<'w, str> {
    match (mode, why) {
        ("single", "MOVED") => "MOVED: it is a node of a cluster, and the URL is of one Redis".into(),
        ("cluster", "ASK" | "TRYAGAIN") => format!("{why}: our slot is being moved to another node").into(),
        (_, why) => why.into(),
    }
}

/// What is wrong with the server's certificate, if that is what is wrong.
fn certificate(error: &RedisError) -> Option<&'static str> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(refused)) = error.downcast_ref() {
            return Some(words(refused));
        }
        // Neither says of itself what it holds.
        cause = if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
            Some(&**shared)
        } else if let Some(wrapped) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped)
        } else {
            error.source()
        };
    }
    None
}

fn words(refused: &CertificateError) -> &'static str {
    use CertificateError as E;
    if matches!(refused, E::Expired | E::ExpiredContext { .. }) {
        "its certificate has expired"
    } else if matches!(refused, E::NotValidYet | E::NotValidYetContext { .. }) {
        "its certificate is not valid yet"
    } else if matches!(refused, E::NotValidForName | E::NotValidForNameContext { .. }) {
        "its certificate is for another name"
    } else if matches!(refused, E::UnknownIssuer | E::BadSignature) {
        "its certificate is signed by nobody whom we know"
    } else {
        "its certificate is not valid"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_explained_where_it_means_more_in_this_mode() {
        assert!(meaning("single", "MOVED").contains("the URL is of one Redis"));
        for code in ["ASK", "TRYAGAIN"] {
            let told = meaning("cluster", code);
            assert!(told.starts_with(code) && told.contains("our slot is being moved"), "{told}");
        }
        for (mode, code) in [("cluster", "MOVED"), ("single", "ASK"), ("sentinel", "READONLY")] {
            assert_eq!(meaning(mode, code), code);
        }
    }
}
