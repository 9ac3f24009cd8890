//! Checks exhaustively the protocol that gives positions, for three racing requests. The protocol
//! has an advisory lock and a head that is read under it. A client sends the same rows again when
//! an answer is lost, while the first statement may still wait or commit. The checks must also find
//! the fault in two protocols that look as good.

use stateright::{Checker, Model, Property};

/// The number of racing requests; each has one row.
const REQUESTS: usize = 3;
/// How often a client sends its rows: once, and once more when the answer is lost.
const SENDS: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// The protocol of `append`.
    Real,
    /// The head is read before the lock is taken, as one plain statement would do.
    HeadBeforeLock,
    /// The client looks for its rows before it sends again, instead of the server under the lock.
    LookedUpByTheClient,
}

/// A statement on the server. It continues when its client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Statement {
    Unsent,
    /// Waits for the lock. It saw this head when it began.
    Waiting {
        saw: u8,
    },
    /// Holds the lock. It inserted its row at this position, or found the row in the table.
    Inserted {
        at: Option<u8>,
    },
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    statements: [[Statement; SENDS]; REQUESTS],
    /// True for a client that was told that its row is written.
    acknowledged: [bool; REQUESTS],
    /// True for a client that lost the answer to its first statement, and so does not hear it.
    lost: [bool; REQUESTS],
    /// Committed rows: position and request.
    table: Vec<(u8, u8)>,
    /// The rows that a follower got.
    followed: Vec<(u8, u8)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Send(usize),
    LoseAnswer(usize),
    SendAgain(usize),
    Lock(usize, usize),
    Commit(usize, usize),
    /// The server process dies, or the statement times out before its commit.
    Abort(usize, usize),
    Follow,
}

struct Positions(Protocol);

impl State {
    fn head(&self) -> u8 {
        self.table
            .iter()
            .map(|(position, _)| *position)
            .max()
            .unwrap_or(0)
    }

    fn holds(&self, request: usize) -> bool {
        self.table
            .iter()
            .any(|(_, row)| usize::from(*row) == request)
    }

    fn is_locked(&self) -> bool {
        self.statements
            .iter()
            .flatten()
            .any(|statement| matches!(statement, Statement::Inserted { .. }))
    }
}

impl Model for Positions {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            statements: [[Statement::Unsent; SENDS]; REQUESTS],
            acknowledged: [false; REQUESTS],
            lost: [false; REQUESTS],
            table: vec![],
            followed: vec![],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Follow);
        for (request, statements) in state.statements.iter().enumerate() {
            if statements[0] == Statement::Unsent {
                actions.push(Action::Send(request));
            } else if !state.lost[request] && !state.acknowledged[request] {
                actions.push(Action::LoseAnswer(request));
            }
            if state.lost[request] && statements[1] == Statement::Unsent {
                actions.push(Action::SendAgain(request));
            }
            for (n, statement) in statements.iter().enumerate() {
                match statement {
                    Statement::Waiting { .. } if !state.is_locked() => {
                        actions.extend([Action::Lock(request, n), Action::Abort(request, n)]);
                    }
                    Statement::Waiting { .. } => actions.push(Action::Abort(request, n)),
                    Statement::Inserted { .. } => {
                        actions.extend([Action::Commit(request, n), Action::Abort(request, n)])
                    }
                    Statement::Unsent | Statement::Ended => {}
                }
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Send(request) => {
                state.statements[request][0] = Statement::Waiting { saw: state.head() }
            }
            Action::LoseAnswer(request) => state.lost[request] = true,
            Action::SendAgain(request)
                if self.0 == Protocol::LookedUpByTheClient && state.holds(request) =>
            {
                state.acknowledged[request] = true;
                state.statements[request][1] = Statement::Ended;
            }
            Action::SendAgain(request) => {
                state.statements[request][1] = Statement::Waiting { saw: state.head() }
            }
            Action::Lock(request, n) => {
                let Statement::Waiting { saw } = state.statements[request][n] else {
                    return None;
                };
                let head = if self.0 == Protocol::HeadBeforeLock {
                    saw
                } else {
                    state.head()
                };
                let is_there = self.0 != Protocol::LookedUpByTheClient && state.holds(request);
                state.statements[request][n] = Statement::Inserted {
                    at: (!is_there).then_some(head + 1),
                };
            }
            Action::Commit(request, n) => {
                let Statement::Inserted { at } = state.statements[request][n] else {
                    return None;
                };
                state
                    .table
                    .extend(at.map(|position| (position, request as u8)));
                state.acknowledged[request] |= n == 1 || !state.lost[request];
                state.statements[request][n] = Statement::Ended;
            }
            Action::Abort(request, n) => state.statements[request][n] = Statement::Ended,
            Action::Follow => {
                let seen = state.followed.last().map_or(0, |(position, _)| *position);
                let mut news: Vec<_> = state
                    .table
                    .iter()
                    .copied()
                    .filter(|(position, _)| *position > seen)
                    .collect();
                news.sort_unstable();
                if news.is_empty() {
                    return None;
                }
                state.followed.extend(news);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "positions are dense and in commit order",
                |_, state: &State| {
                    (1..)
                        .zip(&state.table)
                        .all(|(expected, (position, _))| *position == expected)
                },
            ),
            Property::always("no row is written twice", |_, state: &State| {
                (0..REQUESTS).all(|request| {
                    state
                        .table
                        .iter()
                        .filter(|(_, row)| usize::from(*row) == request)
                        .count()
                        <= 1
                })
            }),
            Property::always("acknowledged rows are written", |_, state: &State| {
                (0..REQUESTS).all(|request| !state.acknowledged[request] || state.holds(request))
            }),
            Property::always(
                "a follower gets everything, in order",
                |_, state: &State| state.table.starts_with(&state.followed),
            ),
            Property::sometimes("all are acknowledged", |_, state: &State| {
                state.acknowledged == [true; REQUESTS]
            }),
            Property::sometimes(
                "a row is sent again while its first statement still waits",
                |_, state: &State| {
                    state.statements.iter().any(|both| {
                        both.iter()
                            .all(|one| matches!(one, Statement::Waiting { .. }))
                    })
                },
            ),
        ]
    }
}

fn broken(protocol: Protocol) -> Vec<&'static str> {
    let checked = Positions(protocol).checker().threads(2).spawn_bfs().join();
    let good = [
        "all are acknowledged",
        "a row is sent again while its first statement still waits",
    ];
    let mut found: Vec<_> = checked
        .discoveries()
        .into_keys()
        .filter(|name| !good.contains(name))
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn the_protocol_keeps_every_promise_in_every_order_of_events() {
    let checked = Positions(Protocol::Real)
        .checker()
        .threads(2)
        .spawn_bfs()
        .join();
    checked.assert_properties();
    assert!(
        checked.unique_state_count() > 10_000,
        "{}",
        checked.unique_state_count()
    );
}

#[test]
fn a_head_read_before_the_lock_gives_a_position_twice() {
    assert!(broken(Protocol::HeadBeforeLock).contains(&"positions are dense and in commit order"));
}

#[test]
fn looking_up_before_sending_again_is_not_enough() {
    assert!(broken(Protocol::LookedUpByTheClient).contains(&"no row is written twice"));
}
