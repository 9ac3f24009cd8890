//! Draws the numbers of invisible marks. A number is in the fact of its job's submission, which stands before any worker
//! sees the job: a number without a marked file harms nobody, a marked file always has its fact.

use std::collections::BTreeSet;

use genie_events::{MarkNumber, job::JobSpec, job_operation::INVISIBLE_MARK};
use genie_log::{LogError, clock::random_bytes};
use genie_projections::marks::MarkReader;

/// Gives each job that makes a mark a number that nobody has.
pub async fn draw(
    marks: &MarkReader,
    specs: impl IntoIterator<Item = &mut JobSpec>,
) -> Result<(), LogError> {
    let mut drawn = BTreeSet::new();
    for spec in specs {
        if spec.operation == INVISIBLE_MARK {
            spec.mark = Some(draw_one(marks, &mut drawn).await?);
        }
    }
    Ok(())
}

/// Two requests at the same moment could draw the same number once in four thousand million times.
async fn draw_one(
    marks: &MarkReader,
    drawn: &mut BTreeSet<MarkNumber>,
) -> Result<MarkNumber, LogError> {
    loop {
        let number = MarkNumber(u32::from_be_bytes(random_bytes()));
        let is_free = marks.named_by(number).await?.is_empty();
        if is_free && drawn.insert(number) {
            return Ok(number);
        }
    }
}
