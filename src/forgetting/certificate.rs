//! The certificate: a C2SP signed note (signed-note) about what forgetting did and did not reach,
//! signed by the key of the log's heads. It also says what remains: the events stay, unreadable but
//! for the listed fields, and an older backup is readable for as long as its master key is kept.

use genie_events::event::CLEAR_FIELDS;
use genie_log::{
    Log, LogError,
    forgetting::{Forgetting, WORKING_ROWS},
    merkle_proof::CantProve,
    signed_heads::BadHead,
};

use super::ForgettingError;

/// The first line. No head of the log begins with it, so a certificate cannot pass for a head.
const TITLE: &str = "genie certificate of forgetting v1";

/// Signs the certificate of a user whose remains are erased. A signed head must cover the fact.
pub async fn sign(
    log: &Log,
    forgetting: &Forgetting,
    from_directus: bool,
) -> Result<String, ForgettingError> {
    let Forgetting { user, position, .. } = forgetting;
    let not_proved = |cant| match cant {
        CantProve::Log(error) => error.into(),
        not_sealed @ CantProve::NotSealed { .. } => ForgettingError::NotYet(not_sealed.to_string()),
        other => ForgettingError::Failed(other.to_string()),
    };
    let proofs = log.proofs();
    let proof = proofs.prove(*position, None).await.map_err(not_proved)?;
    let row = log.reader().rows(position - 1, 1).await?.into_iter().next();
    let by = row
        .and_then(|row| row.metadata().ok())
        .and_then(|metadata| metadata.clear.get("by")?.as_str().map(str::to_owned));
    let absent = || LogError::KeyAbsent {
        owner: user.to_string(),
    };
    let key = log
        .forgettings()
        .destroyed_key(*user)
        .await?
        .ok_or_else(absent)?;
    let signer = proofs.head_key().await?;
    let mut erased: Vec<&str> = WORKING_ROWS.iter().map(|rows| rows.table).collect();
    erased.dedup();
    erased.extend(["uploaded files", "read tables"]);
    erased.extend(from_directus.then_some("the user in Directus"));
    let text = format!(
        "{TITLE}\n\
         log: {log_name}\n\
         user: {user}\n\
         at the wish of: {by}\n\
         forgotten: {at}\n\
         position: {position}\n\
         event: {event}\n\
         digest: {digest}\n\
         tree size: {size}\n\
         tree root: {root}\n\
         key destroyed: {key_id}, wrapped by master key {master}\n\
         erased: {erased}\n\
         erased at: {now}\n\
         {remains}\
         Backups of the store and exports of the log made before can be read by whoever has one and the master key that wrapped\n\
         the user's key when it was made: {master} in the end, others before a rotation. They are readable until those are retired.\n",
        log_name = signer.name(),
        by = by.as_deref().unwrap_or("unknown"),
        at = forgetting.forgotten_at.unwrap_or_default().rfc3339(),
        event = proof.event_id,
        digest = hex::encode(&proof.digest),
        size = proof.head.size,
        root = hex::encode(proof.head.root.0),
        key_id = key.key_id,
        master = key.master_id,
        erased = erased.join(", "),
        remains = remains(),
        now = log.clock().now().rfc3339(),
    );
    signer.sign_text(&text).map_err(|reason: BadHead| {
        ForgettingError::Failed(format!("the certificate can't be signed: {reason}"))
    })
}

/// What stays readable of a forgotten user.
fn remains() -> String {
    format!(
        "remains: the user's events. What they hold can be read by nobody, but for:\n\
         - position, number, type, version and time of each event; the ids of the event, its stream and this user; its digest;\n\
         - the kind and the id of the caller, the user for whom an administrator acted, the id of the request, the event before it;\n\
         - these fields, where an event has them: {fields}.\n\
         Platforms and roles that genie does not know, and the ids that clients chose for requests, jobs and chat sessions,\n\
         are there as keyed hashes only.\n\
         remains beside them: this certificate; a line of the ledger; the id of the destroyed key; and events that are not the\n\
         user's and name this id: of the e-mail address (a keyed hash), the invite (with its tier and role), service keys,\n\
         refusals and reads of personal data. They are sealed under the system's key, but for the same fields.\n",
        fields = CLEAR_FIELDS.join(", "),
    )
}
