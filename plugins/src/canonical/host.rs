//! One host, in one spelling: lower case, no port, no trailing dot (RFC 9110 7.2, RFC 3986 3.2.2).

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr},
};

use http::header;

use super::{Ambiguity, Head};

/// Longest name of the DNS, written (RFC 1035 2.3.4).
const NAME_BYTES_MAX: usize = 253;
/// Longest label.
const LABEL_BYTES_MAX: usize = 63;

/// The canonical host of a head: `:authority` or `Host`, and where there are both they must agree.
pub(super) fn settle<'r>(head: &Head<'r>) -> Result<Cow<'r, str>, Ambiguity> {
    // Values were checked to be visible ASCII; an unreadable one is refused all the same, never taken for a missing one.
    let field = match head.headers.get(header::HOST) {
        None => None,
        Some(value) => Some(value.to_str().map_err(|_| Ambiguity::HostMissing)?),
    };
    match (head.authority, field) {
        (None, None) => Err(Ambiguity::HostMissing),
        (Some(only), None) | (None, Some(only)) => canonical(only),
        (Some(authority), Some(field)) => same(canonical(field)?, authority),
    }
}

/// `host`, if `other` has the same canonical form.
pub(super) fn same<'r>(host: Cow<'r, str>, other: &str) -> Result<Cow<'r, str>, Ambiguity> {
    if host == canonical(other)? {
        Ok(host)
    } else {
        Err(Ambiguity::HostMismatch { host: host.len(), other: other.len() })
    }
}

/// The canonical form; borrowed when it is written that way already.
pub(super) fn canonical(authority: &str) -> Result<Cow<'_, str>, Ambiguity> {
    let refuse = |why| Ambiguity::Host { why, bytes: authority.len() };
    if authority.is_empty() {
        return Err(Ambiguity::HostMissing);
    }
    if let Some(literal) = authority.strip_prefix('[') {
        let (address, port) = literal.split_once(']').ok_or_else(|| refuse("a bracket that is not closed"))?;
        check_port(port).map_err(refuse)?;
        let address: Ipv6Addr = address.parse().map_err(|_| refuse("no IPv6 address in the brackets"))?;
        let text = format!("[{address}]");
        return Ok(match authority.strip_suffix(port) {
            Some(written) if written == text => Cow::Borrowed(written),
            Some(_) | None => Cow::Owned(text),
        });
    }
    let (name, port) = authority.find(':').and_then(|at| authority.split_at_checked(at)).unwrap_or((authority, ""));
    check_port(port).map_err(refuse)?;
    let name = name.strip_suffix('.').unwrap_or(name);
    check_name(name).map_err(refuse)?;
    Ok(if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

/// Nothing, or `:` and a port number. Every port is taken: which one the client dialled is the listener's business.
fn check_port(port: &str) -> Result<(), &'static str> {
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok() => Ok(()),
        Some(_) | None => Err("no port number after the host"),
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.len() > NAME_BYTES_MAX {
        return Err("a name of more than 253 bytes");
    }
    for label in name.split('.') {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if label.is_empty() || label.len() > LABEL_BYTES_MAX || !inner || label.starts_with('-') || label.ends_with('-')
        {
            return Err("a label that is not 1 to 63 letters, digits and inner hyphens");
        }
    }
    // `127.1`, `0x7f.1` and `017700000001` are addresses to some readers: a name that ends in a number is a full
    // IPv4 address or nothing (as in the WHATWG URL standard).
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let number = last.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if number && name.parse::<Ipv4Addr>().is_err() {
        return Err("an address that is not four decimal numbers");
    }
    Ok(())
}
