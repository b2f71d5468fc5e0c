//! One key of a JWKS (RFC 7517, 7518, 8037): usable, or dropped with a reason for the operator.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    RsaParameters, RsaPublicKeyComponents,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

pub(super) use super::jws::is_kid;
use super::{
    Algorithm,
    jws::named,
    keys::{Key, Verifier},
    strict_json::Json,
};

type Reason = String;

/// Members that only a private or shared key has (RFC 7518 6.2.2, 6.3.2, 6.4; RFC 8037 2).
const PRIVATE_MEMBERS: &[&str] = &["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];

/// Parses one member of `keys`.
pub(super) fn parse(jwk: &Json, allowed: &[Algorithm]) -> Result<Key, Reason> {
    let members = jwk.object().ok_or("it is no object")?;
    if members.iter().any(|(name, _)| PRIVATE_MEMBERS.contains(&name.as_str())) {
        return Err("it has private members: whoever can read this set can sign; replace the key".to_owned());
    }
    let kid = match jwk.member("kid") {
        None => None,
        Some(kid) => {
            Some(kid.text().filter(|kid| is_kid(kid)).ok_or("its kid is outside [A-Za-z0-9._~:@/+=-]{1,128}")?)
        }
    };
    used_for_verifying(jwk)?;
    let stated = match jwk.member("alg") {
        None => None,
        Some(alg) => Some(alg.text().and_then(named).ok_or("its alg is none that this gateway verifies")?),
    };
    let (algorithm, material, public) = match jwk.member("kty").and_then(Json::text) {
        Some("RSA") => rsa(jwk, settle(stated, &[Algorithm::RS256, Algorithm::PS256], allowed)?)?,
        Some("EC") => ec(jwk, settle(stated, &[Algorithm::ES256], allowed)?)?,
        Some("OKP") => okp(jwk, settle(stated, &[Algorithm::EdDSA], allowed)?)?,
        Some("oct") => return Err("a shared secret has no place in a key set".to_owned()),
        Some(_) | None => return Err("its kty is none of RSA, EC, OKP".to_owned()),
    };
    Ok(Key { kid: kid.map(str::to_owned), algorithm, material, verifier: Verifier::Public(public) })
}

fn used_for_verifying(jwk: &Json) -> Result<(), Reason> {
    if jwk.member("use").is_some_and(|usage| usage.text() != Some("sig")) {
        return Err("its use is not sig".to_owned());
    }
    if let Some(operations) = jwk.member("key_ops") {
        let operations = operations.list().ok_or("its key_ops is no list")?;
        if !operations.iter().any(|operation| operation.text() == Some("verify")) {
            return Err("its key_ops lack verify".to_owned());
        }
    }
    Ok(())
}

/// One algorithm per key (RFC 8725 3.1): the stated one, or the only one of its type that the issuer uses.
fn settle(stated: Option<Algorithm>, of_type: &[Algorithm], allowed: &[Algorithm]) -> Result<Algorithm, Reason> {
    let mut usable = of_type.iter().copied().filter(|algorithm| allowed.contains(algorithm));
    match (stated, usable.next(), usable.next()) {
        (Some(stated), _, _) if !of_type.contains(&stated) => Err("its alg does not fit its kty".to_owned()),
        (Some(stated), _, _) if !allowed.contains(&stated) => {
            Err(format!("{stated:?} is not in the issuer's algorithms"))
        }
        (Some(stated), _, _) => Ok(stated),
        (None, Some(only), None) => Ok(only),
        (None, Some(_), Some(_)) => {
            Err("it has no alg, and the issuer's algorithms leave two for it; list one of RS256 and PS256".to_owned())
        }
        (None, None, _) => Err("its type fits none of the issuer's algorithms".to_owned()),
    }
}

type Parsed = (Algorithm, Vec<u8>, ParsedPublicKey);

fn rsa(jwk: &Json, algorithm: Algorithm) -> Result<Parsed, Reason> {
    let (n, e) = (octets(jwk, "n")?, octets(jwk, "e")?);
    if n.first() == Some(&0) || e.first() == Some(&0) {
        return Err("its modulus or exponent has a leading zero byte (RFC 7518 6.3.1)".to_owned());
    }
    let zeros = n.first().map_or(0, |byte| usize::try_from(byte.leading_zeros()).unwrap_or(0));
    let bits = n.len().saturating_mul(8).saturating_sub(zeros);
    if !(2048..=8192).contains(&bits) {
        return Err(format!("its modulus has {bits} bits; 2048 to 8192 are possible"));
    }
    let odd = |bytes: &[u8]| bytes.last().is_some_and(|byte| byte & 1 == 1);
    let exponent = e.iter().fold(0u64, |sum, byte| sum.saturating_mul(256).saturating_add(u64::from(*byte)));
    // Above 33 bits no library that matters verifies; the bound keeps verification cheap.
    if !odd(&e) || !(65_537..1 << 33).contains(&exponent) {
        return Err("its exponent is not odd, or not between 65537 and 2^33".to_owned());
    }
    if !odd(&n) {
        return Err("its modulus is even".to_owned());
    }
    if is_roca(&n) {
        return Err("its modulus is of a generator whose keys can be factored (ROCA, CVE-2017-15361)".to_owned());
    }
    let parameters: &'static RsaParameters = match algorithm {
        Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::PS256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::ES256 | Algorithm::EdDSA | Algorithm::HS256 => return Err("its alg does not fit its kty".to_owned()),
    };
    let public = RsaPublicKeyComponents { n: n.as_slice(), e: e.as_slice() }
        .to_parsed_public_key(parameters)
        .map_err(|_| "it is no valid RSA key")?;
    let material = [b"RSA".as_slice(), &e, b"/", &n].concat();
    Ok((algorithm, material, public))
}

/// The primes of the fingerprint below. Modulo most others up to 167 every number is a power of 65537.
const ROCA_PRIMES: [u32; 17] = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];

/// Whether a modulus is a power of 65537 modulo each of these primes: so are all that the faulty generator of some smart
/// cards and TPMs makes, and one in 2^27 of the others.
fn is_roca(modulus: &[u8]) -> bool {
    ROCA_PRIMES.iter().all(|&prime| {
        // No product is above 157 · 65537, and no prime is 0.
        let reduced = |number: u32| number.checked_rem(prime).unwrap_or(0);
        let residue = modulus
            .iter()
            .fold(0, |rest: u32, byte| reduced(rest.saturating_mul(256).saturating_add(u32::from(*byte))));
        let powers = std::iter::successors(Some(1), |power: &u32| Some(reduced(power.saturating_mul(65_537))));
        powers.take(usize::try_from(prime).unwrap_or(0)).any(|power| power == residue)
    })
}

fn ec(jwk: &Json, algorithm: Algorithm) -> Result<Parsed, Reason> {
    if jwk.member("crv").and_then(Json::text) != Some("P-256") {
        return Err("its curve is not P-256".to_owned());
    }
    let (x, y) = (octets(jwk, "x")?, octets(jwk, "y")?);
    if x.len() != 32 || y.len() != 32 {
        return Err("its coordinates are not 32 bytes each (RFC 7518 6.2.1)".to_owned());
    }
    let point = [[4].as_slice(), &x, &y].concat();
    let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).map_err(|_| "its point is not on the curve")?;
    Ok((algorithm, point, public))
}

fn okp(jwk: &Json, algorithm: Algorithm) -> Result<Parsed, Reason> {
    if jwk.member("crv").and_then(Json::text) != Some("Ed25519") {
        return Err("its curve is not Ed25519".to_owned());
    }
    let x: [u8; 32] = octets(jwk, "x")?.try_into().map_err(|_| "its x is not 32 bytes")?;
    ed25519(&x)?;
    let public = ParsedPublicKey::new(&ED25519, x).map_err(|_| "it is no valid Ed25519 key")?;
    let material = [b"OKP".as_slice(), &x].concat();
    Ok((algorithm, material, public))
}

/// 2^255 - 19, little-endian.
const FIELD: [u8; 32] = {
    let mut bytes = [0xff; 32];
    bytes[0] = 0xed;
    bytes[31] = 0x7f;
    bytes
};

/// The y coordinates of the points whose order divides 8, little-endian: 0, 1, -1 and the two of order 8. Under such a
/// key a signature without any private key verifies.
const SMALL_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    {
        let mut minus_one = FIELD;
        minus_one[0] = 0xec;
        minus_one
    },
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

/// Canonical and not of small order. A point that is not on the curve needs no check: nothing verifies under it.
fn ed25519(x: &[u8; 32]) -> Result<(), Reason> {
    let mut y = *x;
    if let Some(last) = y.last_mut() {
        *last &= 0x7f;
    }
    if y.iter().rev().ge(FIELD.iter().rev()) {
        return Err("its point is not canonical".to_owned());
    }
    if SMALL_ORDER.contains(&y) {
        return Err("its point has a small order: anybody could sign".to_owned());
    }
    Ok(())
}

fn octets(jwk: &Json, name: &str) -> Result<Vec<u8>, Reason> {
    let text = jwk.member(name).and_then(Json::text).ok_or_else(|| format!("its {name} is missing"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("its {name} is no base64url"))
}
