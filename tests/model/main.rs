//! Chats with model servers that others have written: a small real language model, and a scripted stand-in for Ollama's
//! API. `scripts/test model` installs and starts them; `cargo test` alone leaves this out.

#![allow(clippy::unwrap_used)] // a test program

/// As in the binary, for servers inside the tests.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(dead_code)] // The other test program uses the rest.
#[path = "../genie/fake_ollama.rs"]
mod fake_ollama;
#[allow(dead_code)]
#[path = "../genie/identity.rs"]
mod identity;
#[allow(dead_code)]
#[path = "../genie/test_genie.rs"]
mod test_genie;
#[allow(dead_code)]
#[path = "../genie/until.rs"]
mod until;

/// What each of the servers has to be good for.
mod both_models;
/// The time from a stop to the model's free slot.
mod free_slot;
/// What only the stand-in can be asked for: failures, and texts that look like a protocol.
mod stand_in;

use genie_log::testing::TestStore;

use crate::test_genie::TestGenie;

/// A model server of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerModel {
    /// SmolLM2 behind ollama-proxy-plus.
    Real,
    /// aimock, whose answers are chosen by the question: `mock.json`.
    StandIn,
}

impl PeerModel {
    pub const ALL: [Self; 2] = [Self::Real, Self::StandIn];

    fn settings(self) -> Vec<(&'static str, String)> {
        let url = match self {
            Self::Real => setting("GENIE_TEST_MODEL"),
            Self::StandIn => setting("GENIE_TEST_MODEL_STAND_IN"),
        };
        vec![
            ("OLLAMA_URL", url),
            ("OLLAMA_MODEL", "smollm2:135m".to_owned()),
            ("ONBOARDING_GATE", "off".to_owned()),
            ("CHAT_MAX_TOKENS", "200".to_owned()),
        ]
    }

    /// A server in the test's own process that asks this model.
    pub async fn genie(self, store: TestStore) -> TestGenie {
        TestGenie::start_with(store, &self.settings()).await
    }

    /// A server in a process, to be killed.
    pub async fn genie_process(self, store: TestStore) -> TestGenie {
        TestGenie::start_process_with(store, &self.settings()).await
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the model servers to test on are named by the environment"
)]
pub fn setting(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} names a model server; run scripts/test model"))
}
