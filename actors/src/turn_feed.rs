//! A running turn as its readers see it: a growing text, and its end. Invariant: every byte that is shown is
//! committed to the journal. Each reader keeps its own place, so a slow one holds nobody up.

use std::{collections::HashMap, sync::Arc};

use genie_events::{TurnId, UserId, chat::TurnAnswer};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

#[derive(Debug, Clone, Default)]
pub struct TurnProgress {
    /// The interrupted turn that this one goes on with.
    pub continues: Option<TurnId>,
    pub stage: TurnStage,
    /// The part of the answer that is committed.
    pub text: String,
    pub ended: Option<TurnEnd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TurnStage {
    /// The supervisor has not seen the turn yet.
    #[default]
    Accepted,
    /// The turn waits for the model server.
    Queued {
        /// From 1.
        place: usize,
        /// The estimated wait in milliseconds; unknown before anything ran.
        eta_ms: Option<u64>,
    },
    /// The model server loads the model.
    Loading,
    /// The model reads or writes.
    Running,
}

#[derive(Debug, Clone)]
pub struct TurnEnd {
    pub answer: TurnAnswer,
    /// The position of the turn's last fact.
    pub position: u64,
}

/// The turns that run on this node.
#[derive(Debug, Clone, Default)]
pub struct TurnFeeds(Arc<Mutex<HashMap<TurnId, TurnFeed>>>);

#[derive(Debug)]
struct TurnFeed {
    user: UserId,
    progress: watch::Sender<TurnProgress>,
}

impl TurnFeeds {
    /// Opens a turn's feed, or joins the one that is open.
    pub fn open(&self, turn: TurnId, user: UserId) -> watch::Receiver<TurnProgress> {
        let mut feeds = self.lock();
        feeds
            .entry(turn)
            .or_insert_with(|| TurnFeed {
                user,
                progress: watch::Sender::default(),
            })
            .progress
            .subscribe()
    }

    /// The feed of a turn that runs here and belongs to this user.
    pub fn find(&self, turn: TurnId, user: UserId) -> Option<watch::Receiver<TurnProgress>> {
        self.lock()
            .get(&turn)
            .filter(|feed| feed.user == user)
            .map(|feed| feed.progress.subscribe())
    }

    /// Notes the interrupted turn that a new one goes on with.
    pub(crate) fn continues(&self, turn: TurnId, continues: Option<TurnId>) {
        if continues.is_some() {
            self.change(turn, |progress| progress.continues = continues);
        }
    }

    pub(crate) fn stage(&self, turn: TurnId, stage: TurnStage) {
        self.change(turn, |progress| progress.stage = stage);
    }

    /// Shows more text, which must be committed.
    pub(crate) fn show(&self, turn: TurnId, text: &str) {
        self.change(turn, |progress| {
            progress.stage = TurnStage::Running;
            progress.text.push_str(text);
        });
    }

    /// Ends a feed. Its readers keep what they have; later readers find the turn in the log.
    pub(crate) fn end(&self, turn: TurnId, ended: TurnEnd) {
        self.change(turn, |progress| progress.ended = Some(ended));
        self.lock().remove(&turn);
    }

    /// Closes a feed without an end: the turn goes on elsewhere, or never began.
    pub fn close(&self, turn: TurnId) {
        self.lock().remove(&turn);
    }

    fn change(&self, turn: TurnId, change: impl FnOnce(&mut TurnProgress)) {
        if let Some(feed) = self.lock().get(&turn) {
            feed.progress.send_modify(change);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TurnId, TurnFeed>> {
        self.0.lock()
    }
}
