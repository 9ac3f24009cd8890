//! `CHAT_MODEL_OPTIONS`: what differs for single models, as JSON.

use std::collections::HashMap;

use genie_actors::{ModelProfile, canonical_model};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The texts at which an answer ends, and the length of each in characters.
const STOPS: usize = 16;
const STOP_LENGTH: usize = 200;

/// One model's options. All but the first two go to the model server by these names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OptionsOfModel {
    context_tokens: Option<u32>,
    max_tokens: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    top_k: Option<i64>,
    repeat_penalty: Option<f64>,
    repeat_last_n: Option<i64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    seed: Option<i64>,
    stop: Option<Vec<String>>,
}

/// The profiles of models, by their names in one form; or a sentence that says what is wrong.
pub(super) fn read(text: &str) -> Result<HashMap<String, ModelProfile>, String> {
    if text.is_empty() {
        return Ok(HashMap::new());
    }
    let models: HashMap<String, OptionsOfModel> =
        serde_json::from_str(text).map_err(|error| error.to_string())?;
    let profiles = models.into_iter().map(|(model, options)| {
        let profile = options.profile();
        let profile = profile.map_err(|wrong| format!("`{model}`: {wrong}"))?;
        Ok((canonical_model(&model), profile))
    });
    profiles.collect()
}

impl OptionsOfModel {
    fn profile(self) -> Result<ModelProfile, String> {
        let mut sampling = Map::new();
        let mut add =
            |name: &str, value: Option<f64>, (least, most): (f64, f64), is_whole: bool| {
                let Some(value) = value else {
                    return Ok(());
                };
                if !(least..=most).contains(&value) {
                    return Err(format!("`{name}` must be from {least} to {most}"));
                }
                let value = if is_whole {
                    json!(value as i64)
                } else {
                    json!(value)
                };
                sampling.insert(name.to_owned(), value);
                Ok(())
            };
        let whole = |number: Option<i64>| number.map(|number| number as f64);
        add("temperature", self.temperature, (0.0, 5.0), false)?;
        add("top_p", self.top_p, (0.0, 1.0), false)?;
        add("min_p", self.min_p, (0.0, 1.0), false)?;
        add("top_k", whole(self.top_k), (0.0, 1e6), true)?;
        add("repeat_penalty", self.repeat_penalty, (0.0, 10.0), false)?;
        add(
            "repeat_last_n",
            whole(self.repeat_last_n),
            (-1.0, 1e6),
            true,
        )?;
        add(
            "presence_penalty",
            self.presence_penalty,
            (-2.0, 2.0),
            false,
        )?;
        add(
            "frequency_penalty",
            self.frequency_penalty,
            (-2.0, 2.0),
            false,
        )?;
        add("seed", whole(self.seed), (0.0, f64::from(i32::MAX)), true)?;
        if let Some(stop) = self.stop {
            let is_good = |text: &String| (1..=STOP_LENGTH).contains(&text.chars().count());
            if stop.len() > STOPS || !stop.iter().all(is_good) {
                return Err(format!(
                    "`stop` must be at most {STOPS} texts of 1 to {STOP_LENGTH} characters"
                ));
            }
            sampling.insert("stop".to_owned(), Value::from(stop));
        }
        Ok(ModelProfile {
            context_tokens: within("context_tokens", self.context_tokens, 256, 10_000_000)?,
            answer_tokens: within("max_tokens", self.max_tokens, 1, 1_000_000)?,
            sampling,
        })
    }
}

fn within(name: &str, number: Option<u32>, least: u32, most: u32) -> Result<Option<u32>, String> {
    match number {
        Some(number) if !(least..=most).contains(&number) => {
            Err(format!("`{name}` must be from {least} to {most}"))
        }
        number => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_has_options_of_its_own() {
        assert_eq!(read("").unwrap(), HashMap::new());
        let text = r#"{"Qwen2.5:latest": {"max_tokens": 200, "temperature": 0.5, "top_k": 40, "stop": ["END"]}, "other:7b": {"context_tokens": 8192}}"#;
        let profiles = read(text).unwrap();
        let qwen = &profiles["qwen2.5"];
        assert_eq!((qwen.context_tokens, qwen.answer_tokens), (None, Some(200)));
        let sampling = json!({"temperature": 0.5, "top_k": 40, "stop": ["END"]});
        assert_eq!(Value::from(qwen.sampling.clone()), sampling);
        let other = &profiles["other:7b"];
        assert_eq!(
            (other.context_tokens, other.sampling.len()),
            (Some(8192), 0)
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("[]", "map"),
            (r#"{"m": {"temprature": 1}}"#, "temprature"),
            (r#"{"m": {"temperature": "hot"}}"#, "hot"),
            (r#"{"m": {"temperature": 5.5}}"#, "`m`: `temperature`"),
            (r#"{"m": {"max_tokens": 0}}"#, "`max_tokens`"),
            (r#"{"m": {"context_tokens": 255}}"#, "`context_tokens`"),
            (r#"{"m": {"stop": [""]}}"#, "`stop`"),
        ] {
            let wrong = read(text).unwrap_err();
            assert!(wrong.contains(named), "{text}: {wrong}");
        }
    }
}
