//! `GENIE_DATA_DIR/genie.sock`: how changing commands of the command line reach the server that runs on that data folder. Only
//! the operator may connect (mode 0600). Who holds the lock file beside owns the socket: what stands there is of a server that
//! is gone, and a second server in the same folder goes without.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use actix_web::{HttpServer, dev::ServerHandle, web};
use serde::Serialize;
use serde_json::Value;
use tracing::{error, warn};

use crate::{app::App, config::Config, http};

/// The longest path of a socket: what fits into `sun_path` everywhere (104 bytes with the final zero on macOS, 108 on Linux).
const LONGEST_PATH: usize = 103;
/// What a command says when a server answers in another way than it expects.
pub const NOT_UNDERSTOOD: &str =
    "the server's answer is not understood; are the two of one release?";
/// How long a command may take before whoever asked gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Commands under way are given so long at shutdown, in seconds.
const SHUTDOWN_SECONDS: u64 = 3;

fn path(config: &Config) -> PathBuf {
    config.data_dir.join("genie.sock")
}

/// A socket that is served.
pub struct Served {
    server: ServerHandle,
    path: PathBuf,
    _owner: File,
}

impl Served {
    /// Lets commands under way finish and takes the socket away.
    pub async fn stop(self) {
        self.server.stop(true).await;
        let _ = fs::remove_file(&self.path); // one that stays is taken over by the next server
    }
}

/// Serves the socket from now on. A server can do without: why it does is logged.
pub fn serve(app: &Arc<App>) -> Option<Served> {
    let path = path(&app.config);
    let listening = listen(&path).and_then(|(listener, owner)| {
        let data = web::Data::from(Arc::clone(app));
        let server = HttpServer::new(move || http::operator_service(data.clone()))
            .workers(1)
            .disable_signals()
            .shutdown_timeout(SHUTDOWN_SECONDS)
            .listen_uds(listener)?
            .run();
        Ok((server, owner))
    });
    match listening {
        Ok((server, owner)) => {
            let served = Served {
                server: server.handle(),
                path: path.clone(),
                _owner: owner,
            };
            actix_web::rt::spawn(async move {
                if let Err(error) = server.await {
                    error!(%error, "{} is served no longer", path.display());
                }
            });
            Some(served)
        }
        Err(error) => {
            warn!(%error, "{} can't be served: commands such as `genie invite` do not reach this server", path.display());
            None
        }
    }
}

fn listen(path: &Path) -> io::Result<(UnixListener, File)> {
    if path.as_os_str().len() > LONGEST_PATH {
        let reason = format!(
            "its path is longer than {LONGEST_PATH} bytes; set GENIE_DATA_DIR to a shorter one"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let lock = path.with_extension("sock.lock");
    let owner = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(lock)?;
    owner
        .try_lock()
        .map_err(|_| io::Error::other("another server owns it"))?;
    // Made where nobody else can go, and moved when its mode is set: there is no moment at which others might connect.
    let hidden = folder.join(".sock");
    if hidden.exists() {
        fs::remove_dir_all(&hidden)?;
    }
    DirBuilder::new().mode(0o700).create(&hidden)?;
    let made = hidden.join("s");
    let listener = UnixListener::bind(&made)?;
    fs::set_permissions(&made, Permissions::from_mode(0o600))?;
    fs::rename(&made, path)?;
    fs::remove_dir(&hidden)?;
    Ok((listener, owner))
}

/// Asks the server on this data folder; `None` when none runs there.
pub async fn ask(
    config: &Config,
    route: &str,
    body: &impl Serialize,
) -> Result<Option<Value>, String> {
    let path = path(config);
    let shown = path.display();
    if path.as_os_str().len() > LONGEST_PATH {
        return Ok(None); // no server can listen there
    }
    match UnixStream::connect(&path) {
        Ok(_) => {}
        // Never there, or left by a server that was killed.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(format!("{shown} can't be reached: {error}")),
    }
    let client = reqwest::Client::builder()
        .unix_socket(path.as_path())
        .timeout(PATIENCE)
        .build();
    let client = client.map_err(|error| format!("{shown} can't be reached: {error}"))?;
    // It may have been done: only the server's log can say.
    let unheard = |error: reqwest::Error| {
        format!(
            "the server at {shown} did not answer to the end: {}",
            error.without_url()
        )
    };
    let response = client
        .post(format!("http://genie{route}"))
        .json(body)
        .send()
        .await
        .map_err(unheard)?;
    let is_done = response.status().is_success();
    let answer: Value = response.json().await.map_err(unheard)?;
    match is_done {
        true => Ok(Some(answer)),
        false => Err(answer["error"]
            .as_str()
            .unwrap_or("the server refused and did not say why")
            .to_owned()),
    }
}
