//! The model server's failures, for people. Each says what to do.

use genie_events::chat::Failure;
use tracing::warn;

use super::frame::Frame;

/// The code of a server that does not answer, or is no Ollama.
pub const UNREACHABLE: &str = "ollama_unreachable";

fn failure(code: &str, sentence: impl Into<String>) -> Failure {
    Failure {
        code: code.into(),
        sentence: sentence.into(),
    }
}

pub(super) fn unreachable(is_by_proxy: bool) -> Failure {
    let sentence = if is_by_proxy {
        "The model server does not answer through the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY); put its host into NO_PROXY, or mend the proxy"
    } else {
        "The model server does not answer; start Ollama or set OLLAMA_URL (./scripts/run --with-model starts a small model)"
    };
    failure(UNREACHABLE, sentence)
}

pub(super) fn not_ollama(is_by_proxy: bool) -> Failure {
    let sentence = if is_by_proxy {
        "What answers at OLLAMA_URL is no Ollama but perhaps the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY); put the model server's host into NO_PROXY"
    } else {
        "What answers at OLLAMA_URL is no Ollama; the address must be that of Ollama itself, without a path such as /v1"
    };
    failure(UNREACHABLE, sentence)
}

pub(super) fn too_slow() -> Failure {
    failure(
        "ollama_timeout",
        "The model server took too long; try again, or choose a smaller model",
    )
}

pub(super) fn broke_off() -> Failure {
    failure("ollama_failed", "The model server broke off; try again")
}

pub(super) fn incomplete() -> Failure {
    failure(
        "ollama_incomplete",
        "The model server stopped before the end of its answer; the text so far is kept",
    )
}

/// The answer ended without a text.
pub(super) fn no_text(has_thought: bool) -> Failure {
    let sentence = if has_thought {
        "The model thought and wrote no answer; ask again, raise CHAT_MAX_TOKENS, or choose another model"
    } else {
        "The model wrote nothing; ask again"
    };
    failure("ollama_empty", sentence)
}

/// A refusal by its status and the beginning of its body, which is not always JSON and may be empty.
pub(super) fn refused(status: u16, body: &[u8], model: &str, is_by_proxy: bool) -> Failure {
    match Frame::read(body).ok().and_then(|frame| frame.error) {
        Some(text) => refused_with(status, &text, model),
        // Ollama itself answers 404 as text only for a path that it does not have.
        None if status == 404 || status == 405 => {
            warn!(
                http.status = status,
                "model server: what answers at OLLAMA_URL is no Ollama"
            );
            not_ollama(is_by_proxy)
        }
        None => refused_with(status, "", model),
    }
}

/// A refusal by its status and the server's words.
pub(super) fn refused_with(status: u16, text: &str, model: &str) -> Failure {
    warn!(
        http.status = status,
        error = text,
        model,
        "model server: request refused"
    );
    match status {
        404 => failure(
            "ollama_model_missing",
            format!(
                "The model server has no model `{model}`; run `ollama pull {model}`, or choose another"
            ),
        ),
        429 | 503 => failure("ollama_busy", "The model server is busy; try again shortly"),
        _ => failure("ollama_failed", "The model server failed; try again"),
    }
}
