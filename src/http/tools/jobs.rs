//! The tools for jobs.

use genie_actors::CommandContext;
use genie_events::job_operation::{self, QUEUES};
use serde::Deserialize;
use serde_json::Value;

use super::{
    ToolArguments, ToolSpec,
    schema::{self, SchemaField},
    shown, shown_page,
};
use crate::{
    app::App,
    http::{
        caller::ActingUser,
        error::ApiError,
        jobs::{self, Insight, JobQuery, NewJob},
        read_your_writes::wait_for_own,
        response::PageQuery,
        words::JOB_STATUSES,
    },
};

/// What a tool shows of a job: the field of the route's answer, and the tool's name for it.
const OF_A_JOB: [(&str, &str); 15] = [
    ("jobId", "job_id"),
    ("queue", "queue"),
    ("operation", "operation"),
    ("status", "status"),
    ("priority", "priority"),
    ("progress", "progress"),
    ("message", "message"),
    ("attempt", "attempt"),
    ("max_attempts", "max_attempts"),
    ("error", "error"),
    ("code", "code"),
    ("outputs", "outputs"),
    ("created_at", "created_at"),
    ("run_at", "run_at"),
    ("finished_at", "finished_at"),
];

#[derive(Deserialize)]
struct NamedJob {
    job_id: String,
}

pub fn specs() -> [ToolSpec; 4] {
    [queue_spec(), status_spec(), list_spec(), cancel_spec()]
}

fn job_id() -> SchemaField {
    schema::text("job_id", "The job's id.").required()
}

fn job_status() -> SchemaField {
    schema::word("status", "The job's state.", JOB_STATUSES).required()
}

fn queue_spec() -> ToolSpec {
    ToolSpec {
        name: "queue_media_job",
        description: "Queues work on the user's pictures and films, such as resizing, cutting or a watermark. It counts for the user's plan. A worker does it later: ask job_status for its end.",
        input_schema: schema::object([
            schema::word("operation", "The work.", job_operation::all()).required(),
            schema::text("input_file_id", "The id of one of the user's files."),
            schema::text(
                "input_url",
                "An address to fetch the input from, instead of a file.",
            ),
            schema::any_object(
                "params",
                "What the operation takes, such as `width`. A wrong one is refused by its name.",
            ),
            schema::text(
                "creator_profile_id",
                "The id of one of the user's connections, for work on a platform.",
            ),
            schema::whole_within(
                "priority",
                "Lower runs sooner; 10 by default.",
                0,
                1_000_000,
            ),
            schema::text("run_at", "Not before this time, in RFC 3339."),
            schema::whole_within("max_attempts", "3 by default.", 1, 20),
            schema::short_text(
                "job_id",
                "Your own name for the job. The same call with the same name queues nothing more.",
                100,
            ),
        ]),
        output_schema: schema::object([
            job_id(),
            schema::text("queue", "The queue that it waits in.").required(),
            job_status(),
            schema::whole("queue_position", "The number of jobs that wait there.").required(),
        ]),
        read_only: false,
        idempotent: false,
        destructive: false,
    }
}

fn status_spec() -> ToolSpec {
    ToolSpec {
        name: "job_status",
        description: "Shows one of the user's jobs: its state, progress, error and outputs.",
        input_schema: schema::object([job_id()]),
        output_schema: job_schema(),
        read_only: true,
        idempotent: true,
        destructive: false,
    }
}

fn list_spec() -> ToolSpec {
    ToolSpec {
        name: "list_jobs",
        description: "Lists the user's jobs, newest first.",
        input_schema: schema::object(
            [
                schema::word("status", "Only jobs in this state.", JOB_STATUSES),
                schema::word("queue", "Only jobs of this queue.", QUEUES),
                schema::word("operation", "Only this work.", job_operation::all()),
            ]
            .into_iter()
            .chain(schema::page()),
        ),
        output_schema: schema::object([
            schema::list("jobs", "The jobs.", job_schema()).required(),
            schema::next_cursor(),
        ]),
        read_only: true,
        idempotent: true,
        destructive: false,
    }
}

fn cancel_spec() -> ToolSpec {
    ToolSpec {
        name: "cancel_job",
        description: "Cancels one of the user's jobs that has not ended.",
        input_schema: schema::object([job_id()]),
        output_schema: schema::object([job_id(), job_status()]),
        read_only: false,
        idempotent: true,
        destructive: true,
    }
}

fn job_schema() -> Value {
    schema::object([
        schema::text("job_id", "The job's id.").required(),
        schema::text("queue", "Its queue.").required(),
        schema::text("operation", "The work.").required(),
        schema::word("status", "Its state.", JOB_STATUSES).required(),
        schema::whole("priority", "Lower runs sooner.").required(),
        schema::whole("progress", "In percent."),
        schema::text("message", "What the worker says of its work."),
        schema::whole("attempt", "The attempt that runs or was the last.").required(),
        schema::whole("max_attempts", "The most attempts.").required(),
        schema::text("error", "The last failure, in words."),
        schema::text("code", "The word for it."),
        schema::list(
            "outputs",
            "The files that were made.",
            serde_json::json!({"type": "object"}),
        ),
        schema::text("created_at", "When it was queued.").required(),
        schema::text("run_at", "It does not run before this time."),
        schema::text("finished_at", "When it ended."),
    ])
}

pub async fn queue(
    app: &App,
    user: &ActingUser,
    arguments: ToolArguments,
    asking: CommandContext,
) -> Result<Value, ApiError> {
    let job: NewJob = arguments.renamed("job_id", "jobId").into()?;
    let queued = jobs::submit_for(app, user, None, job, asking).await?.0;
    let fields = [
        ("jobId", "job_id"),
        ("queue", "queue"),
        ("status", "status"),
        ("queue_position", "queue_position"),
    ];
    shown(&queued, &fields)
}

pub async fn status(
    app: &App,
    user: &ActingUser,
    arguments: ToolArguments,
) -> Result<Value, ApiError> {
    let NamedJob { job_id } = arguments.into()?;
    wait_for_own(app, &["jobs"], user.account.user).await?;
    let job = jobs::show_for(app, user, &job_id, &Insight::default()).await?;
    shown(&job, &OF_A_JOB)
}

pub async fn list(
    app: &App,
    user: &ActingUser,
    arguments: ToolArguments,
) -> Result<Value, ApiError> {
    let owner = user.account.user;
    let page: PageQuery = arguments.clone().into()?;
    let query: JobQuery = arguments.into()?;
    let filter = query.filter()?;
    wait_for_own(app, &["jobs"], owner).await?;
    let listed = jobs::list_for(app, owner, filter, page).await?;
    shown_page("jobs", listed.into_parts(), &OF_A_JOB)
}

pub async fn cancel(
    app: &App,
    user: &ActingUser,
    arguments: ToolArguments,
    asking: CommandContext,
) -> Result<Value, ApiError> {
    let NamedJob { job_id } = arguments.into()?;
    let cancelled = jobs::cancel_for(app, user, &job_id, asking).await?.0;
    shown(&cancelled, &[("jobId", "job_id"), ("status", "status")])
}
