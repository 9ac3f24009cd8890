//! Failures of answers that are not the model server's.

use genie_events::chat::Failure;

/// The task of the answer died.
pub(crate) fn died() -> Failure {
    Failure {
        code: "internal".into(),
        sentence: "The answer broke off through a fault of the server; ask again".into(),
    }
}

/// The chat could not be read, however often it was tried.
pub(crate) fn history_unreadable() -> Failure {
    Failure {
        code: "history_unreadable".into(),
        sentence: "The earlier messages of this chat could not be read; ask again".into(),
    }
}

/// The text could not be written to the journal, however often it was tried.
pub(crate) fn journal_unwritable() -> Failure {
    Failure {
        code: "journal_unwritable".into(),
        sentence: "The answer could not be stored while it was written; the text so far is kept"
            .into(),
    }
}

/// The node of the answer died.
pub(crate) fn interrupted() -> Failure {
    Failure {
        code: "interrupted".into(),
        sentence: "The server went down during the answer; ask again".into(),
    }
}

pub(crate) fn took_too_long() -> Failure {
    Failure {
        code: "ollama_timeout".into(),
        sentence: "The answer took too long and was stopped; the text so far is kept".into(),
    }
}
