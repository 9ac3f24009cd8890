//! Upcasting: an event that was stored in an earlier shape is lifted to the present one when it is
//! read, one version at a time. Stored bytes never change.

use serde_json::Value;

/// One step from `version` of `event_type` to the next version.
#[derive(Debug, Clone, Copy)]
pub struct Upcast {
    /// Such as `job.submitted`.
    pub event_type: &'static str,
    /// The version before the step.
    pub version: i16,
    pub lift: fn(&mut Value),
}

/// All steps. A changed event adds its step and a sample in `stored/`. Neither is ever removed.
pub const STEPS: &[Upcast] = &[];

/// A version that this release can't read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "it was written as version {version}, and this release reads versions 1 to {newest}; start the release that wrote it"
)]
pub struct UnknownVersion {
    version: i16,
    newest: i16,
}

/// The version in which a type is written now. Each step raised it by one.
pub fn present_version(event_type: &str, steps: &[Upcast]) -> i16 {
    1 + steps
        .iter()
        .filter(|step| step.event_type == event_type)
        .map(|step| step.version)
        .max()
        .unwrap_or(0)
}

/// True when a stored version is the present one, so that nothing has to be lifted.
pub fn is_present(
    event_type: &str,
    version: i16,
    steps: &[Upcast],
) -> Result<bool, UnknownVersion> {
    let newest = present_version(event_type, steps);
    if !(1..=newest).contains(&version) {
        return Err(UnknownVersion { version, newest });
    }
    Ok(version == newest)
}

/// Lifts an event stored as `version` to the present version.
pub fn lift(
    event_type: &str,
    version: i16,
    json: &mut Value,
    steps: &[Upcast],
) -> Result<(), UnknownVersion> {
    if is_present(event_type, version, steps)? {
        return Ok(());
    }
    for stored in version..present_version(event_type, steps) {
        for step in steps
            .iter()
            .filter(|step| step.event_type == event_type && step.version == stored)
        {
            (step.lift)(json);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RENAMED_THEN_SPLIT: &[Upcast] = &[
        Upcast {
            event_type: "a.b",
            version: 1,
            lift: |json| json["text"] = json["words"].take(),
        },
        Upcast {
            event_type: "a.b",
            version: 2,
            lift: |json| json["length"] = json["text"].as_str().map_or(0, str::len).into(),
        },
    ];

    #[test]
    fn each_version_is_lifted_through_all_later_ones() {
        let lifted = |version: i16, mut json: Value| {
            lift("a.b", version, &mut json, RENAMED_THEN_SPLIT)
                .map(|()| (json["text"].clone(), json["length"].clone()))
        };
        assert_eq!(
            lifted(1, json!({"words": "four"})),
            Ok((json!("four"), json!(4)))
        );
        assert_eq!(
            lifted(2, json!({"text": "four"})),
            Ok((json!("four"), json!(4)))
        );
        assert_eq!(
            lifted(3, json!({"text": "four", "length": 4})),
            Ok((json!("four"), json!(4)))
        );
    }

    #[test]
    fn an_unknown_version_is_refused_by_name() {
        for version in [4, 0, -1] {
            let error = lift("a.b", version, &mut json!({}), RENAMED_THEN_SPLIT).unwrap_err();
            assert!(error.to_string().contains("1 to 3"), "{error}");
        }
        assert_eq!(present_version("other", RENAMED_THEN_SPLIT), 1);
    }
}
