//! A pooler between genie and its Postgres: one that shares sessions among its clients is refused,
//! before anything is written.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use genie_log::{
    Log, LogError, Settings,
    store::Target,
    testing::{Kind, TestStore},
};
use sqlx::{Connection, PgConnection, Row};

/// A PgBouncer in front of a test's database.
struct Pooler {
    process: Child,
    url: String,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn pooler(store: &TestStore, settings: &str) -> Pooler {
    let url = store.database_url().unwrap();
    let (server, database) = url.rsplit_once('/').unwrap();
    let port = server.rsplit_once(':').unwrap().1;
    let mine = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let file = store.folder().join("pgbouncer.ini");
    let text = format!(
        "[databases]\n\
         {database} = host=127.0.0.1 port={port} user=postgres\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {mine}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         {settings}\n"
    );
    fs::write(&file, text).unwrap();
    // PgBouncer does not run as root, and its user has to read the file.
    let mut command = Command::new(program());
    if fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
        open_to_all(&store.folder());
        command.args(["-u", "nobody"]);
    }
    let process = command
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .expect("PgBouncer is installed, by scripts/test");
    let pooler = Pooler {
        process,
        url: format!("postgres://postgres@127.0.0.1:{mine}/{database}"),
    };
    for _ in 0..500 {
        if std::net::TcpStream::connect(("127.0.0.1", mine)).is_ok() {
            return pooler;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("PgBouncer does not listen");
}

/// Debian keeps it off the path of ordinary users.
fn program() -> &'static str {
    let debians = "/usr/sbin/pgbouncer";
    if fs::exists(debians).unwrap() {
        debians
    } else {
        "pgbouncer"
    }
}

fn open_to_all(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

async fn open(store: &TestStore, url: &str) -> Result<(), LogError> {
    let settings = Settings {
        target: Target::Postgres(url.to_owned()),
        ..store.settings()
    };
    Log::open(settings).await.map(drop)
}

async fn tables(store: &TestStore) -> i64 {
    let mut connection = PgConnection::connect(&store.database_url().unwrap())
        .await
        .unwrap();
    sqlx::query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        .fetch_one(&mut connection)
        .await
        .unwrap()
        .get(0)
}

/// However many sessions it has, and in whatever order it hands them out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_shares_sessions_is_refused_and_nothing_is_written() {
    let startup = "ignore_startup_parameters = extra_float_digits,options";
    for settings in [
        "pool_mode = transaction\nserver_round_robin = 0",
        "pool_mode = transaction\nserver_round_robin = 1\nmin_pool_size = 8",
        "pool_mode = transaction\ndefault_pool_size = 1",
        "pool_mode = statement",
    ] {
        let store = TestStore::new(Kind::Postgres).await;
        let pooler = pooler(&store, &format!("{settings}\n{startup}")).await;
        for _ in 0..3 {
            let refused = open(&store, &pooler.url).await.unwrap_err().to_string();
            assert!(
                refused.contains("pooler") && refused.contains("Connect to PostgreSQL directly"),
                "{settings}: {refused}"
            );
        }
        assert_eq!(tables(&store).await, 0, "{settings}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_drops_or_refuses_settings_is_refused() {
    for (settings, sentence) in [
        (
            "pool_mode = session\nignore_startup_parameters = extra_float_digits,options",
            "a pooler that drops the settings",
        ),
        ("pool_mode = session", "a pooler that refuses the settings"),
    ] {
        let store = TestStore::new(Kind::Postgres).await;
        let pooler = pooler(&store, settings).await;
        let refused = open(&store, &pooler.url).await.unwrap_err().to_string();
        assert!(refused.contains(sentence), "{refused}");
        assert_eq!(tables(&store).await, 0);
    }
}
