//! One caption, from its place in the queue to its end.

use std::time::Duration;

use genie_events::{
    CaptionId, Metadata, Now, Refusal, User, UserCommand, UserId,
    caption::{Brief, WrittenCaption},
    chat::Failure,
};
use genie_log::leases::LeaseRow;
use genie_log::{Epoch, Work, leases::LeaseKind};
use tracing::{Instrument, Span, error, warn};

use super::{
    reply,
    text::{prompt, shorter},
};
use crate::{
    chats::conversation::fitting,
    model_queue::{QueueClass, QueuePass},
    ollama::{AnswerLimits, ModelFrame, ModelPrompt},
    supervisor::{
        RunHandle, Supervisor,
        failure::{died, interrupted, took_too_long},
        open_answer::OpenAnswer,
    },
    users::Plan,
};

/// The longest caption that is read, in bytes: far above any platform's cap.
const MAX_CAPTION_BYTES: usize = 16 * 1024;
/// Tokens that a model may write for a caption. Eight long sentences take half of them.
const CAPTION_TOKENS: u32 = 512;
/// The longest time of both tries together, once it is the caption's turn.
const CAPTION_DEADLINE: Duration = Duration::from_secs(300);

#[derive(Debug, Clone)]
struct CaptionTask {
    caption: CaptionId,
    user: UserId,
    metadata: Metadata,
    run: RunHandle,
    /// Set when the caption belonged to another node: the only epoch in which it may be ended.
    epoch: Option<Epoch>,
}

/// Starts a caption on this node, unless it runs already.
pub(crate) fn start(
    supervisor: &Supervisor,
    caption: CaptionId,
    user: UserId,
    brief: Brief,
    metadata: Metadata,
) {
    let Some(run) = supervisor.begin_run(caption.to_string(), user) else {
        return;
    };
    let supervisor = supervisor.clone();
    let task = CaptionTask {
        caption,
        user,
        metadata,
        run,
        epoch: None,
    };
    let work = async move {
        let writing = write(supervisor.clone(), task.clone(), brief);
        let written = tokio::spawn(writing.in_current_span())
            .await
            .unwrap_or_else(|stopped| {
                error!(caption.id = %caption, error = %stopped, "caption: its task panicked; it ends as failed");
                Err(died())
            });
        end(&supervisor, &task, written).await;
        supervisor.end_run(&caption.to_string());
    };
    tokio::spawn(work.instrument(Span::current()));
}

/// Ends a caption that began on a node that died. The leader of an epoch does it.
pub(crate) fn end_orphan(supervisor: &Supervisor, epoch: Epoch, caption: CaptionId, user: UserId) {
    let Some(run) = supervisor.begin_run(caption.to_string(), user) else {
        return;
    };
    let supervisor = supervisor.clone();
    let task = CaptionTask {
        caption,
        user,
        metadata: Metadata::system(),
        run,
        epoch: Some(epoch),
    };
    tokio::spawn(async move {
        end(&supervisor, &task, Err(interrupted())).await;
        supervisor.end_run(&caption.to_string());
    });
}

/// Writes a caption. One that is too long is asked for once more, and cut if it is still too long.
async fn write(
    supervisor: Supervisor,
    task: CaptionTask,
    brief: Brief,
) -> Result<WrittenCaption, Failure> {
    let id = task.caption.to_string();
    tokio::select! {
        () = task.run.over() => Err(interrupted()),
        written = write_in_turn(&supervisor, &id, QueueClass::Caption, task.user, &brief) => written,
    }
}

/// Waits for a turn before the model, and writes a caption. Dropping it gives the place back, and stops the model.
pub(super) async fn write_in_turn(
    supervisor: &Supervisor,
    id: &str,
    class: QueueClass,
    user: UserId,
    brief: &Brief,
) -> Result<WrittenCaption, Failure> {
    let model = &supervisor.0.settings.caption_model;
    let mut ticket = supervisor.line_up(id, class, user, model).await;
    let pass = ticket.wait(|_| {}).await.ok_or_else(died)?;
    tokio::select! {
        () = tokio::time::sleep(CAPTION_DEADLINE) => Err(took_too_long()),
        written = ask_model(supervisor, pass, brief) => written,
    }
}

async fn ask_model(
    supervisor: &Supervisor,
    pass: QueuePass,
    brief: &Brief,
) -> Result<WrittenCaption, Failure> {
    let model = &supervisor.0.settings.caption_model;
    let conversation = prompt(brief);
    let asked = ModelPrompt::of(&conversation);
    let (first, pass) = whole_answer(supervisor, pass, model, asked).await?;
    let mut text = reply::caption(&first);
    let cap = brief.platform.cap();
    if let Some(cap) = cap.filter(|cap| cap.is_passed(&text)) {
        let shorter = shorter(conversation, &text, cap.most());
        let form = reply::form();
        let asked = ModelPrompt {
            format: Some(&form), // a reply that is too long is often one with talk around it
            ..ModelPrompt::of(&shorter)
        };
        let (again, _pass) = whole_answer(supervisor, pass, model, asked).await?;
        let again = reply::caption(&again);
        if !again.is_empty() {
            text = again;
        }
    }
    let cut = cap.map_or_else(|| text.clone(), |cap| cap.cut(&text));
    if cut.is_empty() {
        return Err(Failure {
            code: "ollama_failed".into(),
            sentence: "The model wrote nothing; try again".into(),
        });
    }
    Ok(WrittenCaption {
        truncated: cut != text,
        text: cut,
        model: model.clone(),
    })
}

/// The answer, and the pass to ask again.
async fn whole_answer(
    supervisor: &Supervisor,
    pass: QueuePass,
    model: &str,
    prompt: ModelPrompt<'_>,
) -> Result<(String, QueuePass), Failure> {
    let settings = &supervisor.0.settings;
    let limits = AnswerLimits {
        answer_tokens: CAPTION_TOKENS,
        ..settings.answer_limits(model)
    };
    let asking = supervisor.open_answer(pass, model, &prompt, limits);
    let OpenAnswer { mut stream, pass } = asking.await?;
    let mut whole = String::new();
    let mut room = MAX_CAPTION_BYTES;
    loop {
        let (text, is_done) = match stream.next().await? {
            ModelFrame::Text(text) => (text, false),
            ModelFrame::Done { text, .. } => (text, true),
        };
        let fitting = fitting(&text, &mut room);
        whole.push_str(fitting);
        if is_done || fitting.len() < text.len() {
            return Ok((whole, pass)); // dropping the stream stops the model
        }
    }
}

/// Writes a caption's end, retrying while the store is away, and tells the waiting request.
async fn end(
    supervisor: &Supervisor,
    task: &CaptionTask,
    written: Result<WrittenCaption, Failure>,
) {
    let caption = task.caption;
    let waiters = &supervisor.0.caption_waiters;
    if task.run.lost.is_cancelled() {
        return waiters.drop_one(caption); // another node has it
    }
    let plan = ending(task, written.clone());
    match supervisor
        .plan_until_settled(task.user, &task.metadata, plan)
        .await
    {
        Ok(receipt) if receipt.changes.is_empty() => {
            // The caption had another end already.
            waiters.drop_one(caption);
            supervisor
                .drop_own_lease(LeaseKind::Caption, &caption.to_string())
                .await;
        }
        Ok(receipt) => {
            let end = written
                .map(|written| (written, receipt.position))
                .map_err(|failure| (failure, receipt.position));
            waiters.tell(caption, end);
        }
        Err(error) => {
            warn!(%error, caption.id = %caption, "caption: its end was not written; it ends when its lease expires");
            waiters.drop_one(caption);
        }
    }
}

/// The plan that writes a caption's end and drops its lease.
fn ending(
    task: &CaptionTask,
    written: Result<WrittenCaption, Failure>,
) -> impl Fn(&User, Now) -> Result<Plan, Refusal> + Clone + use<> {
    let caption = task.caption;
    let epoch = task.epoch;
    let command = UserCommand::FinishCaption(caption, written);
    move |state, now| {
        let mut work = vec![Work::Lease(LeaseRow::Drop {
            kind: LeaseKind::Caption,
            id: caption.to_string(),
        })];
        work.extend(epoch.map(Work::OnlyInEpoch));
        Ok(Plan {
            changes: state.decide(now, command.clone())?,
            work,
            ..Plan::default()
        })
    }
}
