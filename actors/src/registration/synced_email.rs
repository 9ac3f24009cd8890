//! An address that was changed where another identity provider keeps it.

use genie_events::{
    Metadata, Refusal, StreamId, StreamKind, UserId,
    account::{Account, ProfileCommand},
    email::{self, Email, EmailCommand},
};
use genie_log::{Group, NewFact, Owner};

use super::{Register, TRIES, reservation::system};
use crate::WriteError;

impl Register {
    /// Makes an address that of a user, whose former one is free from then on. Refused as `email_taken` while somebody else is known
    /// under it here. The same address again changes nothing.
    pub async fn follow_address(
        &self,
        user: UserId,
        address: &str,
        metadata: Metadata,
    ) -> Result<(), WriteError> {
        let Some(normal) = email::normalise(address) else {
            return Err(Refusal::invalid("email", "`email` must be an e-mail address").into());
        };
        let email_id = self.log.hashes().email(&normal);
        let stream = StreamId::new(StreamKind::Account, user);
        let mut tries = 0..TRIES;
        loop {
            // Counted first: whatever is written after it makes the append stale.
            let after = self.log.user_seq(user).await?;
            let (account, count) = self
                .log
                .stream::<Account>(&Owner::User(user), &stream.id)
                .await?
                .ok_or_else(|| Refusal::not_found("user"))?;
            let former = account.active()?.email.clone();
            if former.as_ref() == Some(&email_id) {
                return Ok(());
            }
            let change = ProfileCommand::ChangeEmail {
                email: address.trim().to_owned(),
                email_id: email_id.clone(),
            };
            let numbered = (count + 1..).zip(account.decide(change)?);
            let facts = numbered.map(|(sequence, event)| NewFact {
                stream: stream.clone(),
                sequence,
                event: event.into(),
            });
            let (new, new_stream, news) = self.load_email(&normal).await?;
            let mut groups = vec![
                Group::of_user(user, after, facts.collect()),
                system(&new_stream, news, new.decide(EmailCommand::Claim(user))?),
            ];
            if let Some(former) = former {
                let (old, old_stream, olds) = self
                    .load_system::<Email>(StreamKind::Email, &former.0)
                    .await?;
                groups.push(system(
                    &old_stream,
                    olds,
                    old.decide(EmailCommand::Release(user))?,
                ));
            }
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

    /// Frees the address of a user who is gone where they were made. What is not theirs stays as it is.
    pub async fn free_address(
        &self,
        address: &str,
        holder: UserId,
        metadata: Metadata,
    ) -> Result<(), WriteError> {
        let Some(normal) = email::normalise(address) else {
            return Ok(());
        };
        let mut tries = 0..TRIES;
        loop {
            let (email, stream, count) = self.load_email(&normal).await?;
            let freed = email.decide(EmailCommand::Release(holder))?;
            if freed.is_empty()
                || self
                    .raced(
                        &mut tries,
                        vec![system(&stream, count, freed)],
                        vec![],
                        &metadata,
                    )
                    .await?
                    .is_some()
            {
                return Ok(());
            }
        }
    }
}
