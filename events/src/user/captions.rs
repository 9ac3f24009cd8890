//! Captions of a user: the unit that is counted for one, and given back when it fails.

use super::{User, changes, quota::counted_unit};
use crate::{
    Now,
    caption::{Brief, Caption, CaptionCommand, WrittenCaption},
    chat::Failure,
    event::Change,
    ids::CaptionId,
    refusal::Refusal,
    tier::Counter,
    usage::Unit,
};

impl User {
    pub(super) fn request_caption(
        &self,
        now: &Now,
        caption: CaptionId,
        brief: Brief,
    ) -> Result<Vec<Change>, Refusal> {
        if self.captions.contains_key(&caption) {
            return Ok(vec![]);
        }
        let mut all = self.can_perform(now, Counter::PostsAiAssisted, 1)?;
        // The month that was really counted in. It stays the same if the clock jumps back.
        let month = counted_unit(&all).map_or(now.moment.month(), |unit| unit.month);
        let events = Caption::Absent.decide(CaptionCommand::Request { brief, month })?;
        all.extend(changes(caption, events));
        Ok(all)
    }

    /// Each is decided on what those before it leave behind, so together they keep to the limit.
    pub(super) fn request_captions(
        &self,
        now: &Now,
        captions: &[CaptionId],
        brief: &Brief,
    ) -> Result<Vec<Change>, Refusal> {
        let mut draft = self.clone();
        let mut all = Vec::new();
        for caption in captions {
            let changes = draft.request_caption(now, *caption, brief.clone())?;
            for change in &changes {
                let sequence = draft.sequence(&change.stream) + 1;
                draft.evolve(&change.stream, sequence, change.event.clone());
            }
            all.extend(changes);
        }
        Ok(all)
    }

    pub(super) fn finish_caption(
        &self,
        id: CaptionId,
        result: Result<WrittenCaption, Failure>,
    ) -> Result<Vec<Change>, Refusal> {
        let Some(Caption::Requested { month }) = self.captions.get(&id) else {
            return Ok(vec![]); // the caption ended before, and ended captions are left out of the state
        };
        let failed = result.is_err();
        let events = Caption::Requested { month: *month }.decide(CaptionCommand::Finish(result))?;
        let mut all = changes(id, events);
        if failed {
            all.extend(self.give_back(Unit {
                counter: Counter::PostsAiAssisted,
                month: *month,
            })?);
        }
        Ok(all)
    }
}
