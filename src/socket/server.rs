//! The server's end of the socket. The holder of the lock file beside it owns the socket. It
//! replaces a socket that a dead server left. A second server in the same folder runs without a
//! socket.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use actix_web::{HttpServer, dev::ServerHandle, web};
use tracing::{error, warn};

use super::{LONGEST_PATH, path};
use crate::{app::App, data_folder, http};

/// How long running commands may take at shutdown, in seconds.
const SHUTDOWN_SECONDS: u64 = 3;

pub struct Served {
    server: ServerHandle,
    path: PathBuf,
    _owner: File,
}

impl Served {
    /// Lets running commands finish and removes the socket.
    pub async fn stop(self) {
        self.server.stop(true).await;
        let _ = fs::remove_file(&self.path); // the next server replaces a socket that stays
    }
}

/// Starts serving the socket. A server can run without it, so a failure is only logged.
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
                    error!(%error, path = %path.display(), "command socket: stopped; commands do not reach this server until a restart");
                }
            });
            Some(served)
        }
        Err(error) => {
            warn!(%error, path = %path.display(), "command socket: can't be opened; commands do not reach this server");
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
    data_folder::make(folder)?;
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
    // The socket is made in a folder that others cannot enter, and moved once its mode is set. So
    // there is no moment at which others could connect.
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
