//! Starts logging, on standard error.

use std::{backtrace::Backtrace, io::IsTerminal, panic, sync::OnceLock};

use tracing::{error, level_filters::LevelFilter};
use tracing_subscriber::{EnvFilter, filter::Directive};

use crate::config::Config;

/// The target of actix' own lines about starting and stopping workers.
const SERVER_TARGET: &str = "actix_server";

/// True when the lines of this process are JSON. Set once, when logging starts.
static IS_JSON: OnceLock<bool> = OnceLock::new();

/// Starts logging, once in a process.
pub fn start(config: &Config) -> Result<(), String> {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(&config.log)?)
        .with_writer(std::io::stderr);
    // On a terminal the subscriber itself honours NO_COLOR.
    let log = if std::io::stderr().is_terminal() {
        log
    } else {
        log.with_ansi(false)
    };
    if config.log_json {
        // The list of spans includes the current one, which would otherwise be there twice.
        log.json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(true)
            .init();
        panic::set_hook(Box::new(log_panic));
    } else {
        log.init();
    }
    let _ = IS_JSON.set(config.log_json); // a second start finds it set, but `init` panics before
    Ok(())
}

/// The configured filter, without actix' lines about its workers unless the filter names them.
fn filter(configured: &str) -> Result<EnvFilter, String> {
    let filter = EnvFilter::try_new(configured).map_err(|error| format!("GENIE_LOG: {error}"))?;
    if configured.contains(SERVER_TARGET) {
        return Ok(filter);
    }
    let quiet: Directive = format!("{SERVER_TARGET}={}", LevelFilter::WARN)
        .parse()
        .map_err(|error| format!("GENIE_LOG: {error}"))?;
    Ok(filter.add_directive(quiet))
}

fn log_panic(panicked: &panic::PanicHookInfo<'_>) {
    let payload = panicked.payload();
    let reason = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason given");
    let location = panicked.location().map(ToString::to_string);
    let backtrace = Backtrace::capture().to_string();
    error!(reason, location, backtrace, "process: a thread panicked");
}

/// Reports why this process ends: as a log line when those are JSON, otherwise as a sentence.
pub fn say_why(sentence: &str) {
    if IS_JSON.get().copied().unwrap_or(false) {
        error!(reason = sentence, "process: ends with an error");
    } else {
        eprintln!("genie: {sentence}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workers_of_actix_are_quiet_unless_the_filter_names_them() {
        let shown = |configured: &str| filter(configured).unwrap().to_string();
        assert!(shown("info").contains("actix_server=warn"));
        assert!(shown("off,genie=debug").contains("actix_server=warn"));
        assert!(!shown("info,actix_server=info").contains("actix_server=warn"));
        assert!(filter("genie=loud").is_err());
    }
}
