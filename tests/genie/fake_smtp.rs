//! A mail server for tests (RFC 5321). It keeps the mails that it took, and does what a test tells it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// What the server is told to do, and what it saw.
#[derive(Default)]
pub struct Mailbox {
    /// The answer to a recipient; 0 takes it.
    pub refuses_with: AtomicU16,
    /// Closes each connection without a word.
    pub is_away: AtomicBool,
    pub connections: AtomicUsize,
    mails: Mutex<Vec<Mail>>,
}

#[derive(Debug, Clone)]
pub struct Mail {
    pub to: String,
    /// Headers and body, with its soft line breaks undone.
    pub text: String,
}

pub struct FakeSmtp {
    pub url: String,
    pub mailbox: Arc<Mailbox>,
}

impl FakeSmtp {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://{}?tls=none", listener.local_addr().unwrap());
        let mailbox = Arc::new(Mailbox::default());
        let held = Arc::clone(&mailbox);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                held.connections.fetch_add(1, Ordering::SeqCst);
                if !held.is_away.load(Ordering::SeqCst) {
                    tokio::spawn(serve(client, Arc::clone(&held)));
                }
            }
        });
        Self { url, mailbox }
    }

    pub fn mails(&self) -> Vec<Mail> {
        self.mailbox.mails.lock().unwrap().clone()
    }
}

/// A client that goes away ends its conversation.
async fn serve(client: TcpStream, mailbox: Arc<Mailbox>) -> Option<()> {
    let (read, mut write) = client.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut to = String::new();
    write.write_all(b"220 fake\r\n").await.ok()?;
    while let Some(line) = lines.next_line().await.ok()? {
        let word = line.split([' ', ':']).next().unwrap_or("").to_uppercase();
        let refuses_with = mailbox.refuses_with.load(Ordering::SeqCst);
        let answer = match word.as_str() {
            "RCPT" if refuses_with != 0 => format!("{refuses_with} no, {line}\r\n"),
            "RCPT" => {
                to = line.split(['<', '>']).nth(1).unwrap_or("").to_owned();
                "250 ok\r\n".to_owned()
            }
            "DATA" => {
                write.write_all(b"354 go on\r\n").await.ok()?;
                let mut text = String::new();
                loop {
                    let line = lines.next_line().await.ok()??;
                    if line == "." {
                        break;
                    }
                    match line.strip_suffix('=') {
                        Some(soft) => text.push_str(soft),
                        None => text.push_str(&format!("{line}\n")),
                    }
                }
                let text = text.replace("=3D", "=");
                let mail = Mail {
                    to: to.clone(),
                    text,
                };
                mailbox.mails.lock().unwrap().push(mail);
                "250 taken\r\n".to_owned()
            }
            "QUIT" => {
                write.write_all(b"221 bye\r\n").await.ok()?;
                return Some(());
            }
            _ => "250 ok\r\n".to_owned(),
        };
        write.write_all(answer.as_bytes()).await.ok()?;
    }
    Some(())
}
