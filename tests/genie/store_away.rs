//! The store goes away: requests get 503, nothing is half done, and genie goes on by itself when
//! the store is back.

use std::time::Duration;

use genie_log::{
    store::Target,
    testing::{Kind, TestStore},
};
use reqwest::Method;
use serde_json::json;
use sqlx::Connection;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::test_genie::TestGenie;

/// The state of the connection.
#[derive(Clone, Copy, PartialEq)]
pub enum Way {
    Open,
    /// No byte passes, and no side gets an error.
    Hangs,
    /// Connections break, and new ones are refused.
    Cut,
}

/// A relay to Postgres, or to a server, that can cut the connection or let it hang.
pub struct Cuttable {
    way: watch::Sender<Way>,
    address: String,
}

/// Passes bytes on, except while the relay hangs or is cut.
async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut way: watch::Receiver<Way>,
) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let is_cut = match way.wait_for(|way| *way != Way::Hangs).await {
            Ok(way) => *way == Way::Cut,
            Err(_) => true, // the test is over
        };
        if is_cut || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn relay(client: TcpStream, target: String, way: watch::Receiver<Way>) {
    let relayed = async {
        let server = TcpStream::connect(target).await.unwrap();
        let (from_server, to_server) = server.into_split();
        let (from_client, to_client) = client.into_split();
        tokio::select! {
            () = pass_on(from_client, to_server, way.clone()) => {}
            () = pass_on(from_server, to_client, way.clone()) => {}
        }
    };
    let mut cut = way.clone();
    tokio::select! {
        _ = cut.wait_for(|way| *way == Way::Cut) => {}
        () = relayed => {}
    }
}

impl Cuttable {
    pub async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (way, is) = watch::channel(Way::Open);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(relay(client, target.clone(), is.clone()));
            }
        });
        Self { way, address }
    }

    /// The address of a server behind the relay.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn is(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// A server that reaches Postgres through the relay.
    async fn genie() -> (Self, TestGenie) {
        Self::genie_with(&[]).await
    }

    /// The same with these settings.
    pub async fn genie_with(settings: &[(&'static str, String)]) -> (Self, TestGenie) {
        let store = TestStore::new(Kind::Postgres).await;
        let Target::Postgres(url) = store.target.clone() else {
            panic!("a Postgres")
        };
        let (before, rest) = url.split_once('@').unwrap();
        let (host, database) = rest.split_once('/').unwrap();
        let way = Self::to(host.to_owned()).await;
        let through = format!("{before}@{}/{database}", way.address);
        let settings = [settings, &[("DATABASE_URL", through)]].concat();
        let genie = TestGenie::start_with(store, &settings).await;
        (way, genie)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_away_is_503_and_the_story_goes_on_when_it_is_back() {
    let (way, mut genie) = Cuttable::genie().await;
    away(&mut genie, |is_away| {
        way.is(if is_away { Way::Cut } else { Way::Open });
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_hangs_without_a_word_is_503_in_time() {
    let (way, mut genie) = Cuttable::genie().await;
    let ada = genie.user("ada").await;
    ada.submit_job(&genie).await;
    genie.settle().await;
    way.is(Way::Hangs);
    let job = json!({"operation": "thumbnail", "input_url": "http://a/b", "jobId": 1});
    let headers = ada.headers();
    // The token's account is read first, so this measures the time limit of the read or of the
    // append.
    let asked = genie.send(
        Method::POST,
        "/api/queue/media",
        &headers,
        Some(job.clone()),
    );
    let refused = tokio::time::timeout(Duration::from_secs(20), asked)
        .await
        .expect("the server answers in time");
    refused.refused(503, "store_away");
    way.is(Way::Open);
    ada.post(&genie, "/api/queue/media", job).await.ok();
    genie.settle().await;
    assert_eq!(
        ada.get(&genie, "/api/jobs").await.ok()["data"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

/// Postgres writes read tables without waiting for the disk. A crash of the database may take back
/// their last rows together with the checkpoint. It never takes back the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_tables_that_a_crash_took_back_are_written_again() {
    let mut genie = TestGenie::start(TestStore::new(Kind::Postgres).await).await;
    let ada = genie.user("ada").await;
    let job = json!({"operation": "thumbnail", "input_url": "http://a/b"});
    let queued = ada.post(&genie, "/api/queue/media", job).await;
    let mut headers = ada.headers().to_vec();
    headers.push((
        "Genie-Min-Position",
        queued.headers["Genie-Position"]
            .to_str()
            .unwrap()
            .to_owned(),
    ));
    let path = format!("/api/jobs/{}", queued.ok()["jobId"].as_str().unwrap());
    genie.settle().await;
    genie
        .store
        .try_sql(
            "WITH a AS (DELETE FROM accounts), u AS (DELETE FROM usage), j AS (DELETE FROM jobs), \
                  c AS (DELETE FROM job_counts), i AS (DELETE FROM invites) \
             UPDATE checkpoints SET position = 0 WHERE name = 'projections'",
        )
        .await
        .unwrap();
    assert_eq!(
        genie.send(Method::GET, &path, &headers, None).await.ok()["status"],
        "queued"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_sqlite_store_is_503_and_the_story_goes_on_when_it_is_free() {
    let store = TestStore::new(Kind::Sqlite).await;
    let path = store.folder().join("genie.db");
    let mut genie = TestGenie::start(store).await;
    let ada = genie.user("ada").await;
    ada.submit_job(&genie).await;
    let mut other = sqlx::SqliteConnection::connect(&format!("sqlite://{}", path.display()))
        .await
        .unwrap();
    sqlx::query("BEGIN EXCLUSIVE")
        .execute(&mut other)
        .await
        .unwrap();
    let refused = ada
        .post(
            &genie,
            "/api/queue/media",
            json!({"operation": "thumbnail", "input_url": "http://a/b", "jobId": 1}),
        )
        .await;
    assert!(refused.headers.contains_key("Retry-After"));
    refused.refused(503, "store_away");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    ada.post(
        &genie,
        "/api/queue/media",
        json!({"operation": "thumbnail", "input_url": "http://a/b", "jobId": 1}),
    )
    .await
    .ok();
    genie.settle().await;
    assert_eq!(
        ada.get(&genie, "/api/jobs").await.ok()["data"]
            .as_array()
            .unwrap()
            .len(),
        2,
        "nothing is half done or done twice"
    );
}

async fn away(genie: &mut TestGenie, set_away: impl Fn(bool)) {
    let ada = genie.user("ada").await;
    ada.submit_job(genie).await;
    genie.settle().await;
    set_away(true);
    let job = json!({"operation": "thumbnail", "input_url": "http://a/b", "jobId": 1});
    let refused = ada.post(genie, "/api/queue/media", job.clone()).await;
    assert!(refused.headers.contains_key("Retry-After"));
    let told = refused.refused(503, "store_away");
    assert!(
        !told.to_string().contains("127.0.0.1"),
        "the answer must give nothing internal away: {told}"
    );
    ada.get(genie, "/api/jobs").await.refused(503, "store_away");
    let ready = genie.readiness().await;
    assert_eq!(
        (ready.status.as_u16(), ready.json["store"].as_str()),
        (503, Some("away"))
    );
    assert_eq!(
        genie.send(Method::GET, "/healthz", &[], None).await.status,
        200
    );
    set_away(false);
    ada.post(genie, "/api/queue/media", job).await.ok();
    genie.settle().await;
    assert_eq!(
        ada.get(genie, "/api/jobs").await.ok()["data"]
            .as_array()
            .unwrap()
            .len(),
        2,
        "nothing is half done or done twice"
    );
    assert_eq!(genie.claim().await["attempt"], 1);
}
