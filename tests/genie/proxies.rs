//! The proxy of the environment: it is not asked for servers on this machine, and its own pages are not taken for theirs.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use genie_log::testing::{TestStore, both_stores};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::test_genie::TestGenie;

/// A proxy as companies have it: whatever it is asked, it answers 200 with a page of its own.
struct PageProxy {
    url: String,
    asked: Arc<AtomicUsize>,
}

impl PageProxy {
    async fn start() -> Self {
        const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 22\r\nConnection: close\r\n\r\n<h1>Please log in</h1>";
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = client.read(&mut [0; 4096]).await; // whatever it asks
                let _ = client.write_all(PAGE.as_bytes()).await;
            }
        });
        Self { url, asked }
    }

    fn count(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

both_stores!(
    servers_on_this_machine_are_not_asked_through_a_proxy,
    async |store: TestStore| {
        let proxy = PageProxy::start().await;
        let settings = [
            ("HTTP_PROXY", proxy.url.clone()),
            ("http_proxy", proxy.url.clone()),
        ];
        let genie = TestGenie::start_process_with(store, &settings).await;
        assert_eq!(genie.readiness().await.ok()["ollama"], "ok");
        assert_eq!(proxy.count(), 0);
        let config = genie.command(&["config"]).output().await.unwrap();
        let printed = String::from_utf8(config.stdout).unwrap();
        assert!(
            !printed.contains("is reached through the proxy"),
            "{printed}"
        );
    }
);

both_stores!(
    the_page_of_a_proxy_is_not_taken_for_a_model_server,
    async |store: TestStore| {
        let proxy = PageProxy::start().await;
        let settings = [
            ("HTTP_PROXY", proxy.url.clone()),
            ("http_proxy", proxy.url.clone()),
            ("GENIE_PROXY_LOOPBACK", "on".to_owned()),
        ];
        let mut genie = TestGenie::start_process_with(store, &settings).await;
        assert_eq!(genie.readiness().await.ok()["ollama"], "away");
        assert!(proxy.count() > 0);
        let config = genie.command(&["config"]).output().await.unwrap();
        let printed = String::from_utf8(config.stdout).unwrap();
        let told = "OLLAMA_URL is reached through the proxy that the environment names";
        assert!(printed.contains(told), "{printed}");
        // The server itself is well.
        genie.user("ada").await;
    }
);
