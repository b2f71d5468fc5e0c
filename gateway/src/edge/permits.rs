//! How many may come in: connections in all, connections of one client network, handshakes at the same time.
//!
//! A permit is held by the stream itself, so it lasts as long as the socket, through an upgrade too.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;
use portcullis_config::document::Bounds;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::ListenerRuntime;

/// One network may hold a quarter of the handshakes: a single one that stalls them cannot keep all others out.
const HANDSHAKE_SHARES: usize = 4;

/// The permits of a listener.
#[derive(Debug)]
pub(super) struct Permits {
    connections: Arc<Semaphore>,
    handshakes: Semaphore,
    handshakes_per_network: usize,
    per_network_max: u32,
    networks: Mutex<HashMap<IpAddr, Network>>,
}

#[derive(Debug)]
struct Network {
    open: u32,
    handshakes: Arc<Semaphore>,
}

impl Permits {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let len = |n: u32| usize::try_from(n).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let handshakes = len(bounds.handshakes_max.get());
        Self {
            connections: Arc::new(Semaphore::new(len(bounds.connections_max.get()))),
            handshakes: Semaphore::new(handshakes),
            handshakes_per_network: handshakes.div_ceil(HANDSHAKE_SHARES),
            per_network_max: bounds.connections_per_network_max.get(),
            networks: Mutex::new(HashMap::new()),
        }
    }

    /// Waits for a turn to do the costly part of a handshake. The caller sets the deadline.
    pub(super) async fn handshake<'p>(&'p self, of: &NetworkPermit) -> Result<HandshakePermit<'p>, AcquireError> {
        // The network's share first: who waits for it holds none of what others need.
        let share = Arc::clone(&of.handshakes).acquire_owned().await?;
        Ok(HandshakePermit { _share: share, _turn: self.handshakes.acquire().await? })
    }
}

/// A turn at the handshake.
#[derive(Debug)]
pub(super) struct HandshakePermit<'p> {
    _share: OwnedSemaphorePermit,
    _turn: SemaphorePermit<'p>,
}

/// An open connection of a listener: reported when taken and when dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    listener: Arc<ListenerRuntime>,
    _turn: OwnedSemaphorePermit,
}

impl ConnectionPermit {
    /// None when the listener is full.
    pub(super) fn take(listener: &Arc<ListenerRuntime>) -> Option<Self> {
        let turn = Arc::clone(&listener.permits().connections).try_acquire_owned().ok()?;
        listener.events().connection_opened(listener);
        Some(Self { listener: Arc::clone(listener), _turn: turn })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.listener.events().connection_closed(&self.listener);
    }
}

/// A connection of a client network.
#[derive(Debug)]
pub(super) struct NetworkPermit {
    listener: Arc<ListenerRuntime>,
    network: IpAddr,
    handshakes: Arc<Semaphore>,
}

impl NetworkPermit {
    /// None when the client's network has as many connections as one may have.
    pub(super) fn take(listener: &Arc<ListenerRuntime>, client: IpAddr) -> Option<Self> {
        let permits = listener.permits();
        let network = network_of(client);
        let mut networks = permits.networks.lock();
        let entry = networks.entry(network).or_insert_with(|| Network {
            open: 0,
            handshakes: Arc::new(Semaphore::new(permits.handshakes_per_network)),
        });
        if entry.open >= permits.per_network_max {
            return None;
        }
        entry.open = entry.open.saturating_add(1);
        let handshakes = Arc::clone(&entry.handshakes);
        drop(networks);
        Some(Self { listener: Arc::clone(listener), network, handshakes })
    }
}

impl Drop for NetworkPermit {
    fn drop(&mut self) {
        let mut networks = self.listener.permits().networks.lock();
        if let Some(entry) = networks.get_mut(&self.network) {
            entry.open = entry.open.saturating_sub(1);
            if entry.open == 0 {
                networks.remove(&self.network);
            }
        }
    }
}

/// The /24 of an IPv4 address, the /56 of an IPv6 address: what one customer usually has.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) & (u32::MAX << 8)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & (u128::MAX << 72)).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::edge::tests::{Recorder, listener};

    #[test]
    fn a_network_is_a_24_or_a_56_and_mapped_addresses_are_ipv4() {
        for (ip, network) in [
            ("203.0.113.9", "203.0.113.0"),
            ("::ffff:203.0.113.9", "203.0.113.0"),
            ("2001:db8:0:12ff:ffff::1", "2001:db8:0:1200::"),
            ("2001:db8:0:1300::1", "2001:db8:0:1300::"),
        ] {
            assert_eq!(network_of(ip.parse().unwrap()), network.parse::<IpAddr>().unwrap(), "{ip}");
        }
    }

    fn bounds(connections: u32, per_network: u32, handshakes: u32) -> Bounds {
        Bounds {
            connections_max: NonZeroU32::new(connections).unwrap(),
            connections_per_network_max: NonZeroU32::new(per_network).unwrap(),
            handshakes_max: NonZeroU32::new(handshakes).unwrap(),
            ..Bounds::default()
        }
    }

    #[test]
    fn one_past_the_bound_of_a_network_is_refused_and_its_neighbour_is_not() {
        let (events, _log) = Recorder::new();
        let listener = listener(bounds(10, 2, 4), events);
        let take = |ip: &str| NetworkPermit::take(&listener, ip.parse().unwrap());
        let first = take("192.0.2.1");
        let second = take("192.0.2.200");
        assert!(first.is_some() && second.is_some());
        assert!(take("192.0.2.3").is_none());
        assert!(take("192.0.3.3").is_some());
        drop(first);
        assert!(take("192.0.2.3").is_some());
        drop(second);
        assert!(listener.permits().networks.lock().is_empty(), "nothing is kept of networks that have left");
    }

    #[tokio::test]
    async fn a_network_that_stalls_its_handshakes_leaves_turns_for_others() {
        let (events, _log) = Recorder::new();
        let listener = listener(bounds(10, 10, 4), events);
        let bad = NetworkPermit::take(&listener, "192.0.2.1".parse().unwrap()).unwrap();
        let good = NetworkPermit::take(&listener, "198.51.100.1".parse().unwrap()).unwrap();
        let _stalled = listener.permits().handshake(&bad).await.unwrap();
        let second = listener.permits().handshake(&bad);
        assert!(futures::FutureExt::now_or_never(second).is_none(), "a quarter of 4 is 1");
        assert!(futures::FutureExt::now_or_never(listener.permits().handshake(&good)).is_some());
    }
}
