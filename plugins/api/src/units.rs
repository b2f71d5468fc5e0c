//! Units live in the value: `"10s"`, `"64KiB"`, `"203.0.113.0/24"`. Zero and empty are refused, they never mean "off".

use std::{fmt, net::IpAddr, time::Duration};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().map_or('0', char::from);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// A duration written as `"25ms"`, `"10s"`, `"5m"`, `"1h"` or `"7d"`; more than zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String")]
pub struct Millis(u64);

impl Millis {
    /// From a number of milliseconds; zero becomes one.
    #[must_use]
    pub const fn new(millis: u64) -> Self {
        Self(if millis == 0 { 1 } else { millis })
    }

    /// From a number of seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self::new(seconds.saturating_mul(1000))
    }

    /// In milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// In microseconds.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0.saturating_mul(1000)
    }

    /// In whole seconds, rounded up.
    #[must_use]
    pub const fn as_secs_ceil(self) -> u64 {
        self.0.div_ceil(1000)
    }

    /// As a [`Duration`].
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Parses the text form.
    ///
    /// # Errors
    /// A message for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => {
                return Err(format!(
                    "`{text}` is no duration: write a number and one of ms, s, m, h, d, as in \"10s\""
                ));
            }
        };
        let value: u64 =
            number.parse().map_err(|_| format!("`{text}` is no duration: `{number}` is no whole number"))?;
        match value.checked_mul(factor) {
            Some(0) => {
                Err(format!("`{text}` is zero; a duration is more than zero, and nothing is switched off by a zero"))
            }
            Some(millis) => Ok(Self(millis)),
            None => Err(format!("`{text}` is too long")),
        }
    }
}

/// A size in bytes written as `"512B"`, `"64KiB"`, `"1MiB"` or `"1GiB"`; more than zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String")]
pub struct Size(u64);

impl Size {
    /// From a number of bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// In bytes, for lengths in memory.
    #[must_use]
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Parses the text form.
    ///
    /// # Errors
    /// A message for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let factor: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => {
                return Err(format!(
                    "`{text}` is no size: write a number and one of B, KiB, MiB, GiB, as in \"64KiB\""
                ));
            }
        };
        let value: u64 = number.parse().map_err(|_| format!("`{text}` is no size: `{number}` is no whole number"))?;
        match value.checked_mul(factor) {
            Some(0) => {
                Err(format!("`{text}` is zero; a size is more than zero, and nothing is switched off by a zero"))
            }
            Some(bytes) => Ok(Self(bytes)),
            None => Err(format!("`{text}` is too large")),
        }
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at_checked(text.bytes().take_while(u8::is_ascii_digit).count()).unwrap_or((text, ""))
}

macro_rules! unit_text {
    ($($name:ident, $fmt:expr;)+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let units: &[(u64, &str)] = $fmt;
                let (factor, unit) = units.iter().find(|(factor, _)| self.0.is_multiple_of(*factor)).unwrap_or(&(1, ""));
                write!(f, "{}{unit}", self.0.checked_div(*factor).unwrap_or(self.0))
            }
        }
    )+};
}
unit_text! {
    Millis, &[(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    Size, &[(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")];
}

/// A list of networks, `["10.0.0.0/8", "2001:db8::/32"]`. Host bits must be zero; a lone address is a /32 or /128.
///
/// An empty list is legal text and holds nothing: it denies.
#[derive(Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[schemars(with = "Vec<String>")]
pub struct Cidrs(Vec<IpNet>);

impl Cidrs {
    /// Takes the networks as they are.
    #[must_use]
    pub fn new(nets: Vec<IpNet>) -> Self {
        Self(nets)
    }

    /// The networks as written.
    #[must_use]
    pub fn nets(&self) -> &[IpNet] {
        &self.0
    }

    /// A linear look-up, for short lists.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&ip))
    }
}

impl<'de> Deserialize<'de> for Cidrs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| parse_net(text).map_err(de::Error::custom)).collect::<Result<_, _>>().map(Self)
    }
}

fn parse_net(text: &str) -> Result<IpNet, String> {
    let net =
        match text.parse::<IpNet>() {
            Ok(net) => net,
            Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(|_| {
                format!("`{text}` is no network: write one as in \"203.0.113.0/24\" or \"2001:db8::/32\"")
            })?),
        };
    if net.trunc() != net {
        return Err(format!("`{text}` has host bits set; did you mean `{}`?", net.trunc()));
    }
    if let IpNet::V6(v6) = net
        && v6.addr().to_ipv4_mapped().is_some()
    {
        return Err(format!(
            "`{text}` is an IPv4-mapped network; write the IPv4 network, mapped addresses are settled before any look-up"
        ));
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_parse_print_and_refuse_zero() {
        assert_eq!(Millis::parse("10s").map(Millis::as_millis), Ok(10_000));
        assert_eq!(Millis::new(90_000).to_string(), "90s");
        assert_eq!(Size::parse("64KiB").map(Size::bytes), Ok(65_536));
        assert_eq!(Size::new(1 << 20).to_string(), "1MiB");
        for bad in ["", "10", "0s", "s", "-1s", "1.5s", "1 s", "1w", "99999999999999999999s", "18446744073709551615d"] {
            assert!(Millis::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "64", "0B", "64kb", "64K", "-1B"] {
            assert!(Size::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_with_host_bits_is_refused_with_the_network_it_means() {
        assert_eq!(parse_net("10.0.0.1/8").unwrap_err(), "`10.0.0.1/8` has host bits set; did you mean `10.0.0.0/8`?");
        assert!(parse_net("::ffff:10.0.0.0/104").is_err());
        assert!(parse_net("192.0.2.7").is_ok());
    }
}
