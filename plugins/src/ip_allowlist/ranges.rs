//! A set of addresses for fast look-ups: sorted, merged ranges, and a binary search over their starts.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_api::Cidrs;

/// Addresses of both families. Empty holds nobody.
#[derive(Debug)]
pub(super) struct Ranges {
    v4: Family<u32>,
    v6: Family<u128>,
}

/// Starts and ends apart: the search touches the starts only, so half the memory is warm.
///
/// Invariant: same length, starts ascending, no two ranges touch.
#[derive(Debug)]
struct Family<T> {
    starts: Box<[T]>,
    ends: Box<[T]>,
}

impl Ranges {
    pub(super) fn new(cidrs: &Cidrs) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in cidrs.nets() {
            match net {
                IpNet::V4(net) => v4.push((u32::from(net.network()), u32::from(net.broadcast()))),
                IpNet::V6(net) => v6.push((u128::from(net.network()), u128::from(net.broadcast()))),
            }
        }
        Self { v4: Family::new(v4, |end| end.checked_add(1)), v6: Family::new(v6, |end| end.checked_add(1)) }
    }

    /// `ip` must be canonical: an IPv4-mapped IPv6 address is looked up as IPv6.
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.contains(u32::from(ip)),
            IpAddr::V6(ip) => self.v6.contains(u128::from(ip)),
        }
    }
}

impl<T: Copy + Ord> Family<T> {
    fn new(mut ranges: Vec<(T, T)>, after: impl Fn(T) -> Option<T>) -> Self {
        ranges.sort_unstable();
        let (mut starts, mut ends) = (Vec::<T>::new(), Vec::<T>::new());
        for (start, end) in ranges {
            match ends.last_mut() {
                // No successor means that the last range reaches the top: it holds whatever comes after its start.
                Some(last) if after(*last).is_none_or(|next| start <= next) => *last = end.max(*last),
                Some(_) | None => {
                    starts.push(start);
                    ends.push(end);
                }
            }
        }
        Self { starts: starts.into(), ends: ends.into() }
    }

    fn contains(&self, address: T) -> bool {
        let at_or_before = self.starts.partition_point(|start| *start <= address);
        at_or_before.checked_sub(1).and_then(|index| self.ends.get(index)).is_some_and(|end| address <= *end)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn cidrs(texts: &[&str]) -> Cidrs {
        Cidrs::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn holds(ranges: &Ranges, ip: &str) -> bool {
        ranges.contains(ip.parse().unwrap())
    }

    #[test]
    fn neighbours_and_overlaps_become_one_range_and_gaps_stay() {
        let ranges = Ranges::new(&cidrs(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25", "10.0.3.0/24"]));
        assert_eq!(ranges.v4.starts.len(), 2);
        for (ip, inside) in [
            ("9.255.255.255", false),
            ("10.0.0.0", true),
            ("10.0.1.255", true),
            ("10.0.2.0", false),
            ("10.0.2.255", false),
            ("10.0.3.0", true),
            ("10.0.3.255", true),
            ("10.0.4.0", false),
        ] {
            assert_eq!(holds(&ranges, ip), inside, "{ip}");
        }
    }

    #[test]
    fn the_whole_of_one_family_is_nothing_of_the_other() {
        let v4 = Ranges::new(&cidrs(&["0.0.0.0/0", "255.255.255.255/32"]));
        assert!(holds(&v4, "0.0.0.0") && holds(&v4, "255.255.255.255"));
        assert!(!holds(&v4, "::") && !holds(&v4, "::ffff:1.2.3.4"));
        let v6 = Ranges::new(&cidrs(&["::/0"]));
        assert!(holds(&v6, "::") && holds(&v6, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        assert!(!holds(&v6, "1.2.3.4"));
    }

    #[test]
    fn an_empty_list_holds_nobody() {
        let ranges = Ranges::new(&cidrs(&[]));
        assert!(!holds(&ranges, "127.0.0.1") && !holds(&ranges, "::1"));
    }

    fn net4() -> impl Strategy<Value = IpNet> {
        // Half of them crowd into one /16, so that they overlap and touch.
        (any::<u32>(), 0..=32u8, any::<bool>()).prop_map(|(bits, len, crowd)| {
            let (bits, len) = if crowd { (0x0A00_0000 | (bits & 0xFFFF), len.max(20)) } else { (bits, len.max(8)) };
            IpNet::V4(Ipv4Net::new(Ipv4Addr::from(bits), len).unwrap().trunc())
        })
    }

    fn net6() -> impl Strategy<Value = IpNet> {
        (any::<u128>(), 0..=128u8, any::<bool>()).prop_map(|(bits, len, crowd)| {
            let top = 0x2001_0db8_u128 << 96;
            let (bits, len) = if crowd { (top | (bits & 0xFFFF), len.max(112)) } else { (bits, len.max(16)) };
            IpNet::V6(Ipv6Net::new(Ipv6Addr::from(bits), len).unwrap().trunc())
        })
    }

    /// Addresses at each edge of a network and one past it.
    fn edges(net: &IpNet) -> Vec<IpAddr> {
        match net {
            IpNet::V4(net) => {
                let (low, high) = (u32::from(net.network()), u32::from(net.broadcast()));
                [low, high, low.wrapping_sub(1), high.wrapping_add(1)].map(|ip| Ipv4Addr::from(ip).into()).to_vec()
            }
            IpNet::V6(net) => {
                let (low, high) = (u128::from(net.network()), u128::from(net.broadcast()));
                [low, high, low.wrapping_sub(1), high.wrapping_add(1)].map(|ip| Ipv6Addr::from(ip).into()).to_vec()
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_look_up_answers_as_a_walk_over_the_list_does(
            nets in vec(prop_oneof![net4(), net6()], 0..60),
            others in vec(prop_oneof![net4(), net6()], 0..60),
        ) {
            let cidrs = Cidrs::new(nets.clone());
            let ranges = Ranges::new(&cidrs);
            for ip in nets.iter().chain(&others).flat_map(edges) {
                prop_assert_eq!(ranges.contains(ip), cidrs.contains(ip), "{}", ip);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2))]
        #[test]
        fn ten_thousand_networks_answer_as_a_walk_over_them_does(
            nets in vec(prop_oneof![net4(), net6()], 10_000),
            probes in vec(prop_oneof![net4(), net6()], 50),
        ) {
            let cidrs = Cidrs::new(nets.clone());
            let ranges = Ranges::new(&cidrs);
            for ip in nets.iter().step_by(200).chain(&probes).flat_map(edges) {
                prop_assert_eq!(ranges.contains(ip), cidrs.contains(ip), "{}", ip);
            }
        }
    }
}
