//! Everything that belongs to a run and is removed after it: a folder, and on Postgres a database with one relay for each server.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use genie_log::{Append, Clock, Log, MasterKeys, clock::random_bytes, store::Target};

use crate::{
    Options, relay::TcpRelay, report::Report, scratch_database::ScratchDatabase, servers::Launch,
    worker,
};

/// Servers on one Postgres, fighting for the same users.
const SERVERS: usize = 2;

pub struct RunSite {
    pub folder: PathBuf,
    pub ground: Option<RelayedPostgres>,
    masters: String,
    pub secret: String,
    pub invite: String,
    pub has_model: bool,
    genie: PathBuf,
    /// The settings of the servers that name the model.
    model: Vec<(&'static str, String)>,
}

/// The run's database, and a relay to it for each server.
pub struct RelayedPostgres {
    pub database: ScratchDatabase,
    pub relays: Arc<Vec<TcpRelay>>,
}

impl RunSite {
    /// Removes the folder again when something else can't be made.
    pub async fn make(options: &Options, id: &str) -> Result<Self, String> {
        let genie = options.genie()?;
        let folder = std::env::temp_dir().join(format!("genie_torture_{id}"));
        let shown = folder.display();
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|error| format!("{shown} can't be made: {error}"))?;
        let masters = MasterKeys::generate().to_string();
        let kept = keep_master_key(&folder, &masters);
        let ground = match (kept, &options.postgres) {
            (Err(error), _) => Err(format!("{shown}: the master key can't be written: {error}")),
            (Ok(()), None) => Ok(None),
            (Ok(()), Some(url)) => RelayedPostgres::make(url, id).await.map(Some),
        };
        let ground = ground.inspect_err(|_| remove(&folder))?;
        Ok(Self {
            folder,
            ground,
            masters,
            secret: hex::encode(random_bytes::<16>()),
            invite: hex::encode(random_bytes::<16>()),
            has_model: answers(&options.ollama).await,
            genie,
            model: options.model_settings(),
        })
    }

    pub fn server_folder(&self, number: usize) -> PathBuf {
        self.folder.join(format!("server-{}", number + 1))
    }

    pub fn servers(&self) -> usize {
        self.ground.as_ref().map_or(1, |ground| ground.relays.len())
    }

    pub fn launch(&self, number: usize) -> Result<Launch, String> {
        let folder = self.server_folder(number);
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| format!("{} can't be made: {error}", folder.display()))?;
        let mut environment = self.model.clone();
        environment.extend([
            ("HOST", "127.0.0.1".to_owned()),
            ("SERVER_PORT", "0".to_owned()),
            ("GENIE_DATA_DIR", folder.display().to_string()),
            ("GENIE_MASTER_KEYS", self.masters.clone()),
            ("GENIE_FIRST_INVITE", self.invite.clone()),
            ("RBAC_SYNC_WEBHOOK_SECRET", self.secret.clone()),
            ("GENIE_JOB_LEASE_MS", worker::LEASE_MS.to_string()),
            ("GENIE_LOGIN_STALL_MS", "0".to_owned()),
            ("ONBOARDING_GATE", "off".to_owned()),
            ("RATE_LIMIT_USER", "off".to_owned()),
            ("RATE_LIMIT_ADDRESS", "off".to_owned()),
            ("CONNECTIONS_PER_ADDRESS", "off".to_owned()),
            ("STREAMS_PER_USER", "1000000".to_owned()),
            ("FACTS_PER_USER_DAY", "1000000000".to_owned()),
            ("GENIE_LOG", "warn".to_owned()),
        ]);
        if let Some(ground) = &self.ground {
            let port = ground.relays[number].port;
            environment.push(("DATABASE_URL", ground.database.url_through(port)));
        }
        Ok(Launch {
            program: self.genie.clone(),
            folder,
            environment,
        })
    }

    /// A log on the same store with the same keys, as another server has it. On the embedded store it only reads.
    pub async fn open_log(&self) -> Result<Append, String> {
        let masters = MasterKeys::parse(&self.masters)
            .map_err(|error| format!("the run's own master key: {error}"))?;
        let (target, read_only) = match &self.ground {
            Some(ground) => (Target::Postgres(ground.database.url()), false),
            None => (Target::Sqlite(self.server_folder(0).join("genie.db")), true),
        };
        let settings = genie_log::Settings {
            target,
            masters,
            clock: Clock::system(),
            read_only,
        };
        Log::open(settings)
            .await
            .map(|opened| opened.append)
            .map_err(|error| error.to_string())
    }

    /// Removes everything after a run that passed, or that was stopped before it began. Else names what is left for a look.
    pub async fn leave(
        self,
        run: Result<Report, String>,
        told_to_stop: bool,
    ) -> Result<Report, String> {
        if run.as_ref().map_or(told_to_stop, Report::passed) {
            if let Some(ground) = &self.ground {
                drop_database(&ground.database).await;
            }
            remove(&self.folder);
            return run;
        }
        let folder = format!(
            "{} (the servers' logs, and the master key)",
            self.folder.display()
        );
        let database = self
            .ground
            .as_ref()
            .map(|ground| format!("the database {}", ground.database.name()));
        let kept: Vec<String> = std::iter::once(folder).chain(database).collect();
        match run {
            Ok(report) => Ok(Report { kept, ..report }),
            Err(sentence) => Err(format!("{sentence}; kept: {}", kept.join(", "))),
        }
    }
}

impl RelayedPostgres {
    async fn make(url: &str, id: &str) -> Result<Self, String> {
        let made = ScratchDatabase::create(url, &format!("genie_torture_{id}")).await;
        let database =
            made.map_err(|error| format!("a database of its own can't be made: {error}"))?;
        let mut relays = Vec::with_capacity(SERVERS);
        for _ in 0..SERVERS {
            let address = database.address();
            match TcpRelay::start(move || Some(address.clone())).await {
                Ok(relay) => relays.push(relay),
                Err(error) => {
                    drop_database(&database).await;
                    return Err(format!("no port can be listened on: {error}"));
                }
            }
        }
        Ok(Self {
            database,
            relays: Arc::new(relays),
        })
    }
}

async fn drop_database(database: &ScratchDatabase) {
    if let Err(error) = database.drop_database().await {
        eprintln!("the database {} can't be dropped: {error}", database.name());
    }
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        eprintln!("{} can't be removed: {error}", folder.display());
    }
}

/// The key opens what is kept after a run that failed.
fn keep_master_key(folder: &Path, masters: &str) -> std::io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(folder.join("master.key"));
    file?.write_all(masters.as_bytes())
}

async fn answers(url: &str) -> bool {
    let get = reqwest::Client::new().get(format!("{}/api/version", url.trim_end_matches('/')));
    get.timeout(Duration::from_secs(3))
        .send()
        .await
        .is_ok_and(|response| response.status().is_success())
}
