//! The tool for captions.

use genie_actors::CommandContext;
use genie_events::caption::Platform;
use serde_json::Value;

use super::{ToolArguments, ToolSpec, schema, shown};
use crate::{
    app::App,
    http::{
        caller::ActingUser,
        captions::{self, CaptionRequest},
        error::ApiError,
    },
};

/// In characters.
const MAX_WORDS: usize = 500;

pub fn specs() -> [ToolSpec; 1] {
    let platforms = Platform::ALL.map(Platform::as_str);
    [ToolSpec {
        name: "generate_caption",
        description: "Writes a caption for a post on a platform, within the platform's length. It counts for the user's plan.",
        input_schema: schema::object([
            schema::word("platform", "The platform; onlyfans by default.", platforms),
            schema::short_text("tone", "The tone; playful by default.", MAX_WORDS),
            schema::short_text("topic", "What the post is about.", MAX_WORDS),
            schema::word(
                "length",
                "short is 1 to 2 sentences, medium 2 to 4, long 4 to 8. The platform's limit goes first.",
                ["short", "medium", "long"],
            ),
            schema::short_text("platform_username", "The user's name there.", MAX_WORDS),
            schema::whole_within("n", "Several variants, each counted.", 1, 4),
        ]),
        output_schema: schema::object([
            schema::text("caption", "The caption.").required(),
            schema::text("model", "The model that wrote it.").required(),
            schema::word("platform", "The platform.", platforms).required(),
            schema::truth("truncated", "True when it was cut at the platform's limit."),
            schema::list("captions", "All variants, if n asked for some.", variant()),
        ]),
        read_only: false,
        idempotent: false,
        destructive: false,
    }]
}

fn variant() -> Value {
    schema::object([
        schema::text("caption", "The variant.").required(),
        schema::truth("truncated", "True when it was cut at the platform's limit."),
    ])
}

pub async fn generate(
    app: &App,
    user: &ActingUser,
    arguments: ToolArguments,
    asking: CommandContext,
) -> Result<Value, ApiError> {
    let wanted: CaptionRequest = arguments.into()?;
    let written = captions::generate_for(app, user.account.user, wanted, asking).await?;
    let fields = ["caption", "model", "platform", "truncated", "captions"];
    let fields = fields.map(|field| (field, field));
    shown(&written.0, &fields)
}
