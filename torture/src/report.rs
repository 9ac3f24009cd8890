//! The result of a run, as one table or one JSON object.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::{
    faults::Fault,
    ledger::CommandKind,
    verdict::{Mistake, RunVerdict},
};

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
    /// Readers of answers that went away in the middle and came back.
    pub turns_left: u64,
    /// Readers of answers that were cut off, by a kill or otherwise, and came back.
    pub turns_cut: u64,
    pub starts: u64,
    pub fell: u64,
    pub internal: (u64, Vec<String>),
    pub facts: u64,
    pub feeds_resumed: u64,
    /// Users whose read side was compared with a replay; must equal `clients`.
    pub compared: usize,
    /// Failures of the run itself, such as a client's task that panicked.
    pub broken: Vec<String>,
    pub verdict: RunVerdict,
    /// The median and the longest time.
    pub good_again: Option<(Duration, Duration)>,
    pub unanswered: usize,
    pub settled: Option<Duration>,
    /// Things that were left for a closer look.
    pub kept: Vec<String>,
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

impl Report {
    /// True when the run came to its end, everything was checked, and nothing was wrong.
    pub fn passed(&self) -> bool {
        self.complete && self.failures().is_empty()
    }

    /// The reasons why it did not pass.
    pub fn failures(&self) -> Vec<String> {
        let lost = Mistake::ALL
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
            "readers_of_turns": {"left": self.turns_left, "cut_off": self.turns_cut},
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
        let mut table = ReportTable::default();
        table.line(format!(
            "{} s on {}, {} server(s), {} clients, seed {}; {} a model server",
            self.seconds,
            self.store,
            self.servers,
            self.clients,
            self.seed,
            if self.has_model { "with" } else { "without" }
        ));
        self.faults_and_commands(&mut table);
        self.must_be_zero(&mut table);
        self.clocks(&mut table);
        for kept in &self.kept {
            table.line(format!("\nkept: {kept}"));
        }
        let failures = self.failures();
        table.line(if !self.complete {
            "\nENDED EARLY: the findings so far are above".into()
        } else if failures.is_empty() {
            "\nNothing was lost.".into()
        } else {
            format!("\nFAILED\n  {}", failures.join("\n  "))
        });
        table.0
    }

    fn faults_and_commands(&self, table: &mut ReportTable) {
        table.line("\nfaults".into());
        for (fault, times) in &self.faults {
            table.row(fault.as_str(), format!("{times:>8}"));
        }
        for (fault, why) in &self.skipped {
            table.row(fault.as_str(), format!(" skipped: {why}"));
        }
        table.line(format!(
            "\n{:<54} {:>8} {:>8} {:>8}",
            "commands", "yes", "no", "unknown"
        ));
        for (kind, [yes, no, unknown]) in &self.commands {
            table.row(kind.as_str(), format!("{yes:>8} {no:>8} {unknown:>8}"));
        }
        table.line(format!(
            "  {} requests, {} sent again after a lost answer; {} facts",
            self.requests, self.lost, self.facts
        ));
        table.line(format!(
            "  servers started {} times, {} of them fell by themselves or did not come up; feeds resumed {} times",
            self.starts, self.fell, self.feeds_resumed
        ));
        table.line(format!(
            "  readers of answers left {} times and were cut off {} times, and came back",
            self.turns_left, self.turns_cut
        ));
        if self.internal.0 > 0 {
            table.line(format!(
                "  {} answers with status 500, such as: {}",
                self.internal.0,
                self.internal.1.join("; ")
            ));
        }
    }

    fn must_be_zero(&self, table: &mut ReportTable) {
        table.line("\nmust be zero".into());
        for finding in Mistake::ALL {
            let count = self.verdict.count(finding);
            table.row(finding.as_str(), format!("{count:>8}"));
            for example in self.verdict.examples(finding) {
                table.line(format!("    - {example}"));
            }
        }
    }

    fn clocks(&self, table: &mut ReportTable) {
        table.line("\nclocks".into());
        let good_again = self.good_again.map_or("-".into(), |(median, longest)| {
            format!("{} ms, {} ms", millis(median), millis(longest))
        });
        table.row(
            "first good answer after a fault: median, longest",
            good_again,
        );
        if self.unanswered > 0 {
            table.row(
                "faults without any good answer after them",
                format!("{:>8}", self.unanswered),
            );
        }
        let settled = self
            .settled
            .map_or("never".into(), |took| format!("{} ms", millis(took)));
        table.row("read side equal to a fresh replay, after the end", settled);
    }
}

#[derive(Default)]
struct ReportTable(String);

impl ReportTable {
    fn line(&mut self, text: String) {
        self.0.push_str(&text);
        self.0.push('\n');
    }

    fn row(&mut self, name: &str, value: String) {
        self.line(format!("  {name:<52} {value}"));
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
            turns_left: 3,
            turns_cut: 2,
            starts: 2,
            fell: 0,
            internal: (0, vec![]),
            facts: 9,
            feeds_resumed: 1,
            compared: 2,
            broken: vec![],
            verdict: RunVerdict::default(),
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
        bad.verdict.add(Mistake::Twice, "an example");
        assert!(!bad.passed() && bad.table().contains("    - an example"));
        assert_eq!(bad.json()["counters"][1]["count"], 1);
    }

    #[test]
    fn table_and_json_agree() {
        let table = report().table();
        let json = report().json();
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
