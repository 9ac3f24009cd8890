//! Limits the streams that are open at once: chats, feeds, and claims that wait for work. Each holds
//! a connection, and memory, for as long as its client likes.

use genie_events::UserId;

use crate::shares::{NoShare, Share, Shares};

#[derive(Clone)]
pub struct Streams(Shares<UserId>);

/// An open stream. It is dropped at the stream's end, or when its client goes away.
pub type OpenStream = Share<UserId>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooManyStreams {
    #[error("You have as many streams open as you may have; close one")]
    OfUser,
    #[error("The server has as many streams open as it may have; try again shortly")]
    InAll,
}

impl Streams {
    pub fn new(per_user: usize, in_all: usize) -> Self {
        Self(Shares::new(Some(per_user), in_all))
    }

    /// Opens a stream. Those of servers, workers and subscribers belong to no user.
    pub fn open(&self, user: Option<UserId>) -> Result<OpenStream, TooManyStreams> {
        self.0.take(user).map_err(|none| match none {
            NoShare::OfHolder => TooManyStreams::OfUser,
            NoShare::InAll => TooManyStreams::InAll,
        })
    }
}
