//! Builds a server and starts listening: `run` for the binary, `Server` inside another process.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    task::Poll,
    thread,
    time::Duration,
};

use actix::{Arbiter, ArbiterHandle};
use actix_web::dev::ServerHandle;
use futures_util::poll;
use genie_actors::{ModelPresence, ModelSettings, TokenWaits, WriteSettings, WriteSide};
use genie_events::{InviteCode, Limits};
use genie_log::{Clock, Election, Log, Opened};
use genie_media::worker::WorkerWatch;
use genie_projections::ReadSide;
use serde_json::json;
use tokio::{
    runtime::{self, Runtime},
    sync::{mpsc, oneshot},
};
use tracing::{info, warn};

use crate::{
    app::App,
    blobs::Blobs,
    board_owners,
    byte_budget::{BodyBytes, ByteBudget},
    cli::output,
    config::Config,
    data_folder,
    exports::Exports,
    file_limit,
    file_retention::FileRetention,
    forgetting::{Eraser, ForgottenLedger},
    housekeeping,
    identity::{
        callers::Callers,
        directus::Directus,
        impersonation::ImpersonationTokens,
        login_limiter::LoginLimiter,
        password::Passwords,
        refresh::RefreshTokens,
        reset_limiter::ResetLimiter,
        secret_limiter::{self, SecretLimiter},
        token::Tokens,
    },
    job_retention::JobRetention,
    keys::{self, server::Ring},
    logging,
    media_worker::{Signals, WorkerBeside},
    outages::Outages,
    password_mail::PasswordMails,
    port, publish_heads,
    request_limits::RequestLimits,
    resumable_uploads::ResumableUploads,
    skills::Skills,
    socket,
    store::{lock_store, open_log},
    streams::Streams,
    tier_limits,
    uploads::Uploads,
};

/// The threads of the users' actors.
const ACTOR_THREADS: usize = 2;
/// How long recording the last refusals may take at shutdown.
const LAST_FACTS: Duration = Duration::from_secs(2);

/// Runs the server of this process until a signal stops it.
pub fn run(config: Config, with_worker: bool) -> Result<(), String> {
    logging::start(&config)?;
    for warning in &config.unknown {
        warn!("{warning}");
    }
    if let Err(reason) = file_limit::raise() {
        warn!(reason, "port: fewer connections are allowed");
    }
    let owner = ServerOwner {
        say: Arc::new(output::say),
        listening: None,
        stop: None,
        with_worker,
    };
    serve(config, Clock::system(), owner)
}

/// A server inside another process. Several may run at once. It leaves the process' own things
/// alone: logging, signals, core dumps.
pub struct Server {
    address: SocketAddr,
    said: mpsc::UnboundedReceiver<String>,
    stop: oneshot::Sender<Stop>,
    ended: oneshot::Receiver<Result<(), String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Running requests finish, and the store is closed.
    Gracefully,
    /// As if the process were killed.
    AtOnce,
}

impl Server {
    /// Starts a server and waits until it listens. Port 0 takes a free one.
    pub async fn start(config: Config, clock: Clock) -> Result<Self, String> {
        let (say, said) = mpsc::unbounded_channel();
        let (listening, address) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let (end, mut ended) = oneshot::channel();
        let owner = ServerOwner {
            say: Arc::new(move |line| {
                let _ = say.send(line.to_owned());
            }),
            listening: Some(listening),
            stop: Some(stopped),
            with_worker: false,
        };
        // An actix system is bound to one thread, so the server gets its own.
        thread::Builder::new()
            .name("genie".into())
            .spawn(move || {
                let _ = end.send(serve(config, clock, owner));
            })
            .map_err(|error| format!("the server's thread can't be started: {error}"))?;
        match address.await {
            Ok(address) => Ok(Self {
                address,
                said,
                stop,
                ended,
            }),
            Err(_) => Err(end_of(&mut ended)
                .await
                .err()
                .unwrap_or_else(|| "the server ended before it listened".into())),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The lines since the last call that the binary would print to standard output.
    pub fn lines(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.said.try_recv().ok()).collect()
    }

    /// Lets running requests finish, and stops.
    pub async fn stop(mut self) -> Result<(), String> {
        let _ = self.stop.send(Stop::Gracefully); // fails when the server has ended by itself
        end_of(&mut self.ended).await
    }

    /// Ends as if the process were killed: connections break, and the store is not closed.
    pub async fn kill(mut self) {
        let _ = self.stop.send(Stop::AtOnce);
        let _ = end_of(&mut self.ended).await; // an error is expected
    }
}

async fn end_of(ended: &mut oneshot::Receiver<Result<(), String>>) -> Result<(), String> {
    ended
        .await
        .unwrap_or_else(|_| Err("the server's thread panicked".into()))
}

type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// The owner of a server: receives its lines, and stops it.
struct ServerOwner {
    say: Say,
    listening: Option<oneshot::Sender<SocketAddr>>,
    /// `None`: signals stop the server.
    stop: Option<oneshot::Receiver<Stop>>,
    /// True: a media worker runs beside the server.
    with_worker: bool,
}

fn serve(config: Config, clock: Clock, owner: ServerOwner) -> Result<(), String> {
    let _only_process = lock_store(&config)?;
    data_folder::narrow(&config.data_dir, keys::file::path(&config).as_deref());
    let runtime = io_runtime()?;
    let io = runtime.handle().clone();
    let system = actix::System::with_tokio_rt(move || runtime);
    system.block_on(async move {
        let arbiters: Vec<Arbiter> = (0..ACTOR_THREADS).map(|_| Arbiter::new()).collect();
        let handles = arbiters.iter().map(Arbiter::handle).collect();
        let built = io.spawn(build(config, clock, handles, Arc::clone(&owner.say)));
        let built = built
            .await
            .map_err(|stopped| format!("the start broke off: {stopped}"))??;
        let ended = listen(built, owner).await;
        for arbiter in &arbiters {
            arbiter.stop();
        }
        ended
    })
}

/// The runtime that owns all I/O.
fn io_runtime() -> Result<Runtime, String> {
    runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("genie-io")
        .build()
        .map_err(|error| format!("the runtime can't be started: {error}"))
}

/// A server that does not listen yet.
struct Built {
    app: App,
    /// The code of the first invite, while it is unspent.
    first_invite: Option<InviteCode>,
}

/// Builds the state and starts all background tasks. Call it on the runtime that owns all I/O.
async fn build(
    config: Config,
    clock: Clock,
    arbiters: Vec<ArbiterHandle>,
    say: Say,
) -> Result<Built, String> {
    let limits = tier_limits::read(&config)?;
    let Opened { log, append, vault } = open_log(&config, clock, false).await?;
    let head_at_start = log.reader().head();
    let node = format!("node-{}", log.clock().new_uuid());
    let ring = Ring::announce(&config, &log, &node).await?;
    tokio::spawn(Arc::clone(&ring).follow());
    let election = log.elections().stand(&node).await.map_err(sentence)?;
    let settings = write_settings(&config, node, limits.clone());
    let write =
        WriteSide::start(append, vault, arbiters, election.clone(), settings).map_err(sentence)?;
    let reads = ReadSide::start(log.clone(), election.clone());
    tell_board_of_owners(&log, &write, &reads);
    let heads = publish_heads::start_sealing(&config, &log, election.clone()).await?;
    let directus = open_directus(&config, &log, &write, &election)?;
    let first_invite = make_first_invite(&config, &write).await?;
    warn_of_missing(&config, &write).await;
    let blobs = start_blobs(&config, &log, &election)?;
    start_housekeeping(&config, &log, &election);
    start_file_retention(&config, &log, &write, &blobs, &election);
    start_job_retention(&config, &log, &write, &reads, &election);
    start_password_mails(&config, &log, &reads, &write, &election)?;
    let ledger = ForgottenLedger::open(&config.forgotten_file, log.hashes())?;
    let eraser = eraser(&log, &write, &reads, &blobs, directus.as_ref(), ledger);
    start_erasing(&eraser, &election, &say).await?;
    let callers = follow_callers(&log, &reads, &write);
    let app = App {
        tokens: Tokens::new(log.hashes().token_key()),
        impersonations: ImpersonationTokens::new(log.hashes().impersonation_key()),
        refresh_tokens: RefreshTokens::new(log.hashes().refresh_key()),
        passwords: Passwords::new().map_err(sentence)?,
        login_limiter: LoginLimiter::new(),
        secret_limiter: SecretLimiter::new(),
        reset_limiter: ResetLimiter::new(),
        uploads: Uploads::default(),
        resumable_uploads: ResumableUploads::default(),
        exports: Exports::default(),
        skills: read_skills(&config)?,
        outages: Outages::default(),
        streams: Streams::new(config.streams_per_user, config.streams_in_all),
        body_bytes: BodyBytes::new(config.body_bytes_in_flight),
        worker: WorkerWatch::default(),
        large_answers: ByteBudget::new(config.answer_bytes_in_flight),
        request_limits: start_request_limits(&config),
        config,
        log,
        head_at_start,
        election,
        write,
        reads,
        heads,
        ring,
        directus,
        blobs,
        eraser,
        callers,
        limits,
    };
    Ok(Built { app, first_invite })
}

/// What erases the forgotten wherever they are kept.
fn eraser(
    log: &Log,
    write: &WriteSide,
    reads: &ReadSide,
    blobs: &Blobs,
    directus: Option<&Directus>,
    ledger: ForgottenLedger,
) -> Eraser {
    Eraser::new(
        log.clone(),
        write.forgetting.clone(),
        reads.clone(),
        blobs.clone(),
        directus.cloned(),
        ledger,
    )
}

/// The callers in memory, which follow the log.
fn follow_callers(log: &Log, reads: &ReadSide, write: &WriteSide) -> Callers {
    let users = write.users.clone();
    let callers = Callers::new(
        log.clone(),
        reads.clone(),
        users,
        write.service_keys.clone(),
    );
    tokio::spawn(callers.clone().follow());
    callers
}

fn sentence(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn write_settings(config: &Config, node: String, limits: Limits) -> WriteSettings {
    let model = ModelSettings {
        urls: config.ollama_urls.clone(),
        proxies: config.proxies,
        chat_model: config.ollama_model.clone(),
        caption_model: config.caption_model.clone(),
        concurrency: config.ollama_concurrency,
        queue: config.model_queue,
        context_tokens: config.chat_context_tokens,
        answer_tokens: config.chat_max_tokens,
        answer_time: config.chat_max_time,
        waits: TokenWaits {
            first: config.first_token,
            between: config.next_token,
        },
        system_prompt: config.chat_system_prompt.clone(),
        profiles: config.chat_model_options.clone(),
    };
    WriteSettings {
        node,
        model,
        limits,
        job_lease: config.job_lease,
        embedded: config.is_embedded(),
    }
}

fn open_directus(
    config: &Config,
    log: &Log,
    write: &WriteSide,
    election: &Election,
) -> Result<Option<Directus>, String> {
    let register = write.registration.clone();
    let directus = Directus::open(config.directus.as_ref(), log, register)?;
    if let Some(directus) = &directus {
        let registrations = directus.registrations().clone();
        tokio::spawn(registrations.settle(election.clone(), config.is_embedded()));
    }
    Ok(directus)
}

/// Makes the first invite. With a Directus there is none: Directus names the administrators.
async fn make_first_invite(
    config: &Config,
    write: &WriteSide,
) -> Result<Option<InviteCode>, String> {
    if config.directus.is_some() {
        return Ok(None);
    }
    let fixed = config.first_invite.as_ref();
    write.invites.first(fixed).await.map_err(sentence)
}

async fn warn_of_missing(config: &Config, write: &WriteSide) {
    if config.shared_secret.is_none() {
        warn!(
            "configuration: RBAC_SYNC_WEBHOOK_SECRET is not set; routes of servers and workers answer 503"
        );
    }
    match write.models(&config.chat_models).await {
        Err(failure) => warn!(
            reason = failure.sentence,
            "model server: no answer; chat and captions answer 502 until it does"
        ),
        Ok(models) => {
            let missing = |presence: &ModelPresence| *presence == ModelPresence::Missing;
            for (model, _) in models.iter().filter(|(_, presence)| missing(presence)) {
                warn!(
                    model,
                    "model server: a model is missing; what needs it answers 502 until it is pulled"
                );
            }
        }
    }
}

fn tell_board_of_owners(log: &Log, write: &WriteSide, reads: &ReadSide) {
    let owners = board_owners::tell(write.jobs.clone(), log.clone(), reads.clone());
    tokio::spawn(owners);
}

fn read_skills(config: &Config) -> Result<Skills, String> {
    let Some(folder) = &config.skills_folder else {
        return Ok(Skills::default());
    };
    Skills::read(folder).map_err(|error| {
        let folder = folder.display();
        format!("GENIE_SKILLS_DIR: the folder {folder} can't be read: {error}")
    })
}

fn start_blobs(config: &Config, log: &Log, election: &Election) -> Result<Blobs, String> {
    let blobs = Blobs::open(log.clone(), config.blobs(), config.files_min_free)?;
    tokio::spawn(blobs.clone().sweep(election.clone()));
    Ok(blobs)
}

fn start_housekeeping(config: &Config, log: &Log, election: &Election) {
    let tidy = housekeeping::run(log.clone(), election.clone(), config.keep_outcomes);
    tokio::spawn(tidy);
}

fn start_file_retention(
    config: &Config,
    log: &Log,
    write: &WriteSide,
    blobs: &Blobs,
    election: &Election,
) {
    let Some(keep) = config.files_keep else {
        return;
    };
    let retention = FileRetention {
        log: log.clone(),
        write: write.clone(),
        blobs: blobs.clone(),
        keep,
    };
    tokio::spawn(retention.run(election.clone()));
}

fn start_job_retention(
    config: &Config,
    log: &Log,
    write: &WriteSide,
    reads: &ReadSide,
    election: &Election,
) {
    let Some(keep) = config.jobs_keep else {
        return;
    };
    let retention = JobRetention {
        log: log.clone(),
        write: write.clone(),
        reads: reads.clone(),
        keep,
    };
    tokio::spawn(retention.run(election.clone()));
}

/// With a Directus the mails are its own.
fn start_password_mails(
    config: &Config,
    log: &Log,
    reads: &ReadSide,
    write: &WriteSide,
    election: &Election,
) -> Result<(), String> {
    let Some(server) = config.mail.clone().filter(|_| config.directus.is_none()) else {
        return Ok(());
    };
    let mails = PasswordMails::new(
        server,
        config.reset_pages.clone(),
        log.clone(),
        reads.clone(),
        write.accounts.clone(),
    )?;
    tokio::spawn(mails.run(election.clone()));
    Ok(())
}

fn start_request_limits(config: &Config) -> RequestLimits {
    let limits = RequestLimits::new(config);
    tokio::spawn(limits.clone().forget_idle());
    limits
}

async fn start_erasing(eraser: &Eraser, election: &Election, say: &Say) -> Result<(), String> {
    for user in eraser.apply_ledger().await? {
        say(&format!(
            "User {user} was forgotten and came back with a backup; forgotten again"
        ));
    }
    tokio::spawn(eraser.clone().keep_ledger());
    tokio::spawn(eraser.clone().run(election.clone()));
    Ok(())
}

async fn listen(Built { app, first_invite }: Built, mut owner: ServerOwner) -> Result<(), String> {
    let app = Arc::new(app);
    let io = app.log.store().io().clone();
    io.spawn(put_refused_on_record(Arc::clone(&app)));
    let host = app.config.host.as_str();
    let number = app.config.port;
    let not_listened = |error| format!("{host}:{number} can't be listened on: {error}");
    let listeners = port::bind(host, number).map_err(not_listened)?;
    let addresses: Vec<SocketAddr> = listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect();
    let signals = owner.with_worker.then(Signals::listen).transpose()?;
    let (stop, stopped) = oneshot::channel();
    if signals.is_some() {
        owner.stop = Some(stopped);
    }
    let server = port::serve(&app, listeners, owner.stop.is_none()).map_err(not_listened)?;
    let commands = socket::server::serve(&app);
    let handle = server.handle();
    let mut server = pin!(server);
    // The first poll installs the handlers of signals. Nobody is told before that the server
    // listens, because they may stop it at once.
    let first_poll = poll!(&mut server);
    if let (Some(code), Some(address)) = (first_invite, addresses.first()) {
        (owner.say)(&first_invite_told(code.written(), *address));
    }
    for address in &addresses {
        (owner.say)(&format!("genie listens on http://{address}"));
        info!(%address, store = ?app.config.target(), "genie: listening");
    }
    if let (Some(listening), Some(address)) = (owner.listening, addresses.first()) {
        let _ = listening.send(*address);
    }
    let working = signals
        .zip(addresses.first())
        .map(|(signals, address)| io.spawn(work_beside(Arc::clone(&app), *address, signals, stop)));
    let told = owner
        .stop
        .map(|stop| actix_web::rt::spawn(stop_when_told(stop, handle)));
    let ended = match first_poll {
        Poll::Ready(ended) => ended,
        Poll::Pending => server.await,
    };
    let mut stopped = ended.map_err(|error| format!("the server stopped: {error}"));
    if let Some(working) = working {
        let worked = working.await.unwrap_or_else(|died| Err(died.to_string()));
        stopped = stopped.and(worked);
    }
    if let Some(told) = told
        && matches!(told.await, Ok(Stop::AtOnce))
    {
        return stopped;
    }
    if let Some(commands) = commands {
        commands.stop().await;
    }
    close(&app).await;
    stopped
}

/// Runs a media worker beside the server until a signal comes. The worker stops first, because it gives its jobs back to
/// the server. A second signal is not waited for.
async fn work_beside(
    app: Arc<App>,
    address: SocketAddr,
    mut signals: Signals,
    stop: oneshot::Sender<Stop>,
) -> Result<(), String> {
    let started = WorkerBeside::start(app, reachable(address)).await;
    let worked = match started {
        Ok(worker) => {
            signals.next().await;
            tokio::select! {
                () = worker.stop() => {}
                () = signals.next() => {}
            }
            Ok(())
        }
        Err(why) => Err(why),
    };
    let _ = stop.send(Stop::Gracefully); // fails when the server has ended by itself
    worked
}

/// The address at which this machine reaches a server that listens on all addresses.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

async fn stop_when_told(stop: oneshot::Receiver<Stop>, server: ServerHandle) -> Stop {
    let stop = stop.await.unwrap_or(Stop::AtOnce); // an error means that the owner is gone
    server.stop(stop == Stop::Gracefully).await;
    stop
}

async fn close(app: &App) {
    let last_refused = app
        .secret_limiter
        .put_on_record(&app.log, &app.write.access, true);
    let _ = tokio::time::timeout(LAST_FACTS, last_refused).await;
    let log = app.log.clone();
    let ring = Arc::clone(&app.ring);
    // Connections belong to that runtime.
    let end = async move {
        ring.withdraw().await;
        log.store().close().await;
    };
    let _ = app.log.store().io().spawn(end).await;
    info!("genie: stopped");
}

/// The first invite, with a command that uses it.
fn first_invite_told(code: &str, address: SocketAddr) -> String {
    let address = reachable(address);
    let body = json!({"email": "you@example.com", "password": "CHANGE-ME", "inviteCode": code});
    let body = body.to_string().replace('\'', r"'\''"); // quoted for the shell
    format!(
        "The first invite, whose user becomes administrator: {code}\n\
         Use it with your address and password:\n  \
         curl http://{address}/api/register -H 'Content-Type: application/json' -d '{body}'"
    )
}

/// Records refusals in the log. Runs for ever; spawn it.
async fn put_refused_on_record(app: Arc<App>) {
    loop {
        tokio::time::sleep(secret_limiter::TICK).await;
        app.secret_limiter
            .put_on_record(&app.log, &app.write.access, false)
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_invite_comes_with_a_command_that_a_shell_can_run() {
        let told = first_invite_told("it's", "0.0.0.0:3001".parse().unwrap());
        assert!(told.contains("curl http://127.0.0.1:3001/api/register "));
        assert!(told.contains(r#""inviteCode":"it'\''s""#), "{told}");
    }
}
