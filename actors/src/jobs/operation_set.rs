//! The operations of jobs as small numbers, and sets of them: what a claim asks for.

use std::sync::LazyLock;

use genie_events::job_operation;

/// Each operation with its queue, in the order of their numbers.
static OPERATIONS: LazyLock<Vec<(&'static str, &'static str)>> = LazyLock::new(|| {
    let with_queue = |operation| Some((operation, job_operation::queue_of_job(operation)?));
    job_operation::of_jobs().filter_map(with_queue).collect()
});

/// An operation that a job may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationNumber(u8);

impl OperationNumber {
    pub fn parse(operation: &str) -> Option<Self> {
        let at = OPERATIONS.iter().position(|(name, _)| *name == operation)?;
        u8::try_from(at).ok().map(Self)
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..).map(Self).take(OPERATIONS.len())
    }

    pub fn queue(self) -> &'static str {
        OPERATIONS[self.index()].1
    }

    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A set of operations, a bit for each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperationSet(u32);

impl OperationSet {
    pub fn only(operation: OperationNumber) -> Self {
        Self(1 << operation.0)
    }

    pub fn contains(self, operation: OperationNumber) -> bool {
        self.0 & Self::only(operation).0 != 0
    }

    pub fn iter(self) -> impl Iterator<Item = OperationNumber> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let first = u8::try_from(left.trailing_zeros()).ok()?;
            (left != 0).then(|| {
                left &= left - 1;
                OperationNumber(first)
            })
        })
    }
}

impl FromIterator<OperationNumber> for OperationSet {
    fn from_iter<I: IntoIterator<Item = OperationNumber>>(operations: I) -> Self {
        let bits = operations
            .into_iter()
            .map(|operation| Self::only(operation).0);
        Self(bits.fold(0, |all, bit| all | bit))
    }
}

/// The queues of a claim, in the order in which they are looked at, each with the operations that it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimScope(Vec<(&'static str, OperationSet)>);

impl ClaimScope {
    /// All operations of these queues, but for the reading of marks, which needs a key; with `operations` only those.
    /// Never those that the server runs itself.
    pub fn of_worker(queues: &[&'static str], operations: Option<&[OperationNumber]>) -> Self {
        let own = OperationNumber::parse(job_operation::CAPTION);
        let named_only = OperationNumber::parse(job_operation::READ_MARK);
        let wanted = |operation: &OperationNumber| match operations {
            None => ![own, named_only].contains(&Some(*operation)),
            Some(operations) => Some(*operation) != own && operations.contains(operation),
        };
        let of_queue = |queue: &&'static str| {
            let all = OperationNumber::all().filter(|operation| operation.queue() == *queue);
            (*queue, all.filter(wanted).collect())
        };
        Self(queues.iter().map(of_queue).collect())
    }

    /// The operation that the server runs itself, by the model.
    pub fn of_captions() -> Self {
        let own = OperationNumber::parse(job_operation::CAPTION);
        let own = own.map(|own| (own.queue(), OperationSet::only(own)));
        Self(own.into_iter().collect())
    }

    pub fn queues(&self) -> impl Iterator<Item = (&'static str, OperationSet)> {
        self.0.iter().copied()
    }

    pub fn operations(&self) -> OperationSet {
        let bits = self.0.iter().map(|(_, operations)| operations.0);
        OperationSet(bits.fold(0, |all, of_queue| all | of_queue))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(operation: &str) -> OperationNumber {
        OperationNumber::parse(operation).unwrap()
    }

    #[test]
    fn a_claim_gets_what_it_can_do_and_never_what_the_server_does_itself() {
        let all = ClaimScope::of_worker(&["media-jobs"], None).operations();
        assert_eq!(all.iter().count(), 16);
        assert!(all.contains(number("thumbnail")));
        assert!(!all.contains(number("caption_generation")));
        assert!(!all.contains(number("verify_mark")));
        assert!(!all.contains(number("publish_post")));
        let named = [
            number("thumbnail"),
            number("publish_post"),
            number("caption_generation"),
            number("verify_mark"),
        ];
        let two = ["media-jobs", "scrape-jobs"];
        let some = ClaimScope::of_worker(&two, Some(&named)).operations();
        assert_eq!(
            some,
            [named[0], named[1], named[3]].into_iter().collect(),
            "what needs a key is only for those who name it"
        );
        let own = ClaimScope::of_captions().operations();
        assert_eq!(own.iter().collect::<Vec<_>>(), [named[2]]);
    }

    #[test]
    fn every_operation_has_a_number_and_a_bit() {
        assert!(OPERATIONS.len() <= 32);
        assert_eq!(OPERATIONS.len(), job_operation::of_jobs().count());
        let all: OperationSet = OperationNumber::all().collect();
        assert!(all.iter().eq(OperationNumber::all()));
        assert_eq!(OperationSet::default().iter().count(), 0);
        assert_eq!(number("onboarding_import").queue(), "onboarding-jobs");
    }
}
