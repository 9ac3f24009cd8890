//! Starts logging, on standard error.

use std::{backtrace::Backtrace, io::IsTerminal, panic, sync::OnceLock};

use tracing::{dispatcher, error, level_filters::LevelFilter, subscriber::with_default};
use tracing_subscriber::{
    EnvFilter,
    filter::Directive,
    fmt::{
        SubscriberBuilder,
        format::{DefaultFields, Format, Json, JsonFields},
    },
};

use crate::config::Config;

/// The target of actix' own lines about starting and stopping workers.
const SERVER_TARGET: &str = "actix_server";

/// True when the lines of this process are JSON. Set once, before the settings are checked.
static IS_JSON: OnceLock<bool> = OnceLock::new();

/// Chooses the form of the lines. Without it they are text.
pub fn choose(is_json: bool) {
    let _ = IS_JSON.set(is_json); // the first choice stays
}

fn is_json() -> bool {
    IS_JSON.get().copied().unwrap_or(false)
}

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
        json(log).init();
        panic::set_hook(Box::new(log_panic));
    } else {
        log.init();
    }
    choose(config.log_json);
    Ok(())
}

/// The form of JSON lines.
fn json<F, W>(
    log: SubscriberBuilder<DefaultFields, Format, F, W>,
) -> SubscriberBuilder<JsonFields, Format<Json>, F, W> {
    // The list of spans includes the current one, which would otherwise be there twice.
    log.json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(true)
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
    if !is_json() {
        eprintln!("genie: {sentence}");
        return;
    }
    let say = || error!(reason = sentence, "process: ends with an error");
    if dispatcher::has_been_set() {
        say();
    } else {
        // Wrong settings end the process before logging starts.
        let log = json(tracing_subscriber::fmt()).with_writer(std::io::stderr);
        with_default(log.finish(), say);
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
