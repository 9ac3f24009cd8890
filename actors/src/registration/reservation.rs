//! Registration where another identity provider makes the user: the address and the invite are reserved, the user is made there
//! under the id reserved for them, and one append writes the account and spends both. What broke off in between is found by its
//! reservation, and completed or given back by whoever asks the provider whether that user is there.

use genie_events::{
    Event, Metadata, Refusal, StreamId, StreamKind, UserId,
    account::{Account, LifecycleCommand, Registration},
    email::{self, Email, EmailCommand, Reservation},
    ids::EmailId,
    invite::{Grant, Invite, InviteCommand},
};
use genie_log::{AppendError, AppendRequest, Appended, Group, Owner, clock};

use super::{RACE_PAUSE, Register, Registered, TRIES, first_facts};
use crate::WriteError;

/// An address and an invite that are kept for a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// For whom, with which invite, until when.
    pub reservation: Reservation,
    /// The address's stream.
    pub email: EmailId,
    /// Where the log says so.
    pub position: u64,
}

/// Somebody whom the other provider has made.
#[derive(Debug, Clone)]
pub struct Made {
    /// The address as the provider has it.
    pub email: String,
    /// As given.
    pub first_name: Option<String>,
    /// The role's name there.
    pub role: String,
}

impl Register {
    /// What an invite would give, if it may be used.
    pub async fn grant(&self, code: &str) -> Result<Grant, WriteError> {
        let (invite, _, _) = self.load_invite(code).await?;
        Ok(invite.grant(self.log.clock().now())?.clone())
    }

    /// Keeps an address and an invite for a user to be, both or none.
    pub async fn reserve(
        &self,
        address: &str,
        code: &str,
        seconds: i64,
        metadata: Metadata,
    ) -> Result<Reserved, WriteError> {
        let Some(normal) = email::normalise(address) else {
            return Err(Refusal::invalid("email", "`email` must be an e-mail address").into());
        };
        let user = UserId(self.log.clock().new_uuid());
        let mut tries = 0..TRIES;
        loop {
            let (email, email_stream, emails) = self.load_email(&normal).await?;
            let (invite, invite_stream, invites) = self.load_invite(code).await?;
            let now = self.log.clock().now();
            let invite_id = self.log.hashes().invite(code);
            let reservation = Reservation {
                user,
                invite: invite_id,
                until: now.plus_seconds(seconds),
            };
            let kept = email.decide(EmailCommand::Reserve(reservation.clone()))?;
            let groups = vec![
                system(&email_stream, emails, kept),
                system(
                    &invite_stream,
                    invites,
                    invite.decide(InviteCommand::Reserve { user, now })?,
                ),
            ];
            if let Some(at) = self.raced(&mut tries, groups, vec![], &metadata).await? {
                return Ok(Reserved {
                    reservation,
                    email: self.log.hashes().email(&normal),
                    position: at.first,
                });
            }
        }
    }

    /// Writes the account and spends what was reserved for it. Once it is written, asking again changes nothing. Refused as
    /// `reservation_gone` when it was given back meanwhile.
    pub async fn spend(
        &self,
        reserved: &Reserved,
        made: &Made,
        metadata: Metadata,
    ) -> Result<Registered, WriteError> {
        let user = reserved.reservation.user;
        let mut tries = 0..TRIES;
        loop {
            let (email, email_stream, emails) = self
                .load_system::<Email>(StreamKind::Email, &reserved.email.0)
                .await?;
            match &email {
                Email::Taken(holder) if *holder == user => {
                    return Ok(Registered {
                        user,
                        position: self.log.head(),
                    });
                }
                Email::Reserved(kept) if kept.user == user => {}
                _ => {
                    return Err(Refusal::conflict(
                        "reservation_gone",
                        "This registration took too long; try again",
                    )
                    .into());
                }
            }
            let (invite, invite_stream, invites) = self
                .load_system::<Invite>(StreamKind::Invite, &reserved.reservation.invite.0)
                .await?;
            let Invite::Reserved { grant, .. } = &invite else {
                return Err(WriteError::Internal(format!(
                    "the invite reserved for user {user} is not reserved"
                )));
            };
            let mut groups = vec![
                system(
                    &email_stream,
                    emails,
                    email.decide(EmailCommand::Claim(user))?,
                ),
                system(
                    &invite_stream,
                    invites,
                    invite.decide(InviteCommand::Spend {
                        user,
                        now: self.log.clock().now(),
                    })?,
                ),
            ];
            let mut work = vec![];
            // Somebody whom genie has met already keeps the account that they have.
            if self.log.user_seq(user).await? == 0 {
                let registered =
                    Account::Absent.decide(LifecycleCommand::Register(Registration {
                        email: made.email.clone(),
                        email_id: reserved.email.clone(),
                        first_name: made.first_name.clone(),
                        invite: reserved.reservation.invite.clone(),
                        tier: grant.tier,
                        role: made.role.clone(),
                        admin: false, // who administers is said there, too
                    }))?;
                let (keys, new_key) = self.log.new_keys(user);
                groups.insert(0, first_facts(user, keys, registered));
                work.push(new_key);
            }
            if let Some(at) = self.raced(&mut tries, groups, work, &metadata).await? {
                return Ok(Registered {
                    user,
                    position: at.last,
                });
            }
        }
    }

    /// Gives an address and an invite back. What is not kept for that user any more stays as it is.
    pub async fn release(&self, reserved: &Reserved, metadata: Metadata) -> Result<(), WriteError> {
        let user = reserved.reservation.user;
        let mut tries = 0..TRIES;
        loop {
            let (email, email_stream, emails) = self
                .load_system::<Email>(StreamKind::Email, &reserved.email.0)
                .await?;
            if !matches!(&email, Email::Reserved(kept) if kept.user == user) {
                return Ok(());
            }
            let (invite, invite_stream, invites) = self
                .load_system::<Invite>(StreamKind::Invite, &reserved.reservation.invite.0)
                .await?;
            let groups = [
                system(
                    &email_stream,
                    emails,
                    email.decide(EmailCommand::Release(user))?,
                ),
                system(
                    &invite_stream,
                    invites,
                    invite.decide(InviteCommand::Release(user))?,
                ),
            ];
            let groups = groups
                .into_iter()
                .filter(|group| !group.facts.is_empty())
                .collect();
            if self
                .raced(&mut tries, groups, vec![], &metadata)
                .await?
                .is_some()
            {
                return Ok(());
            }
        }
    }

    /// What is reserved, of all that was after a position, in order.
    pub async fn reserved(&self, after: u64) -> Result<Vec<Reserved>, WriteError> {
        let mut found = Vec::new();
        for (position, id) in self.log.reserved_emails(after).await? {
            let (email, _, _) = self.load_system::<Email>(StreamKind::Email, &id).await?;
            if let Email::Reserved(reservation) = email {
                found.push(Reserved {
                    reservation,
                    email: EmailId(id),
                    position,
                });
            }
        }
        Ok(found)
    }

    /// What is reserved for this user under this address.
    pub async fn reserved_for(
        &self,
        user: UserId,
        address: &str,
    ) -> Result<Option<Reserved>, WriteError> {
        let Some(normal) = email::normalise(address) else {
            return Ok(None);
        };
        Ok(match self.load_email(&normal).await? {
            (Email::Reserved(reservation), stream, _) if reservation.user == user => {
                Some(Reserved {
                    reservation,
                    email: EmailId(stream.id),
                    position: 0,
                })
            }
            _ => None,
        })
    }

    /// Appends, or answers `None` after a pause when somebody else was there first.
    pub(super) async fn raced(
        &self,
        tries: &mut std::ops::Range<u32>,
        groups: Vec<Group>,
        work: Vec<genie_log::Work>,
        metadata: &Metadata,
    ) -> Result<Option<Appended>, WriteError> {
        let append = AppendRequest {
            groups,
            work,
            metadata: metadata.clone(),
            remember: None,
        };
        match self.append.append(append).await {
            Ok(at) => Ok(Some(at)),
            Err(AppendError::Stale) if tries.next().is_some() => {
                tokio::time::sleep(RACE_PAUSE.mul_f64(clock::chance())).await;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn load_system<A>(
        &self,
        kind: StreamKind,
        id: &str,
    ) -> Result<(A, StreamId, u64), WriteError>
    where
        A: cqrs_es::Aggregate + 'static,
    {
        let stream = StreamId::new(kind, id);
        let (state, count) = self
            .log
            .stream(&Owner::System(stream.clone()), &stream.id)
            .await?
            .unwrap_or_default();
        Ok((state, stream, count))
    }
}

pub(super) fn system<E: Into<Event>>(stream: &StreamId, after: u64, events: Vec<E>) -> Group {
    Group::of_system(stream, after, events.into_iter().map(Into::into).collect())
}

#[cfg(test)]
mod tests;
