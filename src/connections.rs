//! The connections of the port. Their number is bounded: per address, and in all. So is the cost of
//! each, whatever its client does or leaves undone: `watch` ends a connection whose client does not
//! read, and slows down one that only wakes itself.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ipnet::IpNet;
use tokio::time::Sleep;

use crate::{
    network::Network,
    shares::{NoShare, Share, Shares},
};

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

/// How many connections there may be, and what their clients may leave undone.
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
pub struct ClientConnections {
    pub limits: Arc<ConnectionLimits>,
    open: Shares<Network>,
}

impl ClientConnections {
    pub fn new(limits: ConnectionLimits) -> Self {
        Self {
            open: Shares::new(limits.per_address, limits.in_all),
            limits: Arc::new(limits),
        }
    }

    /// Takes a place for a connection from this address, until the place is dropped.
    pub fn admit(&self, peer: IpAddr) -> Result<Share<Network>, NoShare> {
        let peer = peer.to_canonical();
        let proxies = &self.limits.proxies;
        let is_proxy = proxies.iter().any(|network| network.contains(&peer));
        self.open.take((!is_proxy).then(|| Network::of(peer)))
    }
}

/// Polls a timer that need not be set.
fn is_over(timer: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context) -> bool {
    timer
        .as_mut()
        .is_some_and(|timer| matches!(timer.as_mut().poll(cx), Poll::Ready(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_share_and_a_proxy_as_many_as_there_is_room_for() {
        let connections = ClientConnections::new(ConnectionLimits {
            per_address: Some(2),
            in_all: 5,
            proxies: vec!["10.0.0.0/8".parse().unwrap()],
            stall: Duration::from_secs(30),
        });
        let admit = |peer: &str| connections.admit(peer.parse().unwrap());
        let _network = ["2001:db8::1", "2001:db8::2"].map(|peer| admit(peer).ok().unwrap());
        assert_eq!(admit("2001:db8::3").err(), Some(NoShare::OfHolder));
        let _proxy = [(); 3].map(|()| admit("::ffff:10.1.2.3").ok().unwrap());
        assert_eq!(admit("192.0.2.7").err(), Some(NoShare::InAll));
    }
}
