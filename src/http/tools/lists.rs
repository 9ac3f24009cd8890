//! The tools that show what a user has: usage, files, connected platforms.

use genie_events::credential::CredentialKind;
use serde_json::Value;

use super::{ToolArguments, ToolSpec, schema, shown, shown_page};
use crate::{
    app::App,
    http::{
        caller::ActingUser, credentials, error::ApiError, files, read_your_writes::wait_for_own,
        usage,
    },
};

pub fn specs() -> [ToolSpec; 3] {
    let read = |name, description, input_schema, output_schema| ToolSpec {
        name,
        description,
        input_schema,
        output_schema,
        read_only: true,
        idempotent: true,
        destructive: false,
    };
    [
        read(
            "usage",
            "Shows the user's plan: what it allows this month, what is used, and what is left. -1 is unlimited, 0 is not part of the plan.",
            schema::object([]),
            schema::object([
                schema::text("tier", "The plan.").required(),
                schema::counts("limits", "What it allows.").required(),
                schema::counts("usage", "What is used.").required(),
                schema::counts("remaining", "What is left.").required(),
            ]),
        ),
        read(
            "list_files",
            "Lists the user's files, uploaded or made by jobs.",
            schema::object(schema::page()),
            schema::object([
                schema::list("files", "The files.", file_schema()).required(),
                schema::next_cursor(),
            ]),
        ),
        read(
            "list_connections",
            "Lists the platforms that the user has connected, without passwords and cookies.",
            schema::object(schema::page()),
            schema::object([
                schema::list("connections", "The connections.", connection_schema()).required(),
                schema::next_cursor(),
            ]),
        ),
    ]
}

fn file_schema() -> Value {
    schema::object([
        schema::text("id", "The file's id.").required(),
        schema::text("name", "Its name.").required(),
        schema::text("mime", "What its bytes are.").required(),
        schema::whole("bytes", "Its size.").required(),
        schema::text("created_at", "When it was stored.").required(),
        schema::whole("width", "In pixels."),
        schema::whole("height", "In pixels."),
        schema::number("duration", "In seconds."),
        schema::text("job", "The job that made it."),
    ])
}

fn connection_schema() -> Value {
    let kinds = CredentialKind::ALL.map(CredentialKind::as_str);
    schema::object([
        schema::text("id", "For `creator_profile_id` of a job.").required(),
        schema::text("platform", "The platform.").required(),
        schema::word("kind", "What is kept of it.", kinds).required(),
        schema::text("platform_username", "The user's name there."),
        schema::text("created_at", "When it was connected.").required(),
        schema::text("updated_at", "When it was last changed.").required(),
        schema::text("expires_at", "When a browser's session is over."),
    ])
}

pub async fn usage(app: &App, user: &ActingUser) -> Result<Value, ApiError> {
    let id = user.account.user;
    wait_for_own(app, &usage::READ_FROM, id).await?;
    let account = app.callers.account(id).await?.ok_or(ApiError::NoCaller)?;
    let fields = ["tier", "limits", "usage", "remaining"].map(|field| (field, field));
    shown(&usage::of(app, &account).await?, &fields)
}

pub async fn files(
    app: &App,
    user: &ActingUser,
    arguments: ToolArguments,
) -> Result<Value, ApiError> {
    let listed = files::list_for(app, user.account.user, arguments.into()?).await?;
    let fields = [
        "id",
        "name",
        "mime",
        "bytes",
        "created_at",
        "width",
        "height",
        "duration",
        "job",
    ];
    shown_page(
        "files",
        listed.into_parts(),
        &fields.map(|field| (field, field)),
    )
}

pub async fn connections(
    app: &App,
    user: &ActingUser,
    arguments: ToolArguments,
) -> Result<Value, ApiError> {
    let id = user.account.user;
    wait_for_own(app, &["credentials"], id).await?;
    let listed = credentials::list_for(app, id, arguments.into()?).await?;
    let fields = [
        "id",
        "platform",
        "kind",
        "platform_username",
        "created_at",
        "updated_at",
        "expires_at",
    ];
    let fields = fields.map(|field| (field, field));
    shown_page("connections", listed.into_parts(), &fields)
}
