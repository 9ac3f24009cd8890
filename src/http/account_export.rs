//! The export of a user's own data (docs/api.md, Forgetting and export): one JSON object, streamed, so that a large
//! account takes no more memory than a small one. Its last members are `"complete":true` and the two flags. An export
//! that breaks off has no end and is no JSON.
//!
//! Secrets are part of it only when the request had the password. Each is revealed like any other: the fact first.

use std::pin::Pin;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{ContentDisposition, DispositionParam, DispositionType},
    web::{Bytes, Data},
};
use async_stream::try_stream;
use futures_util::{Stream, StreamExt, TryFutureExt, TryStreamExt};
use genie_actors::{
    Caller, WriteError,
    credentials::{CredentialRef, SecretRequest},
};
use genie_events::{
    Event, JobId, RefusalKind, StreamId, StreamKind, UserId, credential::CredentialKind,
    job::JobEvent, user::reveal::RevealRight,
};
use genie_log::{LogError, blobs::Blob, pages::Paged, read::Shown};
use genie_projections::{ReadError, accounts::AccountRow, chats::ChatRow};
use serde::Serialize;
use serde_json::Value;
use tracing::{error, info, warn};

use crate::{
    app::App,
    exports::RunningExport,
    http::{
        accounts::LoginSession,
        api_keys::ApiKeyAnswer,
        body::Body,
        caller::UserCaller,
        captions::CaptionAnswer,
        chats::ChatSession,
        error::ApiError,
        events, jobs, long_pages,
        password_check::Password,
        request::in_span,
        response::{self, RawAnswer},
        usage,
        words::FormatOne,
    },
};

mod document;
pub use document::ExportDocument;
use document::{
    ExportHead, ExportedAccount, ExportedCredential, ExportedJob, ExportedMessage, ExportedUpload,
    JobRequest,
};

/// Rows in memory at once. A page of them ends at 1 MiB, too.
const ROWS: usize = 16;
const PAGE: i64 = ROWS as i64;
/// Output is gathered until it has this many bytes.
const CHUNK: usize = 32 * 1024;
/// The purpose in the facts of revealed secrets.
const PURPOSE: &str = "export";
/// The projections that an export reads, and waits for.
const READ_FROM: [&str; 7] = [
    "service_keys",
    "accounts",
    "usage",
    "credentials",
    "jobs",
    "chats",
    "captions",
];

/// `GET /api/me/export`: without secrets.
pub async fn without_secrets(
    app: Data<App>,
    user: UserCaller,
) -> Result<RawAnswer<ExportDocument>, ApiError> {
    export(app, user, false).await
}

/// `POST /api/me/export`: with the secrets, so with the password. A token may have been stolen.
pub async fn with_secrets(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    Body(body): Body<Password>,
) -> Result<RawAnswer<ExportDocument>, ApiError> {
    body.prove(&app, &request, &user).await?;
    export(app, user, true).await
}

async fn export(
    app: Data<App>,
    user: UserCaller,
    secrets: bool,
) -> Result<RawAnswer<ExportDocument>, ApiError> {
    let id = user.account.user;
    let running = app.exports.begin(id)?;
    let position = app
        .write
        .accounts
        .export(id, secrets, user.caller.metadata())
        .await?
        .position;
    for projection in READ_FROM {
        app.reads
            .wait_for(projection, position, app.config.read_wait)
            .await
            .map_err(|error| match error {
                ReadError::Behind { .. } => ApiError::Write(WriteError::Busy),
                error => error.into(),
            })?;
    }
    // Read the account again: the caller's own may have been read before that position.
    let account = app
        .reads
        .accounts
        .get(id)
        .await?
        .ok_or(ApiError::NoCaller)?;
    let whole = AccountExport {
        app,
        user: id,
        account,
        login: user.login,
        caller: user.caller,
        secrets,
    };
    let name = DispositionParam::Filename("genie-export.json".to_owned());
    let document = whole.document(running).map(move |part| {
        part.inspect_err(|error| {
            warn!(user.id = %id, %error, "export: broke off; the user has to ask again");
        })
    });
    let response = HttpResponse::Ok()
        .content_type("application/json")
        .insert_header(ContentDisposition {
            disposition: DispositionType::Attachment,
            parameters: vec![name],
        })
        .insert_header((response::POSITION, response::opaque(position)))
        .streaming(in_span(long_pages::stream(document)));
    Ok(RawAnswer::new(response))
}

fn value(item: impl Serialize) -> Value {
    serde_json::to_value(item).expect("a struct with names for fields is JSON")
}

/// Everything that writing one takes.
struct AccountExport {
    app: Data<App>,
    user: UserId,
    account: AccountRow,
    login: Option<uuid::Uuid>,
    caller: Caller,
    secrets: bool,
}

/// All rows of a list, read page by page. `page` reads the rows after a place, `place` is the place of a row.
fn pages<Row: Send, Place: Send, Rows: Future<Output = Result<Paged<Row>, LogError>>>(
    page: impl Fn(Option<Place>) -> Rows,
    place: impl Fn(&Row) -> Place,
) -> impl Stream<Item = Result<Row, ApiError>> {
    try_stream! {
        let mut after = None;
        loop {
            let Paged { rows, has_more } = page(after).await?;
            after = rows.last().map(&place);
            for row in rows {
                yield row;
            }
            if !has_more {
                return;
            }
        }
    }
}

/// A page of a list whose rows are small.
async fn cut<Row>(
    rows: impl Future<Output = Result<Vec<Row>, LogError>>,
) -> Result<Paged<Row>, LogError> {
    Ok(Paged::cut(rows.await?, ROWS))
}

/// The items of one list.
type Items<'a> = Pin<Box<dyn Stream<Item = Result<Value, ApiError>> + Send + 'a>>;

impl AccountExport {
    /// The whole object. Each part is read only when the client has taken the parts before.
    fn document(self, running: RunningExport) -> impl Stream<Item = Result<Bytes, ApiError>> {
        try_stream! {
            let mut out = Vec::with_capacity(CHUNK * 2);
            let now = self.app.log.clock().now();
            let usage = usage::of(&self.app, &self.account).await?;
            let persona = self.app.write.accounts.persona(self.user).await?;
            let begin = value(ExportHead {
                format: FormatOne,
                exported_at: now.into(),
                secrets: self.secrets,
                account: ExportedAccount::new(&self.account, persona),
                usage,
            });
            out.extend_from_slice(begin.to_string().as_bytes());
            out.pop(); // the closing brace: the object goes on
            for (name, mut items) in self.members() {
                out.extend_from_slice(format!(",\"{name}\":[").as_bytes());
                let mut is_first = true;
                while let Some(item) = items.next().await {
                    if !std::mem::take(&mut is_first) {
                        out.push(b',');
                    }
                    out.extend_from_slice(item?.to_string().as_bytes());
                    if out.len() >= CHUNK {
                        yield Bytes::from(std::mem::replace(&mut out, Vec::with_capacity(CHUNK * 2)));
                    }
                }
                out.push(b']');
            }
            out.extend_from_slice(b",\"complete\":true,\"ok\":true,\"success\":true}\n");
            yield Bytes::from(out);
            info!(user.id = %self.user, "export: complete");
            drop(running);
        }
    }

    /// The lists, in their order in the object. The facts come last, so that those of this export are among them.
    fn members(&self) -> [(&'static str, Items<'_>); 9] {
        [
            ("sessions", self.sessions()),
            ("keys", self.keys()),
            ("credentials", self.credentials()),
            ("jobs", self.jobs()),
            ("chats", self.chats()),
            ("messages", self.messages()),
            ("captions", self.captions()),
            ("uploads", self.uploads()),
            ("events", self.events()),
        ]
    }

    fn sessions(&self) -> Items<'_> {
        Box::pin(try_stream! {
            for session in self.app.log.sessions().of_user(self.user, self.app.log.clock().now()).await? {
                yield value(LoginSession::new(&session, self.login));
            }
        })
    }

    fn keys(&self) -> Items<'_> {
        Box::pin(try_stream! {
            for row in self.app.reads.service_keys.of_user(self.user).await? {
                yield value(ApiKeyAnswer::from(&row));
            }
        })
    }

    fn credentials(&self) -> Items<'_> {
        let rows = pages(
            |after| cut(self.app.reads.credentials.list(self.user, after, PAGE + 1)),
            |row| (row.created_at.0, row.id.clone()),
        );
        Box::pin(rows.and_then(move |row| async move {
            let mut shown = ExportedCredential {
                credential: (&row).into(),
                secret: None,
                secret_refused: None,
            };
            if self.secrets {
                self.add_the_secret(&row.id, &mut shown).await?;
            }
            Ok(value(shown))
        }))
    }

    /// Adds the secret. One that cannot be shown, such as a damaged one, is replaced by the code of its refusal, so
    /// that it does not withhold the rest.
    async fn add_the_secret(
        &self,
        credential: &str,
        shown: &mut ExportedCredential,
    ) -> Result<(), ApiError> {
        let id = credential
            .parse()
            .map_err(|_| ApiError::NotFound("credential"))?;
        let ask = SecretRequest {
            named: CredentialRef::Id(id),
            kinds: &CredentialKind::ALL,
            right: RevealRight::Own,
            purpose: Some(PURPOSE.to_owned()),
        };
        match self.app.write.credentials.reveal(&self.caller, ask).await {
            Ok(revealed) => {
                let secret = serde_json::from_slice(revealed.plaintext.expose())
                    .map_err(|_| ApiError::Internal("a stored credential is no JSON".into()))?;
                shown.secret = Some(secret);
            }
            Err(WriteError::Refused(refusal)) if refusal.kind != RefusalKind::Forbidden => {
                shown.refuse(refusal.code);
            }
            Err(WriteError::Damaged(reason)) => {
                error!(user.id = %self.user, reason, "export: a credential cannot be opened; the export marks it as damaged");
                shown.refuse("damaged");
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn jobs(&self) -> Items<'_> {
        let rows = pages(
            |before| {
                let now = self.app.log.clock().now();
                let any = Default::default();
                let page = self.app.reads.jobs.list(self.user, any, before, PAGE, now);
                async { Ok(page.await?.page) }
            },
            |row| row.position,
        );
        Box::pin(rows.and_then(move |row| async move {
            Ok(value(ExportedJob {
                job: jobs::JobAnswer::new(&row),
                asked: self.what_was_asked(row.id).await?,
            }))
        }))
    }

    /// Reads what the job was submitted with, which only its first fact has.
    async fn what_was_asked(&self, job: JobId) -> Result<Option<JobRequest>, ApiError> {
        let stream = StreamId::new(StreamKind::Job, job);
        let reader = self.app.log.reader();
        let first = reader.newest_events(self.user, &stream, Some(2), 1).await?;
        Ok(match first.into_iter().next() {
            Some((_, Event::Job(JobEvent::Submitted { spec, .. }))) => Some(JobRequest {
                params: spec.params,
                input_file_id: spec.input_file_id,
                input_url: spec.input_url,
                creator_profile_id: spec.creator_profile_id,
            }),
            _ => None,
        })
    }

    fn chats(&self) -> Items<'_> {
        Box::pin(
            self.chat_rows()
                .map_ok(|row| value(ChatSession::from(&row))),
        )
    }

    fn chat_rows(&self) -> impl Stream<Item = Result<ChatRow, ApiError>> {
        pages(
            |before| cut(self.app.reads.chats.sessions(self.user, before, PAGE + 1)),
            |row| (row.updated_at.0, row.id.clone()),
        )
    }

    /// The messages of all chats, chat by chat, each with its chat's `id` as `session`.
    fn messages(&self) -> Items<'_> {
        let messages = self.chat_rows().map_ok(|chat| self.messages_of(chat));
        Box::pin(messages.try_flatten())
    }

    fn messages_of(&self, chat: ChatRow) -> impl Stream<Item = Result<Value, ApiError>> {
        let session = self.app.log.hashes().session(self.user, &chat.name);
        let rows = pages(
            move |after| {
                let after = after.unwrap_or(0);
                let chats = &self.app.reads.chats;
                let page = chats.messages(self.user, session, after, PAGE);
                page.map_ok(|page| page.unwrap_or_else(Paged::empty))
            },
            |row| row.position,
        );
        rows.map_ok(move |row| {
            value(ExportedMessage {
                message: (&row).into(),
                session: chat.name.clone(),
            })
        })
    }

    fn captions(&self) -> Items<'_> {
        let rows = pages(
            |before| self.app.reads.captions.list(self.user, before, PAGE),
            |row| row.position,
        );
        Box::pin(rows.map_ok(|row| value(CaptionAnswer::from(&row))))
    }

    /// The names of the files. Their bytes are at `path`.
    fn uploads(&self) -> Items<'_> {
        let rows = pages(
            move |after| async move {
                let keys = self.app.log.keys().live(self.user).await?;
                let blobs = self.app.log.blobs();
                let rows = cut(blobs.of_user(self.user, after, PAGE + 1)).await?;
                let named = |row: Blob| Ok::<_, LogError>((row.details(&keys)?.name, row));
                rows.try_map(named)
            },
            |(_, row)| (row.created_at, row.id),
        );
        Box::pin(rows.map_ok(|(name, row)| {
            value(ExportedUpload {
                id: row.id,
                name,
                bytes: row.size,
                path: format!("/api/files/{}", row.id),
                mime: row.media_type,
                created_at: row.created_at.into(),
            })
        }))
    }

    /// All facts up to now, those of this export among them. With later facts the list might never end.
    fn events(&self) -> Items<'_> {
        Box::pin(try_stream! {
            let mut after = 0;
            let last = self.app.log.reader().user_seq(self.user).await?;
            while after < last {
                let reader = self.app.log.reader();
                let rows = reader.user_page(self.user, after, ROWS, Shown::Whole).await?.rows;
                if rows.is_empty() {
                    Err(ApiError::Internal(format!("facts are missing after the user's event {after}")))?;
                }
                for row in rows.iter().filter(|row| row.owner_seq <= last) {
                    yield value(events::whole(&self.app.log, row).await?);
                }
                after = rows.last().map_or(last, |row| row.owner_seq);
            }
        })
    }
}
