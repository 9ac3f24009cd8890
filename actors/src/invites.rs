//! Invites. Each is a stream of the system, named by a keyed hash of its code.

use genie_events::{
    InviteCode, Metadata, Refusal, StreamId, StreamKind,
    ids::InviteId,
    invite::{CODE_COLUMN, Grant, Invite, InviteCommand},
    tier::Tier,
};
use genie_log::{Append, AppendError, AppendRequest, Group, Log, clock};

use crate::{
    WriteError,
    caller::CommandContext,
    system_stream::{self, SystemStream},
};

/// The random bytes of a code.
const CODE_BYTES: usize = 10;

#[derive(Clone)]
pub struct NewInvites {
    pub codes: Vec<InviteCode>,
    /// The position of the last one.
    pub position: u64,
}

#[derive(Debug, Clone)]
pub struct Invites {
    log: Log,
    append: Append,
}

impl Invites {
    pub fn new(append: Append) -> Self {
        Self {
            log: append.log().clone(),
            append,
        }
    }

    /// The grant of an invite that may be used.
    pub async fn grant(&self, code: &InviteCode) -> Result<Grant, WriteError> {
        let invite = self.load(code).await?.state;
        Ok(invite.grant(self.log.clock().now())?.clone())
    }

    /// Makes invites, all or none.
    pub async fn make(
        &self,
        count: usize,
        grant: Grant,
        metadata: Metadata,
    ) -> Result<NewInvites, WriteError> {
        let codes: Vec<InviteCode> = (0..count)
            .map(|_| InviteCode::made(hex::encode(clock::random_bytes::<CODE_BYTES>())))
            .collect();
        let groups: Result<Vec<Group>, Refusal> = codes
            .iter()
            .map(|code| self.create(code, grant.clone()))
            .collect();
        let request = AppendRequest {
            groups: groups?,
            work: vec![],
            metadata,
            remember: None,
        };
        let at = self.append.append(request).await?;
        Ok(NewInvites {
            codes,
            position: at.last,
        })
    }

    /// The first fact of a new invite.
    fn create(&self, code: &InviteCode, grant: Grant) -> Result<Group, Refusal> {
        let stream = StreamId::new(StreamKind::Invite, self.log.hashes().invite(code));
        let created = Invite::Absent.decide(InviteCommand::Create {
            grant,
            sealed_code: self
                .log
                .keys()
                .seal_system_text(CODE_COLUMN, code.written()),
        })?;
        let events = created.into_iter().map(Into::into).collect();
        Ok(Group::of_system(&stream, 0, events))
    }

    /// Revokes an unused invite. Answers the position that reads must reach to see it.
    pub async fn revoke(
        &self,
        code: &InviteCode,
        context: impl Into<CommandContext>,
    ) -> Result<u64, WriteError> {
        let id = self.log.hashes().invite(code);
        let revoke = |invite: &Invite| invite.decide(InviteCommand::Revoke);
        system_stream::ask(&self.append, StreamKind::Invite, id, context.into(), revoke).await
    }

    /// Makes the first invite of an empty log; its user becomes administrator. Answers the code while it is unspent.
    pub async fn first(
        &self,
        fixed: Option<&InviteCode>,
    ) -> Result<Option<InviteCode>, WriteError> {
        let code = fixed
            .cloned()
            .unwrap_or_else(|| self.log.hashes().first_invite_code());
        if self.log.reader().head() == 0 {
            self.make_first(&code).await?;
        }
        let invite = self.load(&code).await?.state;
        Ok(invite.grant(self.log.clock().now()).is_ok().then_some(code))
    }

    async fn make_first(&self, code: &InviteCode) -> Result<(), WriteError> {
        let grant = Grant {
            tier: Tier::Studio,
            role: "administrator".into(),
            admin: true,
            expires_at: None,
        };
        let request = AppendRequest {
            groups: vec![self.create(code, grant)?],
            work: vec![],
            metadata: Metadata::system(),
            remember: None,
        };
        match self.append.append(request).await {
            Ok(_) | Err(AppendError::Stale) => Ok(()), // stale: another node made it meanwhile
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn load(&self, code: &InviteCode) -> Result<SystemStream<Invite>, WriteError> {
        self.load_id(&self.log.hashes().invite(code)).await
    }

    pub(crate) async fn load_id(&self, id: &InviteId) -> Result<SystemStream<Invite>, WriteError> {
        SystemStream::load(&self.log, StreamKind::Invite, id).await
    }
}
