//! One projection, as the runner knows it.

use std::collections::HashMap;

use genie_events::{StreamId, StreamKind};
use uuid::Uuid;

use super::FactBatch;
use crate::projection::{Projection, Seen};

pub(super) struct ProjectionMember {
    pub projection: Box<dyn Projection>,
    /// The position of a projection that does not stand at the common checkpoint.
    pub own: Option<u64>,
    pub is_stopped: bool,
    /// The streams that the projection left behind, and where.
    damaged: HashMap<StreamId, u64>,
}

/// A row that cannot be read.
pub(super) struct DamagedRow {
    pub kind: String,
    pub id: String,
    pub position: u64,
    pub reason: String,
}

impl DamagedRow {
    /// `None` for a kind that this release does not know.
    fn stream(&self) -> Option<StreamId> {
        let kind = StreamKind::parse(&self.kind)?;
        Some(StreamId::new(kind, self.id.parse::<Uuid>().ok()?))
    }
}

impl ProjectionMember {
    pub fn new(projection: Box<dyn Projection>) -> Self {
        Self {
            projection,
            own: None,
            is_stopped: false,
            damaged: HashMap::new(),
        }
    }

    /// The name that the projection's state is stored under.
    pub fn stored_name(&self) -> String {
        stored_name(self.projection.as_ref())
    }

    /// Takes its facts with the others. After a crash it may be a batch ahead of them.
    pub fn is_with_others(&self, checkpoint: u64) -> bool {
        !self.is_stopped && self.own.is_none_or(|own| own >= checkpoint)
    }

    pub fn is_behind(&self, checkpoint: u64) -> bool {
        !self.is_stopped && self.own.is_some_and(|own| own < checkpoint)
    }

    pub fn stop(&mut self, at: u64) {
        self.own = Some(at);
        self.is_stopped = true;
    }

    /// True when a batch of all takes this projection to where the others are, so that it needs no
    /// position of its own any longer.
    pub fn joins(&self, from: u64, to: u64) -> bool {
        self.is_with_others(from) && self.own.is_some_and(|own| own <= to)
    }

    /// Takes the state that is stored.
    pub fn load(&mut self, own: Option<u64>) {
        self.own = own;
        self.is_stopped = false;
    }

    pub fn wants(&self, damage: &DamagedRow) -> bool {
        StreamKind::parse(&damage.kind).is_none_or(|kind| self.projection.wants(kind))
    }

    pub fn leave_behind(&mut self, damage: &[DamagedRow]) {
        for one in damage {
            let stream = one.stream().filter(|_| self.wants(one));
            if let Some(stream) = stream {
                self.damaged.entry(stream).or_insert(one.position);
            }
        }
    }

    /// The facts of a batch that this projection applies: those of streams that it wants, after its
    /// own position, and before a damaged row of their stream.
    pub fn facts<'a>(&self, batch: &'a FactBatch) -> Vec<Seen<'a>> {
        let after = self.own.unwrap_or(batch.from);
        let is_readable = |seen: &Seen<'_>| {
            let stream = &seen.fact.stream;
            let is_newly_damaged = batch.damage.iter().any(|damage| {
                damage.kind == stream.kind.as_str()
                    && damage.id == seen.id()
                    && damage.position < seen.fact.position
            });
            !is_newly_damaged && !self.damaged.contains_key(stream)
        };
        batch
            .facts
            .iter()
            .filter(|fact| fact.position > after && self.projection.wants(fact.stream.kind))
            .filter_map(FactBatch::seen)
            .filter(is_readable)
            .collect()
    }
}

/// The name that a projection's state is stored under.
pub(crate) fn stored_name(projection: &dyn Projection) -> String {
    format!("{}.v1", projection.name()) // as stores have it
}
