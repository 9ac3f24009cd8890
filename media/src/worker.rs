//! Claims jobs from a server, works on them and reports how they ended. All of it goes over the HTTP API, so a
//! worker runs beside the server or elsewhere.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    fetch::{Guard, PrivateNetworks},
    mark_secret::MarkSecret,
    sandbox::{self, Confinement, SandboxLevel},
};

/// One attempt at a job.
mod attempt;
/// What yt-dlp does.
mod downloads;
/// The folders of jobs.
mod folders;
/// Counts what an uploaded archive holds.
mod import;
/// Renews the leases of all jobs together.
mod leases;
/// Programs that a killed worker left behind.
mod leftovers;
/// Invisible marks.
mod marks;
/// The programs of this machine.
mod programs;
/// The server, over its HTTP API.
mod server;

use attempt::Attempt;
use folders::JobFolders;
use leases::LeaseKeeper;
use marks::WorkerMarks;
use programs::MediaPrograms;
use server::{JobServer, ServerError, WantedJobs, WorkerJob};

/// The wait when the disk is full, and when the server is away.
const REST: Duration = Duration::from_secs(2);
/// How long unfinished jobs may take to be given back at the end.
const LAST_REPORTS: Duration = Duration::from_secs(10);

const QUEUES: [&str; 2] = ["media-jobs", "onboarding-jobs"];

pub struct WorkerSettings {
    /// The server's address, such as `http://127.0.0.1:3001`.
    pub server: String,
    /// A service key with the scope `jobs:work`.
    pub key: SecretString,
    /// The worker's name for itself, kept with the facts of its jobs.
    pub name: String,
    /// A folder for this worker alone.
    pub folder: PathBuf,
    /// How many jobs run at once.
    pub jobs: usize,
    /// No job is claimed while the disk of the folder has less free space, in bytes.
    pub min_free: u64,
    /// The largest file that is worked on, in bytes.
    pub max_input: u64,
    /// True: it does not work when the sandbox is less than full.
    pub must_confine: bool,
    /// Networks of special use that users' addresses may lead into.
    pub networks: PrivateNetworks,
    /// The folders of programs, as in `PATH`.
    pub search_path: OsString,
    /// The secret of the server's invisible marks. Without it their jobs are for other workers.
    pub mark_secret: Option<MarkSecret>,
}

/// What a worker is, for those who look after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStatus {
    pub sandbox: Confinement,
    /// The operations that it asks for.
    pub operations: BTreeSet<&'static str>,
    /// The programs that it lacks. Each takes operations with it.
    pub missing: Vec<&'static str>,
    /// Jobs that run now.
    pub running: usize,
    /// True when the server answered its last claim.
    pub is_connected: bool,
}

/// Tells how a worker is, from another place of the same process. Empty before it starts.
#[derive(Clone, Default)]
pub struct WorkerWatch(Arc<Mutex<Option<Arc<WatchedWorker>>>>);

struct WatchedWorker {
    sandbox: Confinement,
    programs: MediaPrograms,
    running: AtomicUsize,
    is_connected: std::sync::atomic::AtomicBool,
}

impl WorkerWatch {
    pub fn report(&self) -> Option<WorkerStatus> {
        let watched = self.0.lock().clone()?;
        Some(WorkerStatus {
            sandbox: watched.sandbox.clone(),
            operations: watched.programs.operations(),
            missing: watched.programs.missing(),
            running: watched.running.load(Ordering::Relaxed),
            is_connected: watched.is_connected.load(Ordering::Relaxed),
        })
    }
}

/// What all attempts of a worker share.
struct WorkerParts {
    server: JobServer,
    leases: LeaseKeeper,
    name: String,
    operations: Vec<&'static str>,
    guard: Guard,
    folders: JobFolders,
    watched: Arc<WatchedWorker>,
    marks: Option<WorkerMarks>,
    min_free: u64,
    max_input: u64,
}

impl WorkerParts {
    fn wants(&self) -> WantedJobs<'_> {
        WantedJobs {
            queues: &QUEUES,
            operations: &self.operations,
            name: &self.name,
        }
    }

    fn has_room(&self) -> bool {
        let free = self.folders.free();
        free.is_none_or(|free| free >= self.min_free)
    }

    /// What is claimed when a job has ended: nothing once the worker stops, or its disk is nearly full.
    fn wanted(&self, stop: &CancellationToken) -> Option<WantedJobs<'_>> {
        let goes_on = !stop.is_cancelled() && self.has_room();
        goes_on.then(|| self.wants())
    }
}

/// A worker that is ready to claim.
pub struct Worker {
    shared: Arc<WorkerParts>,
    jobs: usize,
}

impl Worker {
    /// Looks at this machine, and wipes the folder. An error is a sentence for the operator.
    pub async fn prepare(settings: WorkerSettings, watch: &WorkerWatch) -> Result<Self, String> {
        let sandbox = sandbox::probe()
            .await
            .map_err(|error| format!("the sandbox of the media worker can't be tried: {error}"))?;
        let level = sandbox.level;
        let missing = sandbox.missing.join("; ");
        if level == SandboxLevel::Full {
            info!(sandbox = level.as_str(), "media worker: sandbox is full");
        } else if settings.must_confine {
            return Err(format!(
                "GENIE_SANDBOX is `require`, and the sandbox of this machine is {}: {missing}",
                level.as_str()
            ));
        } else {
            warn!(
                sandbox = level.as_str(),
                missing, "media worker: sandbox is not full"
            );
        }
        let marks = settings.mark_secret.map(WorkerMarks::new);
        let programs = MediaPrograms::find(&settings.search_path, marks.is_some());
        let lacks = programs.missing();
        if !lacks.is_empty() {
            let programs = lacks.join(", ");
            warn!(
                programs,
                "media worker: programs are missing; their operations wait"
            );
        }
        let watched = Arc::new(WatchedWorker {
            sandbox,
            programs,
            running: AtomicUsize::new(0),
            is_connected: false.into(),
        });
        let shared = WorkerParts {
            server: JobServer::new(&settings.server, settings.key)?,
            leases: LeaseKeeper::default(),
            name: settings.name,
            operations: watched.programs.operations().into_iter().collect(),
            guard: Guard::new(settings.networks)?,
            folders: JobFolders::open(&settings.folder).await?,
            watched: Arc::clone(&watched),
            marks,
            min_free: settings.min_free,
            max_input: settings.max_input,
        };
        *watch.0.lock() = Some(watched);
        Ok(Self {
            shared: Arc::new(shared),
            jobs: settings.jobs.max(1),
        })
    }

    /// Claims and works until `stop` is cancelled. Then it gives back what is unfinished.
    pub async fn run(self, stop: CancellationToken) {
        info!(
            jobs = self.jobs,
            operations = self.shared.operations.join(" "),
            "media worker: claiming"
        );
        let mut renewing = JoinSet::new(); // ends its task when it is dropped
        let shared = Arc::clone(&self.shared);
        renewing.spawn(async move { shared.leases.renew(&shared.server).await });
        let places = Arc::new(Semaphore::new(self.jobs));
        let mut attempts = JoinSet::new();
        while let Some(claimed) = stop.run_until_cancelled(self.claim(&places)).await {
            while attempts.try_join_next().is_some() {}
            for job in claimed {
                let place = Arc::clone(&places).try_acquire_owned();
                let shared = Arc::clone(&self.shared);
                let stop = stop.clone();
                attempts.spawn(async move {
                    let _place = place;
                    let mut next = Some(job);
                    while let Some(job) = next {
                        shared.watched.running.fetch_add(1, Ordering::Relaxed);
                        next = Attempt::new(&shared, job).run(&stop).await;
                        shared.watched.running.fetch_sub(1, Ordering::Relaxed);
                    }
                });
            }
        }
        let rest = async { while attempts.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_REPORTS, rest).await.is_err() {
            warn!("media worker: stopped before all jobs were given back; their leases run out");
        }
    }

    /// Waits for a free place, and claims for all that are free.
    async fn claim(&self, places: &Arc<Semaphore>) -> Vec<WorkerJob> {
        let mut was_full = false;
        loop {
            if places.acquire().await.is_err() {
                return Vec::new(); // it is never closed
            }
            if !self.shared.has_room() {
                if !was_full {
                    error!("media worker: disk is nearly full; no job is claimed");
                }
                was_full = true;
                sleep(REST).await;
                continue;
            }
            let is_connected = &self.shared.watched.is_connected;
            // The first answer comes at once, and tells that the server is there.
            let waits = is_connected.load(Ordering::Relaxed);
            let free = places.available_permits();
            let wanted = self.shared.wants();
            let claimed = self.shared.server.claim(&wanted, free, waits).await;
            match claimed {
                Ok(jobs) => {
                    is_connected.store(true, Ordering::Relaxed);
                    if !jobs.is_empty() {
                        return jobs;
                    }
                }
                Err(error) => {
                    if is_connected.swap(false, Ordering::Relaxed) {
                        warn!(%error, "media worker: no claim; trying again");
                    } else if matches!(error, ServerError::Refused { .. }) {
                        error!(%error, "media worker: the server refuses the claim; trying again");
                    }
                    sleep(REST).await;
                }
            }
        }
    }
}
