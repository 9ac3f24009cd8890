//! Servers inside the test's own process.

use std::{collections::BTreeMap, path::Path};

use genie::{config::Config, serve::Server};
use genie_log::Clock;

fn config(folder: &Path) -> Config {
    let settings = [
        ("GENIE_DATA_DIR", folder.to_str().unwrap()),
        ("SERVER_PORT", "0"),
        ("OLLAMA_URL", "http://127.0.0.1:9"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::read(BTreeMap::from(settings)).ok().unwrap()
}

#[tokio::test]
async fn several_servers_run_in_one_process_and_each_stops() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut servers = Vec::new();
    for folder in &folders {
        let mut server = Server::start(config(folder.path()), Clock::system())
            .await
            .unwrap();
        let lines = server.lines();
        assert!(
            lines.iter().any(|line| line.contains("first invite")),
            "{lines:?}"
        );
        servers.push(server);
    }
    assert_ne!(servers[0].address(), servers[1].address());
    for server in &servers {
        let ready = reqwest::get(format!("http://{}/readyz", server.address()))
            .await
            .unwrap();
        assert_eq!(ready.status(), 200);
    }
    let second_on_a_store = Server::start(config(folders[0].path()), Clock::system()).await;
    let refused = second_on_a_store.err().unwrap();
    assert!(refused.contains("another genie runs on"), "{refused}");
    for server in servers {
        let address = server.address();
        server.stop().await.unwrap();
        assert!(
            reqwest::get(format!("http://{address}/healthz"))
                .await
                .is_err()
        );
    }
    let again = Server::start(config(folders[0].path()), Clock::system())
        .await
        .unwrap();
    again.stop().await.unwrap();
}
