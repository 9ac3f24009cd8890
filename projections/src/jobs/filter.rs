//! The statements of lists. A filtered list is the merge of parts by position: each operation that is asked for with
//! each status; a code by itself. An index holds each part in the order of the list. So a page reads the rows that
//! it answers, one of each part, and no other: 90 parts at most, those of all operations of a queue with all statuses.
//!
//! The exception is `queued` beside `delayed`, which only the time tells apart. A page of these looks at no more than
//! [`LOOKED_AT`] jobs that wait, and says where it stopped.
//!
//! Invariant: a job has one of the operations of `job_operation::of_jobs`.

use genie_events::job_operation;
use genie_log::{pages::PageSql, store::Store};

use super::{BYTES, COLUMNS, JobFilter};

/// A page of jobs that wait looks at no more of them than this.
const LOOKED_AT: i64 = 2000;

/// The statuses that jobs are stored with. A delayed job is stored as `queued`.
const STORED: [&str; 5] = ["queued", "processing", "completed", "failed", "cancelled"];

const PAGE: PageSql<'static> = PageSql {
    table: "jobs",
    columns: COLUMNS,
    key: "job_id",
    bytes: BYTES,
    condition: "user_id = unhex($1, '-') AND position < $2 AND position >= $3",
    order: &["position"],
    descending: true,
    limit: "$4",
};
/// The number of parameters of [`PAGE`]. The filter's words follow, then the time.
const OF_PAGE: usize = 4;
/// The floor has the first two.
const OF_FLOOR: usize = 2;

/// The statement of a page of all jobs. `$1` is the user, `$2` the position before which to look, `$3` the position
/// down to which to look, `$4` the number of jobs.
pub(super) fn all_sql(store: &Store) -> String {
    PAGE.text(store)
}

impl JobFilter {
    /// True when an index alone does not find the jobs that match.
    pub(super) fn goes_by_time(&self) -> bool {
        matches!(self.status.as_deref(), Some("queued" | "delayed"))
    }

    /// The words that a statement takes, in this order.
    pub(super) fn words(&self) -> impl Iterator<Item = String> {
        [&self.operation, &self.code].into_iter().flatten().cloned()
    }

    /// The conditions of the parts. `$operation` and `$code` stand for the filter's words. Without a part nothing
    /// matches.
    pub(super) fn parts(&self) -> Vec<String> {
        let code = self.code.as_ref().map(|_| "code = $code".to_owned());
        let of_all_work = self.queue.is_none() && self.operation.is_none();
        let statuses = self.statuses();
        if let Some(code) = &code
            && self.status.is_none()
            && of_all_work
        {
            return vec![code.clone()];
        }
        let operations = self.operations();
        let pairs = operations
            .iter()
            .flat_map(|operation| statuses.iter().map(move |status| (operation, status)));
        let part = |(operation, status): (&String, &&str)| {
            let mut part = format!("operation = {operation} AND status = '{status}'");
            if let Some(code) = &code {
                part = format!("{part} AND {code}");
            }
            part
        };
        pairs.map(part).collect()
    }

    /// The operations of the jobs that match, as they stand in a statement. The known ones are few words of ours.
    fn operations(&self) -> Vec<String> {
        let is_of_queue = |operation: &&str| {
            let queue = job_operation::queue_of_job(operation);
            self.queue.is_none() || self.queue.as_deref() == queue
        };
        match self.operation.as_deref() {
            Some(operation) if is_of_queue(&operation) => vec!["$operation".to_owned()],
            Some(_) => vec![],
            None => job_operation::of_jobs()
                .filter(is_of_queue)
                .map(|operation| format!("'{operation}'"))
                .collect(),
        }
    }

    fn statuses(&self) -> Vec<&'static str> {
        let asked = match self.status.as_deref() {
            None => return STORED.to_vec(),
            Some("delayed") => "queued",
            Some(status) => status,
        };
        STORED.into_iter().filter(|one| *one == asked).collect()
    }

    /// Puts the numbers of the parameters in, which follow so many others.
    fn numbered(&self, sql: &str, before: usize) -> String {
        let code = before + 1 + usize::from(self.operation.is_some());
        sql.replace("$operation", &format!("${}", before + 1))
            .replace("$code", &format!("${code}"))
    }

    /// The statement of a page.
    pub(super) fn sql(&self, store: &Store, parts: &[String]) -> String {
        let time = OF_PAGE + self.words().count() + 1;
        let due = match self.status.as_deref() {
            Some("queued") => format!(" AND (run_at IS NULL OR run_at <= ${time})"),
            Some("delayed") => format!(" AND run_at > ${time}"),
            _ => String::new(),
        };
        let parts: Vec<String> = parts.iter().map(|part| format!("{part}{due}")).collect();
        self.numbered(&PAGE.merged(store, &parts), OF_PAGE)
    }

    /// The position of the last job that a page looks at, when there are as many.
    pub(super) fn floor_sql(&self, parts: &[String]) -> String {
        let part = |part: &String| {
            format!(
                "SELECT position FROM jobs WHERE user_id = unhex($1, '-') AND position < $2 AND {part}"
            )
        };
        let parts: Vec<String> = parts.iter().map(part).collect();
        let sql = format!(
            "{} ORDER BY position DESC LIMIT 1 OFFSET {}",
            parts.join(" UNION ALL "),
            LOOKED_AT - 1
        );
        self.numbered(&sql, OF_FLOOR)
    }
}

/// The statement of each kind of filter.
#[cfg(test)]
pub(super) fn statements(store: &Store) -> Vec<String> {
    let statuses = [None, Some("queued"), Some("delayed"), Some("failed")];
    let works = [
        (None, None),
        (Some("media-jobs"), None),
        (None, Some("thumbnail")),
    ];
    let mut all = Vec::new();
    for status in statuses {
        for (queue, operation) in works {
            for code in [None, Some("no_space")] {
                let filter = JobFilter {
                    status: status.map(str::to_owned),
                    queue: queue.map(str::to_owned),
                    operation: operation.map(str::to_owned),
                    code: code.map(str::to_owned),
                };
                let parts = filter.parts();
                all.extend([filter.sql(store, &parts), filter.floor_sql(&parts)]);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(status: &str, queue: &str, operation: &str, code: &str) -> usize {
        let word = |word: &str| (!word.is_empty()).then(|| word.to_owned());
        let filter = JobFilter {
            status: word(status),
            queue: word(queue),
            operation: word(operation),
            code: word(code),
        };
        filter.parts().len()
    }

    #[test]
    fn a_list_has_few_parts() {
        let all = job_operation::of_jobs().count();
        let of_media = job_operation::of_jobs()
            .filter(|operation| job_operation::queue_of_job(operation) == Some("media-jobs"))
            .count();
        assert_eq!(parts("failed", "", "", ""), all);
        assert_eq!(parts("failed", "", "", "x"), all);
        assert_eq!(parts("", "media-jobs", "", ""), of_media * STORED.len());
        assert_eq!(parts("", "", "thumbnail", ""), STORED.len());
        assert_eq!(parts("delayed", "media-jobs", "thumbnail", "x"), 1);
        assert_eq!(parts("", "", "", "x"), 1);
        assert_eq!(
            parts("", "scrape-jobs", "thumbnail", ""),
            0,
            "of another queue"
        );
    }
}
