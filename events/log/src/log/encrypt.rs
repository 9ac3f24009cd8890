//! Seals facts for the store, and opens them again.

use std::sync::Arc;

use genie_events::{account::FORGOTTEN, known_words};

use super::Log;
use crate::{
    AppendError, AppendRequest, Fact, FactBody, LogError, LogReader, Owner, Remember, StoredRow,
    UserKeys, Work,
    append::{Group, MAX_EVENT_BYTES, MAX_EVENTS, Request},
    idempotency,
    keys::KeyState,
    stored_row::{DigestCheck, slice_of, stored_stream},
    unfinished,
};

impl Log {
    pub(crate) async fn seal(&self, append: AppendRequest) -> Result<Request, AppendError> {
        let count: usize = append.groups.iter().map(|group| group.facts.len()).sum();
        if count == 0 || count > MAX_EVENTS {
            return Err(AppendError::TooLarge(format!(
                "{count} events, where 1 to {MAX_EVENTS} are allowed"
            )));
        }
        let mut rows = Vec::with_capacity(count);
        let mut work = append.work;
        let mut system_owners = Vec::new();
        for group in append.groups {
            let ends_a_user = group
                .facts
                .iter()
                .all(|fact| fact.event.type_name() == FORGOTTEN);
            let keys = match &group.keys {
                Some(keys) => Arc::clone(keys),
                // The fact of the forgetting does not need the user's key, which perhaps nobody can
                // open any more.
                None if ends_a_user => Arc::clone(&self.0.system),
                None => match self.keys().of(group.owner.key_owner()).await {
                    Ok(KeyState::Live(keys)) => keys,
                    Ok(KeyState::Destroyed) => return Err(AppendError::KeyNotLive),
                    Err(error) => return Err(error.into()),
                },
            };
            if matches!(group.owner, Owner::System(_)) {
                system_owners.push(group.owner.id());
            }
            for (n, fact) in (1..).zip(&group.facts) {
                // A number that no store can hold is refused below.
                let owner_seq = group.after.saturating_add(n);
                unfinished::take_note(&mut work, &group.owner, owner_seq, fact);
            }
            self.seal_group(group, &keys, &append.metadata, &mut rows)?;
        }
        if let Some(remember) = append.remember {
            work.push(Work::Remember(self.seal_outcome(remember, &rows).await?));
        }
        Ok(Request {
            rows,
            work,
            system_owners,
        })
    }

    async fn seal_outcome(
        &self,
        remember: Remember,
        rows: &[StoredRow],
    ) -> Result<idempotency::OutcomeRow, AppendError> {
        let Remember {
            request,
            user,
            outcome,
        } = remember;
        let keys = match self.keys().of(user.0).await {
            Ok(KeyState::Live(keys)) => keys,
            Ok(KeyState::Destroyed) => return Err(AppendError::KeyNotLive),
            Err(error) => return Err(error.into()),
        };
        let sealed = keys.payload().seal(
            outcome.to_string().as_bytes(),
            &idempotency::place(user, &request.key),
        );
        let last = rows.last().expect("an append of no events was refused");
        Ok(idempotency::OutcomeRow {
            key: request.key,
            request: request.request,
            user,
            fact_owner: last.owner,
            fact_seq: last.owner_seq,
            sealed,
            kept_at: self.0.clock.now(),
        })
    }

    fn shown_agent(&self, agent: &str) -> String {
        if known_words::is_known("agent", agent) {
            return agent.to_owned();
        }
        self.0.hashes.word("agent", agent)
    }

    fn seal_group(
        &self,
        group: Group,
        keys: &UserKeys,
        metadata: &genie_events::Metadata,
        rows: &mut Vec<StoredRow>,
    ) -> Result<(), AppendError> {
        let owner = group.owner.id();
        let slice = slice_of(owner);
        let recorded_at = self.0.clock.now();
        let users = keys;
        for (n, fact) in (1..).zip(group.facts) {
            let owner_seq = storable(&fact, group.after.checked_add(n))?;
            let event_id = self.0.clock.new_event_id();
            let event_type = fact.event.type_name();
            let keys = if event_type == FORGOTTEN {
                &self.0.system
            } else {
                users
            };
            let plaintext = fact.event.to_vec();
            if plaintext.len() > MAX_EVENT_BYTES {
                let stream = fact.stream;
                let bytes = plaintext.len();
                let reason = format!(
                    "{event_type} of {stream} has {bytes} bytes, where {MAX_EVENT_BYTES} are allowed"
                );
                return Err(AppendError::TooLarge(reason));
            }
            let metadata = genie_events::Metadata {
                clear: fact
                    .event
                    .clear(|field, word| self.0.hashes.word(field, word)),
                agent: metadata.agent.as_ref().map(|agent| self.shown_agent(agent)),
                ..metadata.clone()
            };
            let mut row = StoredRow {
                position: 0,
                owner,
                owner_seq,
                stream: stored_stream(&fact.stream),
                sequence: fact.sequence,
                kind: fact.stream.kind.code(),
                event_type: event_type.into(),
                event_version: fact.event.version(),
                event_id: event_id.0,
                slice,
                recorded_at,
                digest: Vec::new(),
                metadata: serde_json::to_string(&metadata)
                    .map_err(|error| AppendError::Broken(error.to_string()))?,
                payload: Vec::new(),
                digest_check: DigestCheck::good(),
            };
            row.payload = keys.payload().seal(&plaintext, &row.place());
            row.digest = row.computed_digest().to_vec();
            rows.push(row);
        }
        Ok(())
    }
}

impl LogReader {
    /// Checks and opens a row.
    pub async fn open_row(&self, row: &StoredRow) -> Result<Fact, LogError> {
        let keys = self
            .log()
            .keys()
            .of(row.key_owner())
            .await
            .map_err(|error| match error {
                LogError::KeyAbsent { .. } => {
                    row.damaged("its owner's key is missing; the store is incomplete")
                }
                LogError::MasterKeyWrong { .. } => row.damaged(error),
                LogError::MasterKeyMissing { wanted } => LogError::Locked {
                    position: row.position,
                    stream: row.subject(),
                    wanted,
                },
                error => error,
            });
        let (stream, body) = match keys? {
            KeyState::Live(keys) => {
                let (stream, event) = row.open(&keys)?;
                (stream, FactBody::Open(event, keys))
            }
            KeyState::Destroyed => (row.verified_stream()?, FactBody::Forgotten),
        };
        Ok(Fact {
            position: row.position,
            event_id: genie_events::EventId(row.event_id),
            sequence: row.sequence,
            event_type: row.event_type.clone().into_owned(),
            user: row.user(),
            owner_seq: row.owner_seq,
            recorded_at: row.recorded_at,
            metadata: row.metadata()?,
            stream,
            body,
        })
    }
}

/// The fact's owner number, if both stores can hold it and the sequence.
fn storable(fact: &crate::NewFact, owner_seq: Option<u64>) -> Result<u64, AppendError> {
    let fits = |number: u64| i64::try_from(number).is_ok();
    match owner_seq {
        Some(seq) if fits(seq) && fits(fact.sequence) => Ok(seq),
        _ => Err(AppendError::Unstorable {
            stream: fact.stream,
            sequence: fact.sequence,
        }),
    }
}
