//! The connections of the port. Their number is bounded: per address, and in all. So is the cost of
//! each, whatever its client does or leaves undone: `watch` ends a connection whose client does not
//! read, and slows down one that only wakes itself.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ipnet::IpNet;
use parking_lot::Mutex;

use crate::network::Network;

/// What a connection does: the bytes it moves, and the requests that it answers.
pub mod activity;
/// The answer to a connection that finds no room.
pub mod refusal;
/// Tells whether a task woke itself.
mod self_wakes;
/// A stream that reports what it moves.
pub mod stream;
/// Ends or slows down a connection that comes to nothing.
pub mod watch;

/// How many connections there may be.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// `None`: addresses are not counted.
    pub per_address: Option<usize>,
    pub in_all: usize,
    /// The proxies, whose connections are many clients' and are not counted by address.
    pub proxies: Vec<IpNet>,
    /// How long a client may leave an answer unread, or a request unfinished.
    pub stall: Duration,
}

/// Counts the open connections.
#[derive(Clone)]
pub struct Connections {
    pub limits: Arc<ConnectionLimits>,
    open: Arc<Mutex<OpenConnections>>,
}

#[derive(Default)]
struct OpenConnections {
    in_all: usize,
    /// Bounded by the connections in all.
    by_network: HashMap<Network, usize>,
}

/// An open connection. Dropping it makes room for another.
pub struct ConnectionSlot {
    connections: Connections,
    /// `None`: a proxy's.
    network: Option<Network>,
}

/// There is no room for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// The address has its share.
    AtAddress,
    InAll,
}

impl Connections {
    pub fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits: Arc::new(limits),
            open: Arc::default(),
        }
    }

    /// Takes a slot for a connection from this address.
    pub fn admit(&self, peer: IpAddr) -> Result<ConnectionSlot, NoRoom> {
        let network = self.counted(peer);
        let mut open = self.open.lock();
        if open.in_all >= self.limits.in_all {
            return Err(NoRoom::InAll);
        }
        if let (Some(network), Some(most)) = (network, self.limits.per_address) {
            let there = open.by_network.entry(network).or_default();
            if *there >= most {
                return Err(NoRoom::AtAddress);
            }
            *there += 1;
        }
        open.in_all += 1;
        Ok(ConnectionSlot {
            connections: self.clone(),
            network,
        })
    }

    /// The network by which a peer is counted; `None` when it is not.
    fn counted(&self, peer: IpAddr) -> Option<Network> {
        let peer = peer.to_canonical();
        let is_proxy = self
            .limits
            .proxies
            .iter()
            .any(|proxies| proxies.contains(&peer));
        let is_counted = self.limits.per_address.is_some() && !is_proxy;
        is_counted.then(|| Network::of(peer))
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock();
        open.in_all -= 1;
        let Some(network) = self.network else { return };
        if let Some(there) = open.by_network.get_mut(&network) {
            *there -= 1;
            if *there == 0 {
                open.by_network.remove(&network);
            }
        }
    }
}

/// Polls a timer that need not be set.
fn is_over(timer: &mut Option<std::pin::Pin<Box<tokio::time::Sleep>>>, cx: &mut Context) -> bool {
    timer
        .as_mut()
        .is_some_and(|timer| matches!(timer.as_mut().poll(cx), Poll::Ready(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(per_address: Option<usize>, in_all: usize) -> Connections {
        Connections::new(ConnectionLimits {
            per_address,
            in_all,
            proxies: vec!["10.0.0.0/8".parse().unwrap()],
            stall: Duration::from_secs(30),
        })
    }

    fn admit(connections: &Connections, peer: &str) -> Result<ConnectionSlot, NoRoom> {
        connections.admit(peer.parse().unwrap())
    }

    #[test]
    fn an_address_has_its_share_and_a_proxy_as_many_as_there_is_room_for() {
        let connections = connections(Some(2), 6);
        let first = admit(&connections, "2001:db8::1").unwrap();
        let _second = admit(&connections, "2001:db8::2").unwrap();
        assert_eq!(
            admit(&connections, "2001:db8::3").err(),
            Some(NoRoom::AtAddress),
            "the same network"
        );
        let _other = admit(&connections, "2001:db8:0:1::1").unwrap();
        let _proxy = [(); 3].map(|()| admit(&connections, "::ffff:10.1.2.3").unwrap());
        assert_eq!(admit(&connections, "192.0.2.7").err(), Some(NoRoom::InAll));
        drop(first);
        let _again = admit(&connections, "2001:db8::3").unwrap();
    }

    #[test]
    fn nothing_is_kept_of_connections_that_have_ended() {
        let connections = connections(Some(2), 6);
        drop(["192.0.2.7", "192.0.2.8"].map(|peer| admit(&connections, peer).unwrap()));
        assert!(connections.open.lock().by_network.is_empty());
        assert_eq!(connections.open.lock().in_all, 0);
    }
}
