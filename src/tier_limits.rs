//! The limits of tiers: the built-in ones, or those of `GENIE_TIERS_FILE`.

use std::fs;

use genie_events::Limits;

use crate::config::Config;

/// Reads the limits. A file replaces all built-in limits of tiers.
pub fn read(config: &Config) -> Result<Limits, String> {
    let limits = of_tiers(config)?.with_facts_per_day(config.facts_per_user_day);
    Ok(limits.with_file_bytes(config.files_max_bytes_per_user))
}

fn of_tiers(config: &Config) -> Result<Limits, String> {
    let Some(path) = &config.tiers_file else {
        return Ok(Limits::built_in());
    };
    let shown = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| format!("GENIE_TIERS_FILE: {shown} can't be read: {error}"))?;
    Limits::read(&text).map_err(|wrong| {
        wrong
            .iter()
            .map(|sentence| format!("GENIE_TIERS_FILE: {shown}: {sentence}"))
            .collect::<Vec<_>>()
            .join("\n")
    })
}
