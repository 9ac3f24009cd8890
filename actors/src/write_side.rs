//! The write side, wired: the rest of genie sends its commands here.

use std::{collections::BTreeMap, time::Duration};

use actix::ArbiterHandle;
use futures_util::future::join_all;
use genie_events::{Limits, chat::Failure};
use genie_log::{Append, Election, VaultDoor};

use crate::{
    ModelPresence, WriteError,
    access::AccessLog,
    accounts::Accounts,
    api_keys::ApiKeys,
    captions::{self, Captions},
    chats::Chats,
    credentials::Credentials,
    emails::Emails,
    files::Files,
    forgetting::Forgetter,
    impersonations::Impersonations,
    invites::Invites,
    jobs::JobBoard,
    onboarding::OnboardingSteps,
    registration::Registrar,
    service_keys::ServiceKeys,
    supervisor::{ModelSettings, Supervisor},
    usage::UsageCounter,
    users::Users,
    vault::Vault,
};

#[derive(Debug, Clone)]
pub struct WriteSettings {
    /// The name of this process in leases.
    pub node: String,
    pub model: ModelSettings,
    /// The limits of each tier.
    pub limits: Limits,
    /// A worker holds a job for this long without a heartbeat.
    pub job_lease: Duration,
    /// True when this is the only process on its store.
    pub embedded: bool,
}

/// The write side: one field for each aggregate, one method for each command.
#[derive(Debug, Clone)]
pub struct WriteSide {
    pub users: Users,
    pub registration: Registrar,
    pub accounts: Accounts,
    pub emails: Emails,
    pub files: Files,
    pub invites: Invites,
    pub impersonations: Impersonations,
    pub onboarding: OnboardingSteps,
    pub forgetting: Forgetter,
    pub credentials: Credentials,
    pub jobs: JobBoard,
    pub chats: Chats,
    pub captions: Captions,
    pub usage: UsageCounter,
    pub service_keys: ServiceKeys,
    pub api_keys: ApiKeys,
    pub access: AccessLog,
    supervisor: Supervisor,
}

impl WriteSide {
    /// Starts the write side. Call it on the runtime that owns the store's connections. Actors live on `arbiters`, of
    /// which there must be at least one. Timers run while this node is the leader.
    pub fn start(
        append: Append,
        door: VaultDoor,
        arbiters: Vec<ArbiterHandle>,
        election: Election,
        settings: WriteSettings,
    ) -> Result<Self, WriteError> {
        let log = append.log().clone();
        let users = Users::new(append.clone(), settings.limits, arbiters);
        let vault = Vault::new(door);
        let supervisor =
            Supervisor::new(log.clone(), users.clone(), settings.model, settings.node)?;
        let this = Self {
            registration: Registrar::new(append.clone(), vault.clone()),
            accounts: Accounts::new(append.clone(), users.clone(), vault.clone()),
            emails: Emails::new(append.clone()),
            files: Files::new(users.clone()),
            invites: Invites::new(append.clone()),
            impersonations: Impersonations::new(log.clone(), users.clone()),
            onboarding: OnboardingSteps::new(log.clone(), users.clone()),
            forgetting: Forgetter::new(append.clone(), Some(users.clone())),
            credentials: Credentials::new(append.clone(), users.clone(), vault),
            jobs: JobBoard::new(log.clone(), users.clone(), settings.job_lease),
            chats: Chats::new(supervisor.clone()),
            captions: Captions::new(supervisor.clone()),
            usage: UsageCounter::new(users.clone()),
            service_keys: ServiceKeys::new(append.clone()),
            api_keys: ApiKeys::new(log.clone(), users.clone()),
            access: AccessLog::new(append),
            supervisor,
            users,
        };
        this.spawn_tasks(log.reader().head(), settings.embedded, election);
        Ok(this)
    }

    fn spawn_tasks(&self, head: u64, embedded: bool, election: Election) {
        tokio::spawn(self.users.clone().sweep());
        tokio::spawn(self.users.clone().follow_forgotten());
        tokio::spawn(self.jobs.clone().follow());
        tokio::spawn(self.jobs.clone().keep_time());
        tokio::spawn(self.jobs.clone().tick(election.clone()));
        tokio::spawn(self.supervisor.clone().follow(head));
        tokio::spawn(self.supervisor.clone().renew());
        let captions = captions::jobs::work(self.supervisor.clone(), self.jobs.clone());
        tokio::spawn(captions);
        tokio::spawn(
            self.supervisor
                .clone()
                .take_over_expired(embedded, election.clone()),
        );
        tokio::spawn(self.accounts.clone().sweep(election));
    }

    /// The models that this server asks, those of programs included, each with whether a model server has it. Fails when
    /// none answers.
    pub async fn models(
        &self,
        of_programs: &[String],
    ) -> Result<BTreeMap<String, ModelPresence>, Failure> {
        let inner = &self.supervisor.0;
        let mut names = vec![&inner.settings.chat_model, &inner.settings.caption_model];
        names.extend(of_programs);
        names.sort();
        names.dedup();
        let servers = inner.model_servers.iter();
        let answers = join_all(servers.map(|server| server.presences(&names))).await;
        let mut models = BTreeMap::new();
        let mut failure = None;
        for answer in answers {
            match answer {
                Ok(presences) => {
                    for (name, presence) in names.iter().zip(presences) {
                        let best = models.entry((*name).clone()).or_insert(presence);
                        *best = presence.max(*best);
                    }
                }
                Err(reason) => failure = Some(reason),
            }
        }
        match failure {
            Some(failure) if models.is_empty() => Err(failure),
            _ => Ok(models),
        }
    }
}
