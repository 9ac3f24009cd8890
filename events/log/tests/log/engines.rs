//! A server that speaks Postgres' protocol and is another engine stops the start with its name.

use std::time::Duration;

use genie_log::{
    Log, Settings,
    store::Target,
    testing::{Kind, TestStore},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A server that lets everybody in and answers each query with one text.
async fn server(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, answer));
        }
    });
    format!("postgres://postgres@{address}/genie?sslmode=disable")
}

async fn serve(mut socket: TcpStream, answer: &str) -> std::io::Result<()> {
    let length = socket.read_u32().await?;
    let mut startup = vec![0; length as usize - 4];
    socket.read_exact(&mut startup).await?;
    send(&mut socket, b'R', &[0, 0, 0, 0]).await?;
    send(&mut socket, b'Z', b"I").await?;
    loop {
        let kind = socket.read_u8().await?;
        let length = socket.read_u32().await?;
        let mut body = vec![0; length as usize - 4];
        socket.read_exact(&mut body).await?;
        if kind != b'Q' {
            return Ok(());
        }
        // One column of type text, in text.
        let column = b"\0\x01v\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0";
        send(&mut socket, b'T', column).await?;
        let mut row = vec![0, 1];
        row.extend((answer.len() as u32).to_be_bytes());
        row.extend(answer.as_bytes());
        send(&mut socket, b'D', &row).await?;
        send(&mut socket, b'C', b"SELECT 1\0").await?;
        send(&mut socket, b'Z', b"I").await?;
    }
}

async fn send(socket: &mut TcpStream, kind: u8, body: &[u8]) -> std::io::Result<()> {
    socket.write_u8(kind).await?;
    socket.write_u32(body.len() as u32 + 4).await?;
    socket.write_all(body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_engine_stops_the_start_with_its_name() {
    let store = TestStore::new(Kind::Sqlite).await; // only its keys and clock are used
    for (version, name) in [
        (
            "CockroachDB CCL v23.1.11 (x86_64-pc-linux-gnu, built 2023/09/27)",
            "CockroachDB CCL v23.1.11",
        ),
        (
            "PostgreSQL 15.2-YB-2.25.0.0-b0 on x86_64-pc-linux-gnu",
            "YugabyteDB",
        ),
        ("SomethingNew 1.0", "SomethingNew 1.0"),
    ] {
        let settings = Settings {
            target: Target::Postgres(server(version).await),
            ..store.settings()
        };
        let opened = tokio::time::timeout(Duration::from_secs(20), Log::open(settings)).await;
        let told = opened.unwrap().err().unwrap().to_string();
        assert!(told.contains(name), "{told}");
        assert!(
            told.contains("not PostgreSQL") && told.contains("DATABASE_URL"),
            "{told}"
        );
    }
}
