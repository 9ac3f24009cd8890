//! The write side, wired: what the rest of genie sends commands to.

use std::time::Duration;

use actix::ArbiterHandle;
use genie_events::Limits;
use genie_log::{Append, Election, VaultDoor};

use crate::{
    WriteError,
    access::Access,
    accounts::Accounts,
    credentials::Vault,
    forgetting::Forget,
    jobs::JobBoard,
    registration::Register,
    service_keys::ServiceKeys,
    supervisor::{ModelSettings, Supervisor},
    users::Users,
};

/// How the write side behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This process, as leases name it.
    pub node: String,
    /// The model server.
    pub model: ModelSettings,
    /// What each tier may do.
    pub limits: Limits,
    /// How long a worker holds a job without a heartbeat.
    pub job_lease: Duration,
    /// Whether this is the only process on its store.
    pub embedded: bool,
}

/// The write side.
#[derive(Debug, Clone)]
pub struct WriteSide {
    /// Users' actors.
    pub users: Users,
    /// Registration.
    pub register: Register,
    /// Accounts, after that.
    pub accounts: Accounts,
    /// Forgetting.
    pub forget: Forget,
    /// Secrets.
    pub vault: Vault,
    /// Jobs for workers.
    pub jobs: JobBoard,
    /// Answers of the model.
    pub supervisor: Supervisor,
    /// Service keys.
    pub service_keys: ServiceKeys,
    /// Looks at what is not one's own.
    pub access: Access,
}

impl WriteSide {
    /// Starts it. To be called on the runtime that owns the store's connections; actors live on `arbiters`, of which there must
    /// be at least one. Timers run while this node is elected.
    pub fn start(
        append: Append,
        door: VaultDoor,
        arbiters: Vec<ArbiterHandle>,
        election: Election,
        settings: Settings,
    ) -> Result<Self, WriteError> {
        let log = append.log().clone();
        let users = Users::new(append.clone(), settings.limits, arbiters);
        let vault = Vault::new(append.clone(), door);
        let jobs = JobBoard::new(log.clone(), users.clone(), settings.job_lease);
        let head = log.head();
        let supervisor = Supervisor::new(
            log.clone(),
            users.clone(),
            log.journals().start(),
            settings.model,
            settings.node,
        )?;
        tokio::spawn(users.clone().sweep());
        tokio::spawn(users.clone().let_go_of_the_forgotten());
        tokio::spawn(jobs.clone().follow());
        tokio::spawn(jobs.clone().tick(election.clone()));
        tokio::spawn(supervisor.clone().follow(head));
        tokio::spawn(supervisor.clone().renew());
        tokio::spawn(
            supervisor
                .clone()
                .take_over_the_lapsed(settings.embedded, election.clone()),
        );
        let service_keys = ServiceKeys::new(append.clone());
        let access = Access::new(append.clone());
        let accounts = Accounts::new(append.clone(), users.clone(), vault.clone());
        tokio::spawn(accounts.clone().sweep(election));
        let forget = Forget::new(append.clone(), Some(users.clone()));
        let register = Register::new(append, vault.clone());
        Ok(Self {
            register,
            accounts,
            forget,
            users,
            vault,
            jobs,
            supervisor,
            service_keys,
            access,
        })
    }
}
