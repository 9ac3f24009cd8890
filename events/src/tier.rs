//! Tiers, counters and their limits (contract, section 8).

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a user pays for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// New users have it.
    #[default]
    Starter,
    /// The second.
    Creator,
    /// The third.
    Pro,
    /// The largest.
    Studio,
}

impl Tier {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starter => "starter",
            Self::Creator => "creator",
            Self::Pro => "pro",
            Self::Studio => "studio",
        }
    }

    /// Reads a tier, old names included.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "starter" | "freemium" => Self::Starter,
            "creator" => Self::Creator,
            "pro" => Self::Pro,
            "studio" | "elite" => Self::Studio,
            _ => return None,
        })
    }
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counter {
    /// Captions and posts written with the model's help, a month.
    PostsAiAssisted,
    /// Posts published, a month.
    PostsPublished,
    /// Jobs waiting for their time, now.
    ScheduledQueueSize,
    /// Platform connections held, now.
    PlatformsConnected,
    /// Taxonomy calls, a month.
    TaxonomyAiCalls,
    /// Watermarks, a month.
    WatermarkOps,
    /// Clips cut by the model's help, a month.
    AiClipOps,
    /// Thumbnails, a month.
    ThumbnailOps,
    /// Seats, now.
    TeamSeats,
}

impl Counter {
    /// All of them, in the order they are shown.
    pub const ALL: [Self; 9] = [
        Self::PostsAiAssisted,
        Self::PostsPublished,
        Self::ScheduledQueueSize,
        Self::PlatformsConnected,
        Self::TaxonomyAiCalls,
        Self::WatermarkOps,
        Self::AiClipOps,
        Self::ThumbnailOps,
        Self::TeamSeats,
    ];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PostsAiAssisted => "posts_ai_assisted",
            Self::PostsPublished => "posts_published",
            Self::ScheduledQueueSize => "scheduled_queue_size",
            Self::PlatformsConnected => "platforms_connected",
            Self::TaxonomyAiCalls => "taxonomy_ai_calls",
            Self::WatermarkOps => "watermark_ops",
            Self::AiClipOps => "ai_clip_ops",
            Self::ThumbnailOps => "thumbnail_ops",
            Self::TeamSeats => "team_seats",
        }
    }

    /// The stored word back.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|counter| counter.as_str() == word)
    }

    /// Whether it is a present count rather than a monthly one.
    pub fn is_present_count(self) -> bool {
        matches!(self, Self::ScheduledQueueSize | Self::PlatformsConnected | Self::TeamSeats)
    }

    /// The limit of a tier; `None` is unlimited, `Some(0)` means the tier never has it.
    pub fn limit(self, tier: Tier) -> Option<u64> {
        let [starter, creator, pro, studio]: [i64; 4] = match self {
            Self::PostsAiAssisted => [3, 30, 200, -1],
            Self::PostsPublished => [5, 90, -1, -1],
            Self::ScheduledQueueSize => [3, -1, -1, -1],
            Self::PlatformsConnected => [1, 3, 6, 9],
            Self::TaxonomyAiCalls => [5, 75, 500, -1],
            Self::WatermarkOps => [-1, -1, -1, -1],
            Self::AiClipOps => [0, 10, 150, -1],
            Self::ThumbnailOps => [0, -1, -1, -1],
            Self::TeamSeats => [1, 1, 3, 5],
        };
        let limit = match tier {
            Tier::Starter => starter,
            Tier::Creator => creator,
            Tier::Pro => pro,
            Tier::Studio => studio,
        };
        u64::try_from(limit).ok()
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_contract() {
        assert_eq!(Counter::PostsAiAssisted.limit(Tier::Starter), Some(3));
        assert_eq!(Counter::AiClipOps.limit(Tier::Starter), Some(0));
        assert_eq!(Counter::PostsAiAssisted.limit(Tier::Studio), None);
        assert_eq!(Tier::parse("elite"), Some(Tier::Studio));
        assert_eq!(Tier::parse("gold"), None);
        for counter in Counter::ALL {
            assert_eq!(Counter::parse(counter.as_str()), Some(counter));
        }
    }
}
