//! The request target: a path, `OPTIONS *`, or a whole URL for the same host (RFC 9112 3.2). Nothing else.

use http::Method;
use portcullis_api::Protocol;

use super::{Ambiguity, ByteKind, Head, Target, host, path};

/// A target in its parts.
pub(super) struct Parts<'r> {
    pub(super) path: &'r str,
    /// Without its `?`; `None` when there was no `?`.
    pub(super) query: Option<&'r str>,
    pub(super) target: Target,
}

/// Splits the target and judges each part.
pub(super) fn split<'r>(head: &Head<'r>, host: &str) -> Result<Parts<'r>, Ambiguity> {
    if head.protocol == Protocol::Http2 {
        check_scheme(head.scheme.unwrap_or_default())?;
    }
    // Bytes outside ASCII are refused in every part; the first one decides how.
    let target = std::str::from_utf8(head.raw_target).map_err(|_| not_text(head.raw_target))?;
    if target.starts_with('/') {
        return origin_form(target, Target::AsReceived);
    }
    if target == "*" && *head.method == Method::OPTIONS {
        return Ok(Parts { path: "*", query: None, target: Target::Server });
    }
    match (head.protocol, target.split_once("://")) {
        (Protocol::Http1, Some((scheme, rest))) => absolute_form(head, host, scheme, rest),
        (Protocol::Http1 | Protocol::Http2, _) => Err(no_path(head.raw_target)),
    }
}

fn check_scheme(scheme: &str) -> Result<(), Ambiguity> {
    if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http") {
        Ok(())
    } else {
        Err(Ambiguity::Scheme { bytes: scheme.len() })
    }
}

fn not_text(target: &[u8]) -> Ambiguity {
    let byte = ByteKind::NonAscii;
    let in_query = target.iter().take_while(|byte| byte.is_ascii()).any(|&byte| byte == b'?');
    if in_query { Ambiguity::QueryByte { byte } } else { Ambiguity::PathByte { byte } }
}

const fn no_path(target: &[u8]) -> Ambiguity {
    Ambiguity::TargetForm { bytes: target.len() }
}

fn absolute_form<'r>(head: &Head<'r>, host: &str, scheme: &str, rest: &'r str) -> Result<Parts<'r>, Ambiguity> {
    if !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
        return Err(no_path(head.raw_target));
    }
    check_scheme(scheme)?;
    let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, local) = rest.split_at_checked(at).unwrap_or((rest, ""));
    host::same(host.into(), authority)?;
    match local {
        // RFC 9112 3.2.4: a URL without a path and a query, asked for its OPTIONS, is `*`.
        "" if *head.method == Method::OPTIONS => Ok(Parts { path: "*", query: None, target: Target::Server }),
        "" => Ok(Parts { path: "/", query: None, target: Target::Rewritten }),
        local => match local.strip_prefix('?') {
            Some(query) => Ok(Parts { path: "/", query: Some(path::check_query(query)?), target: Target::Rewritten }),
            None => origin_form(local, Target::Rewritten),
        },
    }
}

fn origin_form(text: &str, target: Target) -> Result<Parts<'_>, Ambiguity> {
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    let path = path::check(path)?;
    Ok(Parts { path, query: query.map(path::check_query).transpose()?, target })
}
