//! Simulated users. Each does one random thing after another, on any server, and remembers what was acknowledged.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use genie_events::{JobId, UserId};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{sync::Mutex, task::JoinSet, time::Instant};

use crate::{
    chat,
    client::{Arena, By, ClientAnswer, ClientRequest},
    ledger::{BATCH, CommandKind, INVITES, stream_hash},
    read_side::id,
    verdict::Mistake,
};

/// The most jobs that a user remembers.
const REMEMBERED: usize = 32;
/// The most secrets that a user believes a credential may hold.
const SECRETS: usize = 64;
/// The pause after the servers refused a job because there are too many.
const TOO_MANY: Duration = Duration::from_secs(1);
/// Users registered at once, before anything is broken. Each costs a password hash or two.
const AT_ONCE: usize = 4;
/// How long a credential may take to be revealed after the last fault.
const LAST_LOOK: Duration = Duration::from_secs(30);
/// Sessions in which a user talks at once.
const SESSIONS: u64 = 4;
/// Talks in one session: two messages each, all on one page.
const TALKS: u64 = 100;
/// The time limit of a read that has to show an acknowledged write.
const READ: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub struct SimulatedUser {
    pub id: UserId,
    pub email: String,
    password: String,
    pub token: String,
}

impl SimulatedUser {
    /// Registers with an invite and logs in; `None` without a definite yes.
    pub async fn register(arena: &Arena, chance: &mut StdRng, invite: &str) -> Option<Self> {
        let name = format!("{:016x}", chance.random::<u64>());
        let email = format!("{name}@torture.example");
        let password = format!("password of {name}");
        let body =
            json!({"email": email, "password": password, "firstName": "T", "inviteCode": invite});
        // The refusal may be the second answer to a registration whose first answer got lost. Then
        // the login works.
        arena
            .tell(
                chance,
                ClientRequest::post(CommandKind::Register, "/api/register", By::Anybody, body),
            )
            .await;
        let mut user = Self {
            id: UserId(uuid::Uuid::nil()),
            email,
            password,
            token: String::new(),
        };
        if !user.log_in(arena, chance).await {
            return None;
        }
        let (_, me) = arena
            .read(chance, "/users/me", user.by(), None, READ)
            .await?;
        user.id = id(&me["data"]["id"])?;
        Some(user)
    }

    /// Logs in anew, for a token that lasts. Each try is a separate command.
    pub async fn log_in(&mut self, arena: &Arena, chance: &mut StdRng) -> bool {
        for _ in 0..20 {
            let body = json!({"email": self.email, "password": self.password});
            let ask = ClientRequest {
                again: false,
                ..ClientRequest::post(CommandKind::LogIn, "/auth/login", By::Anybody, body)
            };
            match arena.tell(chance, ask).await {
                ClientAnswer::Yes { json, .. } => {
                    self.token = json["data"]["access_token"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned();
                    return true;
                }
                ClientAnswer::No { .. } => return false,
                ClientAnswer::Unknown => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        false
    }

    pub fn by(&self) -> By<'_> {
        By::Token(&self.token)
    }

    /// Sends a command of the user, with a new token if the old one has expired.
    pub async fn tell(
        &mut self,
        arena: &Arena,
        chance: &mut StdRng,
        ask: impl Fn(By<'_>) -> ClientRequest<'_>,
    ) -> ClientAnswer {
        let told = arena.tell(chance, ask(By::Token(&self.token))).await;
        match told {
            ClientAnswer::No { status: 401, .. } if self.log_in(arena, chance).await => {
                arena.tell(chance, ask(By::Token(&self.token))).await
            }
            told => told,
        }
    }
}

/// Makes invites, as the administrator.
pub struct InviteDesk {
    admin: Mutex<(SimulatedUser, Vec<String>, StdRng)>,
}

impl InviteDesk {
    pub fn new(admin: SimulatedUser, seed: u64) -> Self {
        Self {
            admin: Mutex::new((admin, Vec::new(), StdRng::seed_from_u64(seed))),
        }
    }

    /// An unused code.
    pub async fn invite(&self, arena: &Arena) -> Option<String> {
        let mut admin = self.admin.lock().await;
        let (user, codes, chance) = &mut *admin;
        if codes.is_empty() {
            let told = user
                .tell(arena, chance, |by| {
                    ClientRequest::post(
                        CommandKind::MakeInvites,
                        "/api/admin/invites",
                        by,
                        json!({"count": INVITES, "tier": "studio"}),
                    )
                })
                .await;
            let ClientAnswer::Yes { json, .. } = told else {
                return None;
            };
            codes.extend(
                json["data"]
                    .as_array()?
                    .iter()
                    .filter_map(|invite| invite["code"].as_str().map(str::to_owned)),
            );
        }
        codes.pop()
    }
}

/// Registers the users, a few at once.
pub async fn gather(
    arena: &Arc<Arena>,
    invites: &Arc<InviteDesk>,
    count: u16,
    chance: &mut StdRng,
) -> Result<Vec<SimulatedUser>, String> {
    let mut joining = JoinSet::new();
    let mut users = Vec::new();
    for _ in 0..count {
        if joining.len() == AT_ONCE {
            users.extend(joining.join_next().await.and_then(Result::ok).flatten());
        }
        let arena = Arc::clone(arena);
        let invites = Arc::clone(invites);
        let mut chance = StdRng::seed_from_u64(chance.random());
        joining.spawn(async move {
            let invite = invites.invite(&arena).await?;
            SimulatedUser::register(&arena, &mut chance, &invite).await
        });
    }
    users.extend(joining.join_all().await.into_iter().flatten());
    if users.len() == usize::from(count) {
        return Ok(users);
    }
    Err(format!(
        "only {} of {count} users could be registered",
        users.len()
    ))
}

pub struct UserAtWork {
    pub arena: Arc<Arena>,
    pub invites: Arc<InviteDesk>,
    pub user: SimulatedUser,
    pub chance: StdRng,
    pub has_model: bool,
    jobs: VecDeque<JobId>,
    credential: Option<String>,
    /// The secrets that the credential may hold: the last acknowledged one, and those with an unknown outcome since.
    secrets: Vec<String>,
    onboarding: usize,
    talks: u64,
}

impl UserAtWork {
    pub fn new(
        arena: Arc<Arena>,
        invites: Arc<InviteDesk>,
        user: SimulatedUser,
        chance: StdRng,
        has_model: bool,
    ) -> Self {
        Self {
            arena,
            invites,
            user,
            chance,
            has_model,
            jobs: VecDeque::new(),
            credential: None,
            secrets: Vec::new(),
            onboarding: 0,
            talks: 0,
        }
    }

    /// Does one thing after another until it is told to stop. Returns itself for a last look.
    pub async fn live(mut self) -> Self {
        while !self.arena.stop.is_cancelled() {
            match self.chance.random_range(0..100) {
                0..=27 => self.submit(true).await,
                28..=37 => self.submit(false).await,
                38..=39 => self.submit_batch().await,
                40..=41 => self.reschedule().await,
                42..=51 => self.about_a_job(CommandKind::CancelJob, "cancel").await,
                52..=57 => self.about_a_job(CommandKind::RetryJob, "retry").await,
                58..=69 => self.store_credential().await,
                70..=77 => _ = self.reveal().await,
                78..=79 => self.advance_onboarding().await,
                80 => self.bring_a_newcomer().await,
                81..=86 if self.has_model => self.caption().await,
                87..=94 if self.has_model => self.talk().await,
                _ => self.log_in_again().await,
            }
            tokio::time::sleep(Duration::from_millis(self.chance.random_range(0..40))).await;
        }
        self
    }

    /// After the last fault: asks for the acknowledged secret until there is an answer.
    pub async fn look_back(mut self) -> SimulatedUser {
        let deadline = Instant::now() + LAST_LOOK;
        while !self.reveal().await {
            if Instant::now() >= deadline {
                let sentence = format!(
                    "credential {:?} was acknowledged, and can no longer be revealed",
                    self.credential
                );
                self.arena.accuse(Mistake::Missing, sentence);
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.user
    }

    async fn tell(&mut self, ask: impl Fn(By<'_>) -> ClientRequest<'_>) -> ClientAnswer {
        self.user.tell(&self.arena, &mut self.chance, ask).await
    }

    async fn submit(&mut self, named: bool) {
        let operation = ["thumbnail", "resize_image", "trim_videos", "scrape_profile"]
            .choose(&mut self.chance)
            .copied();
        let params = json!({"n": self.chance.random::<u32>(), "width": 100});
        let mut body = json!({"operation": operation, "input_url": "http://a/b", "params": params, "max_attempts": 2});
        let name =
            named.then(|| uuid::Builder::from_random_bytes(self.chance.random()).into_uuid());
        if let Some(name) = name {
            body["jobId"] = name.to_string().into();
        }
        let kind = if named {
            CommandKind::SubmitNamedJob
        } else {
            CommandKind::SubmitJob
        };
        match self
            .tell(|by| ClientRequest::post(kind, "/api/queue/media", by, body.clone()))
            .await
        {
            ClientAnswer::Yes { json, position } => {
                let Some(job) = id::<JobId>(&json["id"]) else {
                    return self.arena.accuse(
                        Mistake::Missing,
                        format!("a submitted job was acknowledged without its id: {json}"),
                    );
                };
                if self.jobs.len() == REMEMBERED {
                    self.jobs.pop_front();
                }
                self.jobs.push_back(job);
                if self.chance.random_bool(0.3) {
                    self.look_for(&job, position).await;
                }
            }
            ClientAnswer::No { json, .. } if json["code"] == "too_many_jobs" => {
                tokio::time::sleep(TOO_MANY).await
            }
            ClientAnswer::No { .. } | ClientAnswer::Unknown => {}
        }
    }

    async fn submit_batch(&mut self) {
        let job = |n: u32| json!({"operation": "scrape_profile", "params": {"n": n}});
        let jobs: Vec<Value> = (0..BATCH).map(job).collect();
        let body = json!({"jobs": jobs, "atomic": true});
        let path = "/api/queue/media/batch";
        let told = self
            .tell(|by| ClientRequest::post(CommandKind::SubmitBatch, path, by, body.clone()))
            .await;
        if let ClientAnswer::Yes { json, .. } = told {
            let queued = json["jobs"].as_array().into_iter().flatten();
            let ids: Vec<JobId> = queued.filter_map(|job| id::<JobId>(&job["id"])).collect();
            if ids.len() != BATCH as usize {
                let sentence = format!("a batch was acknowledged without all its jobs: {json}");
                self.arena.accuse(Mistake::Missing, sentence);
            }
            self.jobs.extend(ids);
            while self.jobs.len() > REMEMBERED {
                self.jobs.pop_front();
            }
        }
    }

    async fn reschedule(&mut self) {
        let jobs = self.jobs.make_contiguous();
        let Some(job) = jobs.choose(&mut self.chance).cloned() else {
            return;
        };
        // No job has such a priority otherwise.
        let body = json!({"priority": self.chance.random_range(100..1000)});
        let path = format!("/api/jobs/{job}");
        let stream = stream_hash("job", &job.to_string());
        self.tell(|by| ClientRequest {
            stream,
            method: Method::PATCH,
            ..ClientRequest::post(CommandKind::RescheduleJob, path.clone(), by, body.clone())
        })
        .await;
    }

    /// Invariant: a read at the position of an acknowledged write shows it, on any server.
    async fn look_for(&mut self, job: &JobId, position: u64) {
        let path = format!("/api/jobs/{job}");
        let read = self
            .arena
            .read(
                &mut self.chance,
                &path,
                self.user.by(),
                Some(position),
                READ,
            )
            .await;
        if let Some((404, _)) = read {
            self.arena.accuse(
                Mistake::Missing,
                format!(
                    "job {job} was acknowledged at position {position}, and is not shown there"
                ),
            );
        }
    }

    async fn about_a_job(&mut self, kind: CommandKind, verb: &str) {
        let jobs = self.jobs.make_contiguous();
        let Some(job) = jobs.choose(&mut self.chance).cloned() else {
            return;
        };
        let stream = stream_hash("job", &job.to_string());
        let path = format!("/api/queue/{verb}/{job}");
        self.tell(|by| ClientRequest {
            stream,
            ..ClientRequest::post(kind, path.clone(), by, Value::Null)
        })
        .await;
    }

    async fn store_credential(&mut self) {
        let secret = format!("{:016x}", self.chance.random::<u64>());
        let body = json!({"platform": "onlyfans", "platform_username": "t", "credentials": {"password": secret}});
        let told = self
            .tell(|by| {
                ClientRequest::post(
                    CommandKind::StoreCredential,
                    "/api/credentials/create-profile",
                    by,
                    body.clone(),
                )
            })
            .await;
        match told {
            ClientAnswer::Yes { json, .. } => {
                self.credential = json["id"].as_str().map(str::to_owned);
                self.secrets = vec![secret];
            }
            ClientAnswer::Unknown => self.secrets.push(secret),
            ClientAnswer::No { .. } => {}
        }
        let too_many = self.secrets.len().saturating_sub(SECRETS);
        self.secrets.drain(..too_many);
    }

    /// Compares the revealed secret with the stored one. Returns whether it could be compared.
    async fn reveal(&mut self) -> bool {
        let Some(credential) = self.credential.clone() else {
            return true;
        };
        let body = json!({"creatorProfileId": credential, "purpose": "torture"});
        // The answer holds a secret, so it is never kept. A lost answer is asked for anew, as
        // another command.
        let ask = ClientRequest {
            again: false,
            ..ClientRequest::post(
                CommandKind::RevealCredential,
                "/api/credentials/reveal",
                By::Secret,
                body,
            )
        };
        let sentence = match self.arena.tell(&mut self.chance, ask).await {
            ClientAnswer::Yes { json, position } => {
                match json["credentials"]["password"].as_str() {
                    Some(shown) if self.secrets.iter().any(|secret| secret == shown) => {
                        return true;
                    }
                    _ => format!(
                        "credential {credential} revealed another secret than was stored last, at position {position}"
                    ),
                }
            }
            ClientAnswer::No { status: 404, .. } => {
                format!("credential {credential} was acknowledged, and is not there")
            }
            ClientAnswer::No { .. } | ClientAnswer::Unknown => return false,
        };
        self.arena.accuse(Mistake::Missing, sentence);
        true
    }

    async fn advance_onboarding(&mut self) {
        let Some(state) = ["DATA_COLLECTION", "PROCESSING"].get(self.onboarding) else {
            return;
        };
        let stream = stream_hash("account", &self.user.id.to_string());
        let told = self
            .tell(|by| ClientRequest {
                method: Method::PATCH,
                stream,
                ..ClientRequest::post(
                    CommandKind::AdvanceOnboarding,
                    "/api/onboarding/state",
                    by,
                    json!({"state": state}),
                )
            })
            .await;
        if matches!(told, ClientAnswer::Yes { .. }) {
            self.onboarding += 1;
        }
    }

    async fn bring_a_newcomer(&mut self) {
        if let Some(invite) = self.invites.invite(&self.arena).await {
            SimulatedUser::register(&self.arena, &mut self.chance, &invite).await;
        }
    }

    async fn caption(&mut self) {
        let topic = format!("topic {}", self.chance.random::<u32>());
        self.tell(|by| {
            ClientRequest::post(
                CommandKind::Caption,
                "/api/captions/generate",
                by,
                json!({"platform": "fansly", "topic": topic}),
            )
        })
        .await;
    }

    async fn talk(&mut self) {
        self.talks += 1;
        // In a longer session the answers would lie beyond the first page that is read.
        let session = format!(
            "talk-{}-{}",
            self.talks / (SESSIONS * TALKS),
            self.talks % SESSIONS
        );
        chat::talk(&self.arena, &mut self.chance, &self.user, &session).await;
    }

    /// Renews the token, seldom enough not to spend the run on hashing passwords.
    async fn log_in_again(&mut self) {
        if self.chance.random_bool(0.1) {
            self.user.log_in(&self.arena, &mut self.chance).await;
        }
    }
}
