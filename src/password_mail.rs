//! Mails with a link to set a new password (`SMTP_URL`). A request is a fact before it is answered. The leader reads the open
//! requests from the accounts and sends one mail each. A request stays open until the mail server took its mail, so none is
//! lost when a server or the mail server dies. After a day it is left to an administrator.
//!
//! Invariant: a link's token is in the mail and in memory until it was sent, and nowhere else. Nothing of it is logged.

use std::{collections::HashMap, time::Duration};

use genie_actors::{WriteError, accounts::Accounts};
use genie_events::{Timestamp, UserId};
use genie_log::{Election, Log};
use genie_projections::{ReadSide, accounts::PasswordRequestRow};
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp,
};
use secrecy::{ExposeSecret, SecretString};
use tracing::{error, warn};
use url::Url;

use crate::reset_pages::ResetPages;

/// How often the leader looks for requests.
const LOOK: Duration = Duration::from_secs(2);
/// For each step of a conversation with the mail server.
const STEP: Duration = Duration::from_secs(20);
/// For a whole mail.
const WHOLE_MAIL: Duration = Duration::from_secs(60);
/// In seconds. An older request is left to an administrator.
const LONGEST_WAIT: i64 = 24 * 60 * 60;
/// The requests that are read at once.
const AT_ONCE: i64 = 100;
/// The pauses after a mail that the mail server refused, in seconds; the last one is repeated.
const AGAIN_AFTER: [i64; 6] = [60, 300, 1800, 7200, 18_000, 36_000];
/// The longest pause while the mail server does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

const SUBJECT: &str = "A new password";

/// The mail server, as the settings name it.
#[derive(Clone)]
pub struct MailServer {
    url: SecretString,
    from: Mailbox,
}

impl MailServer {
    /// Reads the two settings. The error completes "SMTP_URL" or "MAIL_FROM".
    pub fn read(url: &SecretString, from: &str) -> Result<Self, String> {
        let from = from
            .parse()
            .map_err(|_| "MAIL_FROM must be an address such as `genie <genie@example.com>`")?;
        let server = Self {
            url: for_lettre(url)?,
            from,
        };
        server.transport()?;
        Ok(server)
    }

    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
        AsyncSmtpTransport::<Tokio1Executor>::from_url(self.url.expose_secret())
            .map(|transport| transport.timeout(Some(STEP)).build())
            .map_err(|_| NOT_A_SERVER.to_owned())
    }
}

const NOT_A_SERVER: &str = "SMTP_URL must be `smtp://USER:PASSWORD@HOST:587` or `smtps://USER:PASSWORD@HOST:465`; \
     `?tls=none` at the end of the first sends without encryption";

/// The address as `lettre` wants it: without encryption only when that is asked for.
fn for_lettre(url: &SecretString) -> Result<SecretString, String> {
    let mut url = Url::parse(url.expose_secret()).map_err(|_| NOT_A_SERVER)?;
    let query = match (url.scheme(), url.query()) {
        _ if url.host_str().is_none_or(str::is_empty) => return Err(NOT_A_SERVER.to_owned()),
        ("smtps", None) | ("smtp", Some("tls=none")) => None,
        ("smtp", None) => Some("tls=required"),
        _ => return Err(NOT_A_SERVER.to_owned()),
    };
    url.set_query(query);
    Ok(String::from(url).into())
}

/// Why a mail was not sent.
enum NotSent {
    /// This mail will not be taken now, others may.
    Refused(String),
    /// The mail server does not take any.
    ServerAway(String),
    Write(WriteError),
}

impl From<WriteError> for NotSent {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

/// Sends the mails of open requests.
pub struct PasswordMails {
    server: MailServer,
    transport: AsyncSmtpTransport<Tokio1Executor>,
    pages: ResetPages,
    log: Log,
    reads: ReadSide,
    accounts: Accounts,
    /// Refused mails: how often, and when the next try is. Holds the users of open requests only.
    resting: HashMap<UserId, (usize, Timestamp)>,
}

impl PasswordMails {
    pub fn new(
        server: MailServer,
        pages: ResetPages,
        log: Log,
        reads: ReadSide,
        accounts: Accounts,
    ) -> Result<Self, String> {
        Ok(Self {
            transport: server.transport()?,
            server,
            pages,
            log,
            reads,
            accounts,
            resting: HashMap::new(),
        })
    }

    /// Runs for ever while this node leads; spawn it.
    pub async fn run(mut self, mut election: Election) {
        let mut pause = LOOK;
        loop {
            election.elected().await;
            match self.send_all(&election).await {
                Ok(()) => pause = LOOK,
                Err(reason) => {
                    if pause == LOOK {
                        error!(
                            reason,
                            "password mail: sending failed; trying again until it succeeds"
                        );
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            self.log.clock().pause(pause).await;
        }
    }

    /// One look at all open requests. The error is a reason to wait before the next.
    async fn send_all(&mut self, election: &Election) -> Result<(), String> {
        let now = self.log.clock().now();
        let mut after = (now.plus_seconds(-LONGEST_WAIT).0, String::new());
        let mut open = HashMap::new();
        let mut is_first = true;
        loop {
            let requests = self.reads.accounts.password_requests(after, AT_ONCE).await;
            let requests = requests.map_err(|error| error.to_string())?;
            let Some(last) = requests.last() else { break };
            after = (last.requested_at.0, last.user.to_string());
            for request in &requests {
                if election.now().is_none() {
                    return Ok(()); // another node leads
                }
                let tried = self.resting.get(&request.user).copied();
                open.extend(tried.map(|tried| (request.user, tried)));
                if tried.is_some_and(|(_, next)| now < next) {
                    continue;
                }
                if std::mem::take(&mut is_first) {
                    self.expect_server().await?;
                }
                let tries = tried.map_or(0, |(tries, _)| tries);
                match self.send(request).await {
                    Ok(()) => drop(open.remove(&request.user)),
                    Err(NotSent::Refused(reason)) => {
                        let wait = AGAIN_AFTER[tries.min(AGAIN_AFTER.len() - 1)];
                        warn!(user.id = %request.user, reason, wait_s = wait, "password mail: refused; trying again later");
                        open.insert(request.user, (tries + 1, now.plus_seconds(wait)));
                    }
                    Err(NotSent::ServerAway(reason)) => return Err(reason),
                    Err(NotSent::Write(error)) => return Err(error.to_string()),
                }
            }
        }
        self.resting = open;
        Ok(())
    }

    /// No link is made while the mail server does not answer.
    async fn expect_server(&self) -> Result<(), String> {
        let tested = tokio::time::timeout(WHOLE_MAIL, self.transport.test_connection()).await;
        match tested {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("the mail server ends the connection".to_owned()),
            Ok(Err(error)) => Err(reason_of(&error)),
            Err(_) => Err("the mail server takes too long".to_owned()),
        }
    }

    async fn send(&self, request: &PasswordRequestRow) -> Result<(), NotSent> {
        let user = request.user;
        let Some(made) = self.accounts.reset_for_mail(user).await? else {
            return Ok(()); // answered meanwhile
        };
        let mail = self.mail(request, &made.token)?;
        let sent = tokio::time::timeout(WHOLE_MAIL, self.transport.send(mail)).await;
        match sent {
            Err(_) => {
                return Err(NotSent::ServerAway(
                    "the mail server takes too long".to_owned(),
                ));
            }
            Ok(Err(error)) if error.is_permanent() || error.is_transient() => {
                return Err(NotSent::Refused(reason_of(&error)));
            }
            Ok(Err(error)) => return Err(NotSent::ServerAway(reason_of(&error))),
            Ok(Ok(_)) => {}
        }
        self.accounts.note_mail_sent(user).await?;
        Ok(())
    }

    fn mail(&self, request: &PasswordRequestRow, token: &SecretString) -> Result<Message, NotSent> {
        let refused = |what: &str| NotSent::Refused(what.to_owned());
        let address = request.email.as_deref().unwrap_or_default();
        let to: Address = address
            .parse()
            .map_err(|_| refused("no mail can be sent to this address"))?;
        let link = self
            .pages
            .link(request.reset_url.as_deref(), token)
            .ok_or_else(|| refused("PASSWORD_RESET_URL_ALLOW_LIST has no page for the link"))?;
        Message::builder()
            .from(self.server.from.clone())
            .to(Mailbox::new(None, to))
            .subject(SUBJECT)
            .header(ContentType::TEXT_PLAIN)
            .body(text(link.expose_secret()))
            .map_err(|_| refused("the mail could not be written"))
    }
}

/// What went wrong, without the server's own words: they may repeat an address.
fn reason_of(error: &smtp::Error) -> String {
    match error.status() {
        Some(code) => format!("the mail server answered {code}"),
        None if error.is_timeout() => "the mail server takes too long".to_owned(),
        None if error.is_tls() => {
            "the mail server cannot be trusted: its encryption failed".to_owned()
        }
        None => "the mail server cannot be reached".to_owned(),
    }
}

fn text(link: &str) -> String {
    format!(
        "Somebody asked for a new password for your account.\n\n\
         To choose one, open this address within an hour:\n\n{link}\n\n\
         If it was not you, do nothing. Your password stays as it is.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_server_without_encryption_must_be_asked_for() {
        let read = |url: &str, from: &str| MailServer::read(&url.into(), from);
        let from = "genie <genie@example.com>";
        for (url, given) in [
            (
                "smtp://u:p%40ss@mail.example",
                "smtp://u:p%40ss@mail.example?tls=required",
            ),
            (
                "smtp://mail.example:2525?tls=none",
                "smtp://mail.example:2525",
            ),
            (
                "smtps://u:p@mail.example:465",
                "smtps://u:p@mail.example:465",
            ),
        ] {
            let server = read(url, from).ok().unwrap();
            assert_eq!(server.url.expose_secret(), given);
        }
        for bad in [
            "mail.example",
            "http://mail.example",
            "smtp://",
            "smtp://mail.example?tls=maybe",
            "smtps://mail.example?tls=none",
        ] {
            let error = read(bad, from).err().unwrap();
            assert!(error.starts_with("SMTP_URL must"), "{bad}: {error}");
        }
        let error = read("smtps://mail.example", "nobody").err().unwrap();
        assert!(error.starts_with("MAIL_FROM must"), "{error}");
    }
}
