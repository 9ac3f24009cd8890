//! All construction: the runtime that owns all I/O, the log, the write side, the read side, the HTTP server.

use std::{
    fs::{self, File, OpenOptions},
    io::{IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use actix_web::{HttpServer, web};
use genie_actors::{WriteSettings, WriteSide, registration::Registrar, supervisor::ModelSettings};
use genie_events::Limits;
use genie_log::{
    Clock, Election, Log, LogError, Opened,
    head_signer::{self, Sealing},
    store::Target,
};
use genie_projections::ReadSide;
use tracing::{info, warn};

use crate::{
    blobs::Blobs,
    config::Config,
    forgetting::{Eraser, Ledger},
    http::{self, account_export::Exports, admission::Admission},
    identity::{
        account_cache::KnownAccounts,
        directus::Directus,
        impersonation::ImpersonationTokens,
        login_limiter::Throttle,
        password::Passwords,
        refresh::RefreshTokens,
        secret_limiter::{self, Refused},
        token::Tokens,
    },
    keys::{self, server::Ring},
    onboarding::Uploading,
    publish_heads, socket,
};

/// Threads that users' actors live on.
const ACTOR_THREADS: usize = 2;
/// HTTP requests under way are given so long at shutdown, in seconds.
const SHUTDOWN_SECONDS: u64 = 3;
/// What was refused lately is put on record within this time at shutdown, if the store is there to take it.
const LAST_FACTS: Duration = Duration::from_secs(2);

/// What handlers are given.
pub struct App {
    pub config: Config,
    pub log: Log,
    /// The last position when this process began.
    pub head_at_start: u64,
    pub election: Election,
    pub write: WriteSide,
    pub reads: ReadSide,
    pub sealing: Sealing,
    pub ring: Arc<Ring>,
    pub tokens: Tokens,
    pub impersonations: ImpersonationTokens,
    pub refresh_tokens: RefreshTokens,
    pub passwords: Passwords,
    pub throttle: Throttle,
    pub refused: Refused,
    /// Who says who is who, when it is not genie itself.
    pub directus: Option<Directus>,
    pub blobs: Blobs,
    pub uploading: Uploading,
    /// Erases what is left of the forgotten.
    pub eraser: Eraser,
    pub known_accounts: KnownAccounts,
    pub admission: Admission,
    pub exports: Exports,
    /// What each tier may do.
    pub limits: Limits,
}

/// Starts the server and runs it until it is told to stop.
pub fn serve(config: Config) -> Result<(), String> {
    start_logging(&config)?;
    let _only_process = lock_store(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("genie-io")
        .build();
    let runtime = runtime.map_err(|error| format!("the runtime can't be started: {error}"))?;
    let io = runtime.handle().clone();
    let system = actix::System::with_tokio_rt(move || runtime);
    system.block_on(async move {
        let arbiters = (0..ACTOR_THREADS)
            .map(|_| actix::Arbiter::new().handle())
            .collect();
        let app = io.spawn(async move { start(config, arbiters).await });
        let app = app
            .await
            .map_err(|stopped| format!("the start broke off: {stopped}"))??;
        listen(Arc::new(app)).await
    })
}

/// On the runtime that owns all I/O.
async fn start(config: Config, arbiters: Vec<actix::ArbiterHandle>) -> Result<App, String> {
    let limits = read_limits(&config)?;
    let Opened { log, vault } = open_log(&config, false).await?;
    let model = ModelSettings {
        url: config.ollama_url.clone(),
        chat_model: config.ollama_model.clone(),
        caption_model: config.caption_model.clone(),
        concurrency: config.ollama_concurrency,
        queue: config.model_queue,
        context_tokens: config.chat_context_tokens,
    };
    let head_at_start = log.head();
    let node = format!("node-{}", log.clock().new_uuid());
    let ring = Ring::announce(&config, &log, &node).await?;
    tokio::spawn(Arc::clone(&ring).follow());
    let election = log
        .stand_for_election(&node)
        .await
        .map_err(|error| error.to_string())?;
    let settings = WriteSettings {
        node,
        model,
        limits: limits.clone(),
        job_lease: config.job_lease,
        embedded: config.is_embedded(),
    };
    let write = WriteSide::start(log.clone(), vault, arbiters, election.clone(), settings)
        .map_err(|error| error.to_string())?;
    let reads = ReadSide::start(log.clone(), election.clone());
    let sealing = start_sealing(&config, &log, election.clone()).await?;
    let directus = directus(&config, &log, write.register.clone())?;
    if let Some(directus) = &directus {
        tokio::spawn(
            directus
                .registrations()
                .clone()
                .settle(election.clone(), config.is_embedded()),
        );
    }
    // Where Directus says who administers, no invite can make an administrator.
    if directus.is_none()
        && let Some(code) = write
            .register
            .first_invite(config.first_invite.as_ref())
            .await
            .map_err(|error| error.to_string())?
    {
        say(&format!(
            "The first invite, whose user becomes administrator: {code}"
        ));
    }
    if config.shared_secret.is_none() {
        warn!("RBAC_SYNC_WEBHOOK_SECRET is not set: the routes of servers and workers answer 503");
    }
    if let Err(failure) = write.supervisor.ollama().ping().await {
        warn!(
            reason = failure.sentence,
            "chat and captions answer 502 until the model server does"
        );
    }
    let blobs = Blobs::open(log.clone(), config.blobs())?;
    tokio::spawn(blobs.clone().sweep(election.clone()));
    let ledger = Ledger::open(&config.forgotten_file)?;
    let eraser = Eraser::new(
        log.clone(),
        write.forget.clone(),
        reads.clone(),
        blobs.clone(),
        directus.clone(),
        ledger,
    );
    for user in eraser.apply_ledger().await? {
        say(&format!(
            "User {user} had been forgotten and came back with a backup: forgotten again"
        ));
    }
    tokio::spawn(eraser.clone().keep_ledger());
    tokio::spawn(eraser.clone().run(election.clone()));
    let tokens = Tokens::new(log.hashes().token_key());
    let impersonations = ImpersonationTokens::new(log.hashes().impersonation_key());
    let passwords = Passwords::new().map_err(|error| error.to_string())?;
    let (refresh_tokens, throttle) = (
        RefreshTokens::new(log.hashes().refresh_key()),
        Throttle::new(),
    );
    let known_accounts = KnownAccounts::new(log.clone(), reads.clone(), write.users.clone());
    tokio::spawn(known_accounts.clone().follow());
    let admission = Admission::new(&config);
    Ok(App {
        config,
        log,
        head_at_start,
        election,
        write,
        reads,
        sealing,
        ring,
        tokens,
        impersonations,
        refresh_tokens,
        passwords,
        throttle,
        refused: Refused::new(),
        directus,
        blobs,
        uploading: Uploading::default(),
        eraser,
        known_accounts,
        admission,
        exports: Exports::default(),
        limits,
    })
}

/// The Directus that says who is who, when there is one.
pub fn directus(
    config: &Config,
    log: &Log,
    register: Registrar,
) -> Result<Option<Directus>, String> {
    let Some(settings) = &config.directus else {
        return Ok(None);
    };
    if settings.admin_token.is_none() {
        warn!(
            "DIRECTUS_ADMIN_TOKEN is not set: nobody can register, and users must be allowed to read their own status"
        );
    }
    Directus::new(settings, log.clone(), register).map(Some)
}

/// The limits of tiers: those that are built in, or those of a file, which must be whole.
pub fn read_limits(config: &Config) -> Result<Limits, String> {
    let Some(path) = &config.tiers_file else {
        return Ok(Limits::built_in());
    };
    let shown = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| format!("GENIE_TIERS_FILE: {shown} can't be read: {error}"))?;
    let told = |wrong: Vec<String>| {
        wrong
            .iter()
            .map(|sentence| format!("GENIE_TIERS_FILE: {shown}: {sentence}"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    Limits::read(&text).map_err(told)
}

/// The tree over the log and its signed heads, which are kept outside as well where that is configured.
pub async fn start_sealing(
    config: &Config,
    log: &Log,
    election: Election,
) -> Result<Sealing, String> {
    let sealing = head_signer::start(log, election, config.seal_every)
        .await
        .map_err(|error| error.to_string())?;
    let key = log
        .head_key()
        .await
        .map_err(|error| error.to_string())?
        .public();
    publish_heads::start(
        &sealing.heads,
        &key,
        config.heads_file.as_deref(),
        config.heads_webhook.as_ref(),
    )?;
    Ok(sealing)
}

async fn listen(app: Arc<App>) -> Result<(), String> {
    let (host, port) = (app.config.host.clone(), app.config.port);
    let data = web::Data::from(Arc::clone(&app));
    app.log.store().io().spawn(Admission::sweep(data.clone()));
    app.log
        .store()
        .io()
        .spawn(put_refused_on_record(data.clone()));
    let server = HttpServer::new(move || http::service(data.clone()))
        .shutdown_timeout(SHUTDOWN_SECONDS)
        .bind((host.as_str(), port))
        .map_err(|error| format!("{host}:{port} can't be listened on: {error}"))?;
    let commands = socket::serve(&app);
    for address in server.addrs() {
        say(&format!("genie listens on http://{address}"));
        info!(%address, store = ?app.config.target(), "genie listens");
    }
    let stopped = server
        .run()
        .await
        .map_err(|error| format!("the server stopped: {error}"));
    if let Some(commands) = commands {
        commands.stop().await;
    }
    let last_refused = app.refused.put_on_record(&app.log, &app.write.access, true);
    let _ = tokio::time::timeout(LAST_FACTS, last_refused).await;
    let (log, ring) = (app.log.clone(), Arc::clone(&app.ring));
    // On the runtime that owns the connections, as all I/O.
    let end = async move {
        ring.withdraw().await;
        log.store().close().await;
    };
    let _ = app.log.store().io().spawn(end).await;
    info!("genie stopped");
    stopped
}

/// For ever; to be spawned.
async fn put_refused_on_record(app: web::Data<App>) {
    loop {
        tokio::time::sleep(secret_limiter::TICK).await;
        app.refused
            .put_on_record(&app.log, &app.write.access, false)
            .await;
    }
}

/// To whoever started the server, and may have stopped listening.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn start_logging(config: &Config) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log)
        .map_err(|error| format!("GENIE_LOG: {error}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log_json {
        true => log.json().init(),
        false => log.init(),
    }
    Ok(())
}

/// Opens the log with the configured master keys, or with those in the data folder, which are made for an empty store.
pub async fn open_log(config: &Config, read_only: bool) -> Result<Opened, String> {
    let masters = keys::file::ring(config, read_only).await?;
    let settings = genie_log::Settings {
        target: config.target(),
        masters,
        clock: Clock::system(),
        read_only,
    };
    Log::open(settings).await.map_err(|error| match error {
        LogError::Away(reason) if read_only => format!("the store can't be read: {reason}"),
        error => error.to_string(),
    })
}

/// An embedded store has one writing process: the file is locked for as long as it lives.
pub fn lock_store(config: &Config) -> Result<Option<File>, String> {
    let Target::Sqlite(_) = config.target() else {
        return Ok(None);
    };
    let path = config.data_dir.join("genie.lock");
    let open = || {
        fs::create_dir_all(&config.data_dir)?;
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
    };
    let file = open().map_err(|error| format!("{} can't be written: {error}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(_) => Err(format!(
            "another genie runs on {}; stop it, or set GENIE_DATA_DIR",
            config.data_dir.display()
        )),
    }
}
