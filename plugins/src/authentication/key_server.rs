//! Where an issuer's keys may be fetched from: an https URL, and addresses that are public or that the operator named.
//!
//! Invariant: an address is judged where it is about to be connected to, not where a name was looked up before: a name may
//! lead elsewhere the next time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use portcullis_api::{At, Cidrs, Issues, Millis};

use super::{Issuer, Keys};

const STALE_MIN: Millis = Millis::from_secs(600);
const STALE_MAX: Millis = Millis::from_secs(86_400);
/// How long a key set is used after its source failed, when nothing is written.
pub const STALE_DEFAULT: Millis = Millis::from_secs(6 * 3600);

/// What is not public of IPv4 (IANA's registry of special-purpose addresses, and multicast).
const NOT_PUBLIC_V4: [Ipv4Net; 15] = [
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    v4([192, 88, 99, 0], 24),
    v4([192, 168, 0, 0], 16),
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    v4([224, 0, 0, 0], 4),
    v4([240, 0, 0, 0], 4),
];

/// The only part of IPv6 that is handed out as public.
const PUBLIC_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// What is not public in it: protocol assignments (Teredo among them), documentation, 6to4.
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

/// Whether a key server may be asked at this address: a public one, or one in the networks that the operator named.
#[must_use]
pub fn may_be_asked(address: IpAddr, private: &Cidrs) -> bool {
    let address = address.to_canonical();
    let public = match address {
        IpAddr::V4(v4) => !NOT_PUBLIC_V4.iter().any(|net| net.contains(&v4)),
        IpAddr::V6(v6) => PUBLIC_V6.contains(&v6) && !NOT_PUBLIC_V6.iter().any(|net| net.contains(&v6)),
    };
    public || private.contains(address)
}

/// Whether keys may be fetched from this URL, as far as its text tells: https, with a host, without user information and
/// fragment.
///
/// # Errors
/// What is wrong with it, to follow its name.
pub fn check_url(url: &str) -> Result<(), &'static str> {
    if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("has a character that no URL has");
    }
    let Some(rest) = url.strip_prefix("https://") else {
        return Err("must start with https://: whoever can change the answer can sign tokens");
    };
    if url.contains('#') || url.contains('\\') {
        return Err("has a fragment or a backslash");
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("carries user information; keys are public and need none");
    }
    if host_of(authority).is_empty() {
        return Err("has no host");
    }
    Ok(())
}

/// Host and port of an https URL.
pub(super) fn authority_of(url: &str) -> Option<&str> {
    url.strip_prefix("https://")?.split(['/', '?']).next()
}

/// The host, without the brackets of an IPv6 address.
pub(super) fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// Checks what is written about an issuer's keys and how they are had.
pub(super) fn check(name: &str, issuer: &Issuer, issues: &mut Issues) {
    let span = &issuer.keys.span;
    match &issuer.keys.value {
        Keys::JwksUrl(url) => check_source(name, "jwks_url", url, issuer, issues),
        Keys::Discovery(url) => check_source(name, "discovery", url, issuer, issues),
        Keys::JwksFile(path) => {
            if path.as_os_str().is_empty() {
                issues.push("issuers.jwks_file", span, format!("issuer `{name}`: jwks_file is empty"));
            }
            check_fetched(name, issuer.private_networks.as_ref(), issues);
        }
        Keys::Secret(_) => {
            check_fetched(name, issuer.private_networks.as_ref(), issues);
            if let Some(stale) = &issuer.max_stale {
                let message = format!("issuer `{name}` has a secret, which does not become stale");
                issues.push("issuers.max_stale", &stale.span, message);
            }
        }
    }
    if let Some(stale) = &issuer.max_stale
        && !(STALE_MIN..=STALE_MAX).contains(&stale.value)
    {
        let message = format!("max_stale {} is not between {STALE_MIN} and {STALE_MAX}", stale.value);
        issues.push("issuers.max_stale", &stale.span, message);
    }
}

fn check_source(name: &str, what: &str, url: &str, issuer: &Issuer, issues: &mut Issues) {
    let span = &issuer.keys.span;
    if let Err(why) = check_url(url) {
        issues.push("issuers.jwks_url", span, format!("issuer `{name}`: {what} {why}"));
        return;
    }
    let host = authority_of(url).map(host_of).unwrap_or_default();
    let Ok(address) = host.parse::<IpAddr>() else { return };
    let private = issuer.private_networks.as_ref().map(|networks| networks.value.clone()).unwrap_or_default();
    if !may_be_asked(address, &private) {
        issues.push_help(
            "issuers.private_address",
            span,
            format!("issuer `{name}`: {what} is at {address}, which is not public"),
            "if the key server is inside, name its network: private_networks = [\"…\"]",
        );
    }
}

fn check_fetched(name: &str, networks: Option<&At<Cidrs>>, issues: &mut Issues) {
    if let Some(networks) = networks {
        let message = format!("issuer `{name}` has private_networks, and its keys are not fetched");
        issues.push("issuers.private_networks", &networks.span, message);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(address: &str, private: &[&str]) -> bool {
        let nets = private.iter().map(|net| net.parse().unwrap()).collect();
        may_be_asked(address.parse().unwrap(), &Cidrs::new(nets))
    }

    #[test]
    fn key_05_addresses_that_are_not_public_are_not_asked() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.0.1",
            "198.18.0.1",
            "203.0.113.7",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "::127.0.0.1",
            "100::1",
        ] {
            assert!(!asked(address, &[]), "{address}");
        }
        for address in
            ["1.1.1.1", "172.32.0.1", "100.128.0.1", "193.0.0.1", "2606:4700::1111", "2a00::1", "::ffff:1.1.1.1"]
        {
            assert!(asked(address, &[]), "{address}");
        }
    }

    #[test]
    fn a_network_that_is_named_is_asked_and_its_neighbour_is_not() {
        assert!(asked("10.1.2.3", &["10.1.0.0/16"]));
        assert!(asked("::ffff:10.1.2.3", &["10.1.0.0/16"]));
        assert!(!asked("10.2.0.0", &["10.1.0.0/16"]));
        assert!(asked("fd00::7", &["fd00::/64"]) && !asked("fd00:0:0:1::7", &["fd00::/64"]));
    }

    proptest! {
        /// The standard library's words for some of them, as far as they are stable.
        #[test]
        fn what_the_standard_library_calls_private_is_never_asked(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let private = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
                || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified();
            if private {
                prop_assert!(!may_be_asked(v4.into(), &Cidrs::default()));
                prop_assert!(!may_be_asked(v4.to_ipv6_mapped().into(), &Cidrs::default()));
            }
        }

        #[test]
        fn of_ipv6_only_public_unicast_is_asked(bits: u128) {
            let v6 = Ipv6Addr::from(bits);
            if v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_multicast() {
                prop_assert!(!may_be_asked(v6.into(), &Cidrs::default()));
            }
        }
    }
}
