//! The limit of open files. Connections are files, and so are those to the store and to the model
//! server, which must not run out.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are kept for all but clients' connections: the store, the model server, uploads.
const KEPT: u64 = 512;

/// Raises the process' limit as far as it may go.
pub fn raise() -> Result<(), String> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised)
        .map_err(|error| format!("the limit of open files can't be raised: {error}"))
}

/// How many connections the limit leaves room for: at least half of it.
pub fn connections() -> usize {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return usize::MAX;
    };
    usize::try_from(limit - KEPT.min(limit / 2)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raising_takes_the_hard_limit_and_leaves_room_below_it() {
        raise().unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        let left = connections();
        assert!(left > 0);
        assert!(limit.current.is_none_or(|limit| (left as u64) < limit));
    }
}
