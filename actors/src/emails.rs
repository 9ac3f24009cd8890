//! E-mail addresses. Each is a stream of the system, so that of two users who want one address only one gets it.

use genie_events::{
    EmailAddress, Event, Metadata, Refusal, StreamId, StreamKind, UserId,
    account::ProfileCommand,
    email::{Email, EmailCommand},
    ids::EmailId,
};
use genie_log::{Append, AppendRequest, FactBody, Group, Log, load_users::Waking};

use crate::{
    WriteError,
    accounts::change_login::{decided, group},
    race::Race,
    system_stream::SystemStream,
};

#[derive(Debug, Clone)]
pub struct Emails {
    log: Log,
    append: Append,
}

impl Emails {
    pub fn new(append: Append) -> Self {
        Self {
            log: append.log().clone(),
            append,
        }
    }

    /// The user who holds an address.
    pub async fn holder(&self, address: &EmailAddress) -> Result<Option<UserId>, WriteError> {
        Ok(self.load(address).await?.state.holder())
    }

    /// Gives a user another address and releases the former one, after a change at another identity provider. Refused
    /// as `email_taken` while another user holds the address here. The same address again changes nothing.
    pub async fn change(
        &self,
        user: UserId,
        address: &EmailAddress,
        metadata: Metadata,
    ) -> Result<(), WriteError> {
        let mut race = Race::new();
        loop {
            let groups = self.decide_change(user, address).await?;
            if groups.is_empty() || self.write(&mut race, groups, &metadata).await? {
                return Ok(());
            }
        }
    }

    async fn decide_change(
        &self,
        user: UserId,
        address: &EmailAddress,
    ) -> Result<Vec<Group>, WriteError> {
        let email_id = self.log.hashes().email(address);
        let Waking::Awake(awake) = self.log.users().wake(user).await? else {
            return Err(Refusal::not_found("user").into());
        };
        let state = &awake.user;
        let former = state.account().active()?.email;
        if former.as_ref() == Some(&email_id) {
            return Ok(vec![]);
        }
        let change = ProfileCommand::ChangeEmail {
            email: address.written().to_owned(),
            email_id,
        };
        let mut groups = vec![group(state, decided(state, change)?)];
        groups.extend(self.ask(&email_id, EmailCommand::Claim(user)).await?);
        if let Some(former) = former {
            groups.extend(self.ask(&former, EmailCommand::Release(user)).await?);
        }
        Ok(groups)
    }

    /// Releases the address of a user who was deleted at the other identity provider. An address that the user does
    /// not hold stays as it is.
    pub async fn release(
        &self,
        address: &EmailAddress,
        holder: UserId,
        metadata: Metadata,
    ) -> Result<(), WriteError> {
        let email_id = self.log.hashes().email(address);
        let mut race = Race::new();
        loop {
            let Some(released) = self.ask(&email_id, EmailCommand::Release(holder)).await? else {
                return Ok(());
            };
            if self.write(&mut race, vec![released], &metadata).await? {
                return Ok(());
            }
        }
    }

    async fn write(
        &self,
        race: &mut Race,
        groups: Vec<Group>,
        metadata: &Metadata,
    ) -> Result<bool, WriteError> {
        let request = AppendRequest {
            groups,
            work: vec![],
            metadata: metadata.clone(),
            remember: None,
        };
        Ok(race.append(&self.append, request).await?.is_some())
    }

    /// The stream of an address.
    pub(crate) async fn load(
        &self,
        address: &EmailAddress,
    ) -> Result<SystemStream<Email>, WriteError> {
        self.load_id(&self.log.hashes().email(address)).await
    }

    /// Each event of an address replaces its state, so the newest one is enough, however often the address changed
    /// hands.
    pub(crate) async fn load_id(&self, id: &EmailId) -> Result<SystemStream<Email>, WriteError> {
        let stream = StreamId::new(StreamKind::Email, *id);
        let mut state = Email::default();
        let newest = self.log.reader().newest_of_system(&stream).await?;
        let count = newest.as_ref().map_or(0, |fact| fact.sequence);
        if let Some(fact) = newest
            && let FactBody::Open(Event::Email(event), _) = fact.body
        {
            state.evolve(event);
        }
        Ok(SystemStream {
            state,
            stream,
            count,
        })
    }

    /// The facts of an address from a command, if any.
    pub(crate) async fn ask(
        &self,
        id: &EmailId,
        command: EmailCommand,
    ) -> Result<Option<Group>, WriteError> {
        let email = self.load_id(id).await?;
        let events = email.state.decide(command)?;
        Ok((!events.is_empty()).then(|| email.group(events)))
    }
}
