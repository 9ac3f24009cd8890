//! What a run came to, as one table or one JSON object.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use serde_json::{Value, json};

use crate::{
    faults::Fault,
    ledger::CommandKind,
    verdict::{Finding, Verdict},
};

/// Everything there is to tell.
pub struct Report {
    pub store: &'static str,
    pub servers: usize,
    pub clients: usize,
    pub seconds: u64,
    pub seed: u64,
    pub has_model: bool,
    /// Not ended early.
    pub complete: bool,
    pub faults: BTreeMap<Fault, u64>,
    pub skipped: Vec<(Fault, &'static str)>,
    pub commands: BTreeMap<CommandKind, [u64; 3]>,
    pub requests: u64,
    pub lost: u64,
    pub starts: u64,
    pub fell: u64,
    pub internal: (u64, Vec<String>),
    pub facts: u64,
    pub feeds_resumed: u64,
    /// Users whose read side was held against a replay; clients that were started is how many it must be.
    pub compared: usize,
    /// Parts of the run itself that broke: a client's task that ended by itself, a subscriber without notes.
    pub broken: Vec<String>,
    pub verdict: Verdict,
    /// The median and the longest.
    pub good_again: Option<(Duration, Duration)>,
    pub unanswered: usize,
    pub settled: Option<Duration>,
    /// What was left for a closer look.
    pub kept: Vec<String>,
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

impl Report {
    /// Whether it ran to its end, all of it was checked, and all of it was as it must be.
    pub fn passed(&self) -> bool {
        self.complete && self.failures().is_empty()
    }

    /// Why it did not pass: what was lost, and what could not be checked.
    pub fn failures(&self) -> Vec<String> {
        let lost = Finding::ALL
            .into_iter()
            .filter(|count| self.verdict.count(*count) > 0);
        let mut failures: Vec<String> = lost
            .map(|count| format!("{}: not zero", count.as_str()))
            .collect();
        let acknowledged: u64 = self.commands.values().map(|[yes, _, _]| yes).sum();
        for (is_so, why) in [
            (self.internal.0 > 0, "there were answers with status 500"),
            (
                self.settled.is_none(),
                "the read side never was what a fresh replay gives",
            ),
            (
                self.unanswered > 0,
                "there are faults after which no good answer came",
            ),
            (
                self.faults.is_empty(),
                "nothing was broken; it may need more --seconds",
            ),
            (acknowledged == 0, "nothing was acknowledged"),
            (
                self.compared != self.clients,
                "not every user's read side was compared",
            ),
        ] {
            if is_so {
                failures.push(why.to_owned());
            }
        }
        failures.extend(self.broken.iter().cloned());
        failures
    }

    pub fn json(&self) -> Value {
        let faults: serde_json::Map<_, _> = self
            .faults
            .iter()
            .map(|(fault, n)| (fault.as_str().into(), (*n).into()))
            .collect();
        let skipped: serde_json::Map<_, _> = self
            .skipped
            .iter()
            .map(|(fault, why)| (fault.as_str().into(), (*why).into()))
            .collect();
        let commands: serde_json::Map<_, _> = self
            .commands
            .iter()
            .map(|(kind, [yes, no, unknown])| {
                (
                    kind.as_str().into(),
                    json!({"acknowledged": yes, "refused": no, "unknown": unknown}),
                )
            })
            .collect();
        json!({
            "passed": self.passed(), "complete": self.complete, "failures": self.failures(),
            "store": self.store, "servers": self.servers,
            "clients": self.clients, "seconds": self.seconds, "seed": self.seed, "model_server": self.has_model,
            "faults": faults, "skipped": skipped, "commands": commands,
            "requests": self.requests, "lost_answers": self.lost, "server_starts": self.starts, "servers_fell": self.fell,
            "internal_errors": {"count": self.internal.0, "examples": self.internal.1},
            "facts": self.facts, "feeds_resumed": self.feeds_resumed, "counters": self.verdict.json(),
            "good_answer_after_a_fault_ms": self.good_again.map(|(median, longest)| {
                json!({"median": millis(median), "longest": millis(longest)})
            }),
            "faults_without_a_good_answer": self.unanswered,
            "read_side_settled_ms": self.settled.map(millis),
            "kept": self.kept,
        })
    }

    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            let _ = writeln!(out, "{text}"); // writing to a String can't fail
        };
        line(format!(
            "{} s on {}, {} server(s), {} clients, seed {}; {} a model server",
            self.seconds,
            self.store,
            self.servers,
            self.clients,
            self.seed,
            if self.has_model { "with" } else { "without" }
        ));
        line("\nfaults".into());
        self.faults
            .iter()
            .for_each(|(fault, n)| line(format!("  {:<52} {n:>8}", fault.as_str())));
        self.skipped
            .iter()
            .for_each(|(fault, why)| line(format!("  {:<52}  skipped: {why}", fault.as_str())));
        line(format!(
            "\n{:<54} {:>8} {:>8} {:>8}",
            "commands", "yes", "no", "unknown"
        ));
        for (kind, [yes, no, unknown]) in &self.commands {
            line(format!(
                "  {:<52} {yes:>8} {no:>8} {unknown:>8}",
                kind.as_str()
            ));
        }
        line(format!(
            "  {} requests, {} sent again after a lost answer; {} facts",
            self.requests, self.lost, self.facts
        ));
        line(format!(
            "  servers started {} times, {} of them fell by themselves or did not come up; feeds resumed {} times",
            self.starts, self.fell, self.feeds_resumed
        ));
        if self.internal.0 > 0 {
            line(format!(
                "  {} answers with status 500, such as: {}",
                self.internal.0,
                self.internal.1.join("; ")
            ));
        }
        line("\nmust be zero".into());
        for count in Finding::ALL {
            line(format!(
                "  {:<52} {:>8}",
                count.as_str(),
                self.verdict.count(count)
            ));
            self.verdict
                .examples(count)
                .iter()
                .for_each(|example| line(format!("    - {example}")));
        }
        line("\nclocks".into());
        let good_again = self.good_again.map_or("-".into(), |(median, longest)| {
            format!("{} ms, {} ms", millis(median), millis(longest))
        });
        line(format!(
            "  {:<52} {good_again}",
            "first good answer after a fault: median, longest"
        ));
        if self.unanswered > 0 {
            line(format!(
                "  {:<52} {:>8}",
                "faults after which no good answer came any more", self.unanswered
            ));
        }
        let settled = self
            .settled
            .map_or("never".into(), |took| format!("{} ms", millis(took)));
        line(format!(
            "  {:<52} {settled}",
            "read side equal to a fresh replay, after the end"
        ));
        self.kept
            .iter()
            .for_each(|kept| line(format!("\nkept: {kept}")));
        let failures = self.failures();
        line(match (self.complete, failures.is_empty()) {
            (true, true) => "\nNothing was lost.".into(),
            (true, false) => format!("\nFAILED\n  {}", failures.join("\n  ")),
            (false, _) => "\nENDED EARLY: what was found so far is above".into(),
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            store: "SQLite",
            servers: 1,
            clients: 2,
            seconds: 3,
            seed: 4,
            has_model: false,
            complete: true,
            faults: [(Fault::KillServer, 5)].into(),
            skipped: vec![(Fault::Stall, "a reason")],
            commands: [(CommandKind::Register, [1, 2, 3])].into(),
            requests: 6,
            lost: 1,
            starts: 2,
            fell: 0,
            internal: (0, vec![]),
            facts: 9,
            feeds_resumed: 1,
            compared: 2,
            broken: vec![],
            verdict: Verdict::default(),
            good_again: None,
            unanswered: 0,
            settled: Some(Duration::from_millis(7)),
            kept: vec![],
        }
    }

    #[test]
    fn only_a_whole_run_with_six_zeros_passes() {
        assert!(report().passed(), "{:?}", report().failures());
        assert!(
            !Report {
                complete: false,
                ..report()
            }
            .passed()
        );
        for bad in [
            Report {
                internal: (1, vec!["an example".into()]),
                ..report()
            },
            Report {
                settled: None,
                ..report()
            },
            Report {
                unanswered: 1,
                ..report()
            },
            Report {
                faults: BTreeMap::new(),
                ..report()
            },
            Report {
                commands: [(CommandKind::Register, [0, 2, 3])].into(),
                ..report()
            },
            Report {
                compared: 1,
                ..report()
            },
            Report {
                broken: vec!["a client's task ended by itself".into()],
                ..report()
            },
        ] {
            assert_eq!(bad.failures().len(), 1, "{:?}", bad.failures());
            assert!(!bad.passed() && bad.table().contains(&bad.failures()[0]));
        }
        let mut bad = report();
        bad.verdict.add(Finding::Twice, "an example");
        assert!(!bad.passed() && bad.table().contains("    - an example"));
        assert_eq!(bad.json()["counters"][1]["count"], 1);
    }

    #[test]
    fn both_forms_tell_the_same() {
        let (table, json) = (report().table(), report().json());
        for word in [
            Fault::KillServer.as_str(),
            Fault::Stall.as_str(),
            "a reason",
            CommandKind::Register.as_str(),
        ] {
            assert!(
                table.contains(word) && json.to_string().contains(word),
                "{word}"
            );
        }
    }
}
