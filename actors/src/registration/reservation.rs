//! Registration when another identity provider makes the user. The address and the invite are reserved, and the
//! provider makes the user under the reserved id. Then one append writes the account and spends both. A registration
//! that broke off in between is found by its reservation: the provider is asked whether the user exists, and the
//! registration is completed or given back.

use genie_events::{
    EmailAddress, InviteCode, Metadata, Refusal, UserId,
    account::{Account, LifecycleCommand, Registration},
    email::{Email, EmailCommand, Reservation},
    ids::EmailId,
    invite::{Grant, Invite, InviteCommand},
};
use genie_log::{AppendRequest, Appended, Group, Work, reservations::ReservationRow};

use super::{RegisteredUser, Registrar, first_facts};
use crate::{WriteError, race::Race, system_stream::SystemStream};

/// An address and an invite that are reserved for a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservedRegistration {
    pub reservation: Reservation,
    /// The stream of the address.
    pub email: EmailId,
    /// The position of the reservation's fact; 0 when it is not known.
    pub position: u64,
}

/// A user whom the other provider has made.
#[derive(Debug, Clone)]
pub struct ProvidedUser {
    /// The address as the provider has it.
    pub email: String,
    pub first_name: Option<String>,
    /// The role's name there.
    pub role: String,
}

impl Registrar {
    /// Reserves an address and an invite for a future user, both or none.
    pub async fn reserve(
        &self,
        address: &EmailAddress,
        code: &InviteCode,
        seconds: i64,
        metadata: Metadata,
    ) -> Result<ReservedRegistration, WriteError> {
        let user = UserId(self.log.clock().new_uuid());
        let mut race = Race::new();
        loop {
            let email = self.emails.load(address).await?;
            let invite = self.invites.load(code).await?;
            let now = self.log.clock().now();
            let reservation = Reservation {
                user,
                invite: self.log.hashes().invite(code),
                until: now.plus_seconds(seconds),
            };
            let reserved = EmailCommand::Reserve(reservation.clone());
            let groups = vec![
                email.group(email.state.decide(reserved)?),
                invite.group(invite.state.decide(InviteCommand::Reserve { user, now })?),
            ];
            let work = vec![Work::Reservation(ReservationRow::Put(EmailId(
                email.stream.id,
            )))];
            let appended = self.write(&mut race, groups, work, &metadata).await?;
            if let Some(at) = appended {
                return Ok(ReservedRegistration {
                    reservation,
                    email: self.log.hashes().email(address),
                    position: at.first,
                });
            }
        }
    }

    /// Writes the account and spends its reservation. Once it is written, spending again changes nothing. Refused as
    /// `reservation_gone` when the reservation was given back meanwhile.
    pub async fn spend(
        &self,
        reserved: &ReservedRegistration,
        provided: &ProvidedUser,
        metadata: Metadata,
    ) -> Result<RegisteredUser, WriteError> {
        let user = reserved.reservation.user;
        let mut race = Race::new();
        loop {
            let email = self.emails.load_id(&reserved.email).await?;
            match &email.state {
                Email::Taken(holder) if *holder == user => {
                    return Ok(RegisteredUser {
                        user,
                        position: self.log.reader().head(),
                    });
                }
                Email::Reserved(held) if held.user == user => {}
                _ => {
                    return Err(Refusal::conflict(
                        "reservation_gone",
                        "This registration took too long; try again",
                    )
                    .into());
                }
            }
            let (groups, work) = self.decide_spending(reserved, provided, &email).await?;
            if let Some(at) = self.write(&mut race, groups, work, &metadata).await? {
                return Ok(RegisteredUser {
                    user,
                    position: at.last,
                });
            }
        }
    }

    async fn decide_spending(
        &self,
        reserved: &ReservedRegistration,
        provided: &ProvidedUser,
        email: &SystemStream<Email>,
    ) -> Result<(Vec<Group>, Vec<Work>), WriteError> {
        let user = reserved.reservation.user;
        let invite = self.invites.load_id(&reserved.reservation.invite).await?;
        let Invite::Reserved { grant, .. } = &invite.state else {
            return Err(WriteError::Internal(format!(
                "the invite reserved for user {user} is not reserved"
            )));
        };
        let now = self.log.clock().now();
        let mut groups = vec![
            email.group(email.state.decide(EmailCommand::Claim(user))?),
            invite.group(invite.state.decide(InviteCommand::Spend { user, now })?),
        ];
        let mut work = vec![Work::Reservation(ReservationRow::Drop(reserved.email))];
        // A user who is known here already keeps the account.
        if self.log.reader().user_seq(user).await? == 0 {
            let registration = registration(reserved, provided, grant);
            let registered = Account::Absent.decide(LifecycleCommand::Register(registration))?;
            let (keys, new_key) = self.log.keys().new_for(user);
            groups.insert(0, first_facts(user, keys, registered));
            work.push(new_key);
        }
        Ok((groups, work))
    }

    /// Gives an address and an invite back. Whatever is no longer reserved for that user stays as it is.
    pub async fn release(
        &self,
        reserved: &ReservedRegistration,
        metadata: Metadata,
    ) -> Result<(), WriteError> {
        let user = reserved.reservation.user;
        let mut race = Race::new();
        loop {
            let email = self.emails.load_id(&reserved.email).await?;
            if !matches!(&email.state, Email::Reserved(held) if held.user == user) {
                return Ok(());
            }
            let invite = self.invites.load_id(&reserved.reservation.invite).await?;
            let mut groups = vec![
                email.group(email.state.decide(EmailCommand::Release(user))?),
                invite.group(invite.state.decide(InviteCommand::Release(user))?),
            ];
            groups.retain(|group| !group.facts.is_empty());
            let work = vec![Work::Reservation(ReservationRow::Drop(reserved.email))];
            let appended = self.write(&mut race, groups, work, &metadata).await?;
            if appended.is_some() {
                return Ok(());
            }
        }
    }

    /// Everything that was reserved after a position and still is, in order.
    pub async fn reserved(&self, after: u64) -> Result<Vec<ReservedRegistration>, WriteError> {
        let mut found = Vec::new();
        for (position, email) in self.log.lookups().reserved_emails(after).await? {
            if let Email::Reserved(reservation) = self.emails.load_id(&email).await?.state {
                found.push(ReservedRegistration {
                    reservation,
                    email,
                    position,
                });
            }
        }
        Ok(found)
    }

    /// The reservation of this user under this address.
    pub async fn reserved_for(
        &self,
        user: UserId,
        address: &EmailAddress,
    ) -> Result<Option<ReservedRegistration>, WriteError> {
        let email = self.emails.load(address).await?;
        Ok(match email.state {
            Email::Reserved(reservation) if reservation.user == user => {
                Some(ReservedRegistration {
                    reservation,
                    email: EmailId(email.stream.id),
                    position: 0,
                })
            }
            _ => None,
        })
    }

    async fn write(
        &self,
        race: &mut Race,
        groups: Vec<Group>,
        work: Vec<Work>,
        metadata: &Metadata,
    ) -> Result<Option<Appended>, WriteError> {
        let request = AppendRequest {
            groups,
            work,
            metadata: metadata.clone(),
            remember: None,
        };
        race.append(&self.append, request).await
    }
}

fn registration(
    reserved: &ReservedRegistration,
    provided: &ProvidedUser,
    grant: &Grant,
) -> Registration {
    Registration {
        email: provided.email.clone(),
        email_id: reserved.email,
        first_name: provided.first_name.clone(),
        invite: reserved.reservation.invite,
        tier: grant.tier,
        role: provided.role.clone(),
        admin: false, // the provider says who administers
    }
}

#[cfg(test)]
mod tests;
