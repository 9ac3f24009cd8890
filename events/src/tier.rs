//! Tiers and counters (docs/api.md, Usage and tiers). Their limits are data:
//! [`crate::tier_limits`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// A user's tier, which decides the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// The tier of new users.
    #[default]
    Starter,
    Creator,
    Pro,
    Studio,
}

impl Tier {
    /// All tiers, the smallest first.
    pub const ALL: [Self; 4] = [Self::Starter, Self::Creator, Self::Pro, Self::Studio];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starter => "starter",
            Self::Creator => "creator",
            Self::Pro => "pro",
            Self::Studio => "studio",
        }
    }

    /// The jobs of a user that start in one turn, while others wait for theirs.
    pub fn jobs_in_a_turn(self) -> u32 {
        match self {
            Self::Starter => 1,
            Self::Creator => 2,
            Self::Pro => 4,
            Self::Studio => 8,
        }
    }

    /// Reads a tier. Old names are accepted.
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

/// A counted action or thing that a tier may limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counter {
    /// Captions and posts written with the model's help, per month.
    PostsAiAssisted,
    /// Posts published, per month.
    PostsPublished,
    /// Jobs that wait for their time, at present.
    ScheduledQueueSize,
    /// Connected platforms, at present.
    PlatformsConnected,
    /// Taxonomy calls, per month.
    TaxonomyAiCalls,
    /// Watermarks, per month.
    WatermarkOps,
    /// Clips cut with the model's help, per month.
    AiClipOps,
    /// Thumbnails, per month.
    ThumbnailOps,
    /// Seats, at present.
    TeamSeats,
}

impl Counter {
    /// All counters, in the order in which clients see them.
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

    /// Reads the stored word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|counter| counter.as_str() == word)
    }

    /// True when the counter is a present number rather than a monthly one.
    pub fn is_present_count(self) -> bool {
        matches!(
            self,
            Self::ScheduledQueueSize | Self::PlatformsConnected | Self::TeamSeats
        )
    }

    /// True when genie counts it itself, together with the work. Clients report the others by `POST
    /// /api/usage/increment`.
    pub fn is_counted_by_genie(self) -> bool {
        self != Self::TaxonomyAiCalls
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
    fn words_read_back_and_old_names_are_known() {
        for tier in Tier::ALL {
            assert_eq!(Tier::parse(tier.as_str()), Some(tier));
        }
        assert_eq!(
            (Tier::parse("freemium"), Tier::parse("elite")),
            (Some(Tier::Starter), Some(Tier::Studio))
        );
        assert_eq!(Tier::parse("gold"), None);
        for counter in Counter::ALL {
            assert_eq!(Counter::parse(counter.as_str()), Some(counter));
        }
    }
}
