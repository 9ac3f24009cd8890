//! `usage`: the units counted against a tier. Check and count are one fact, so no race can pass a
//! limit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    aggregate, domain_event, refusal::Refusal, tier::Counter, tier_limits::Allowance,
    timestamp::Month,
};

/// The counts of the latest month seen. Earlier months no longer limit anything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    month: Month,
    counted: BTreeMap<Counter, u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum UsageCommand {
    /// Counts, if the tier's limit allows it.
    Count {
        /// The counter, with its limit for the user.
        allowance: Allowance,
        amount: u64,
        month: Month,
    },
    /// Gives units back whose work failed through no fault of the user.
    GiveBack {
        counter: Counter,
        amount: u64,
        /// The month in which the units were counted.
        month: Month,
    },
}

/// One unit of a counter. The work that it was counted for keeps it, so that it can go back to its
/// month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub counter: Counter,
    pub month: Month,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum UsageEvent {
    Counted {
        counter: Counter,
        amount: u64,
        month: Month,
    },
    GivenBack {
        counter: Counter,
        amount: u64,
        /// The month in which the units were counted.
        month: Month,
    },
}

domain_event!(UsageEvent,
    Self::Counted { .. } => "usage.counted",
    Self::GivenBack { .. } => "usage.given_back",
);
aggregate!(Usage, "usage", UsageCommand, UsageEvent);

impl UsageEvent {
    /// The fields that are not personal and are stored readable.
    pub(crate) fn clear(&self) -> Value {
        match self {
            Self::Counted {
                counter,
                amount,
                month,
            }
            | Self::GivenBack {
                counter,
                amount,
                month,
            } => {
                json!({"counter": counter, "amount": amount, "month": month})
            }
        }
    }
}

impl Usage {
    pub fn count(&self, counter: Counter, month: Month) -> u64 {
        if month != self.month {
            return 0;
        }
        self.counted.get(&counter).copied().unwrap_or(0)
    }

    /// The month to count in. A clock that jumped back must not open a fresh month.
    pub fn present(&self, month: Month) -> Month {
        month.max(self.month)
    }

    pub fn decide(&self, command: UsageCommand) -> Result<Vec<UsageEvent>, Refusal> {
        match command {
            UsageCommand::Count {
                allowance,
                amount,
                month,
            } => {
                let counter = allowance.counter;
                let month = self.present(month);
                allowance.check(self.count(counter, month).saturating_add(amount))?;
                Ok(vec![UsageEvent::Counted {
                    counter,
                    amount,
                    month,
                }])
            }
            UsageCommand::GiveBack {
                counter,
                amount,
                month,
            } => Ok(vec![UsageEvent::GivenBack {
                counter,
                amount,
                month,
            }]),
        }
    }

    pub fn evolve(&mut self, event: UsageEvent) {
        match event {
            UsageEvent::Counted {
                counter,
                amount,
                month,
            } => {
                if month > self.month {
                    self.month = month;
                    self.counted.clear();
                }
                if month == self.month {
                    let count = self.counted.entry(counter).or_default();
                    *count = count.saturating_add(amount);
                }
            }
            UsageEvent::GivenBack {
                counter,
                amount,
                month,
            } => {
                if month == self.month
                    && let Some(count) = self.counted.get_mut(&counter)
                {
                    *count = count.saturating_sub(amount);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;

    use super::*;
    use crate::{tier::Tier, tier_limits::Limits};

    type Given = TestFramework<Usage>;
    const NOVEMBER: Month = Month(202_611);
    const DECEMBER: Month = Month(202_612);

    fn count(month: Month) -> UsageCommand {
        let allowance = Limits::built_in().allowance(Tier::Starter, Counter::PostsAiAssisted);
        UsageCommand::Count {
            allowance,
            amount: 1,
            month,
        }
    }
    fn counted(month: Month) -> UsageEvent {
        UsageEvent::Counted {
            counter: Counter::PostsAiAssisted,
            amount: 1,
            month,
        }
    }

    #[test]
    fn the_limit_is_reached_and_never_passed() {
        let full = vec![counted(NOVEMBER); 3];
        let refused = Given::with(())
            .given(full.clone())
            .when(count(NOVEMBER))
            .inspect_result()
            .unwrap_err();
        assert_eq!(refused.code, "tier_limit_reached");
        Given::with(())
            .given(full)
            .when(count(DECEMBER))
            .then_expect_events(vec![counted(DECEMBER)]);
    }

    #[test]
    fn a_returned_unit_can_be_used_again() {
        let back = UsageEvent::GivenBack {
            counter: Counter::PostsAiAssisted,
            amount: 1,
            month: NOVEMBER,
        };
        let given = [vec![counted(NOVEMBER); 3], vec![back]].concat();
        Given::with(())
            .given(given)
            .when(count(NOVEMBER))
            .then_expect_events(vec![counted(NOVEMBER)]);
    }

    #[test]
    fn a_clock_that_jumps_back_opens_no_fresh_month() {
        let refused = Given::with(())
            .given(vec![counted(DECEMBER); 3])
            .when(count(NOVEMBER))
            .inspect_result();
        assert!(refused.is_err());
    }

    #[test]
    fn a_tier_without_the_operation_says_so() {
        let allowance = Limits::built_in().allowance(Tier::Starter, Counter::AiClipOps);
        let clip = UsageCommand::Count {
            allowance,
            amount: 1,
            month: NOVEMBER,
        };
        let refused = Given::with(())
            .given_no_previous_events()
            .when(clip)
            .inspect_result()
            .unwrap_err();
        let expected = crate::RefusalKind::Quota {
            counter: Counter::AiClipOps,
            in_tier: false,
        };
        assert_eq!(refused.kind, expected);
    }
}
