//! The callers that may use a route.

use genie_events::service_key::Scope;

/// The callers that may use a route. The handler's parameter decides; this says the same where no handler is at hand.
/// A test compares both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteAccess {
    Public,
    /// Public unless the server is set to ask for a caller.
    PublicByDefault,
    /// A user in person.
    User,
    /// A user, an administrator who acts for them, or a program with a key of the user's own.
    ActingUser,
    /// An administrator in person.
    Admin,
    SharedSecret,
    /// A holder of the shared secret, or of a service key with one of these scopes.
    Server(&'static [Scope]),
    /// As `ActingUser` or as `Server`.
    UserOrServer(&'static [Scope]),
    /// As `Admin` or as `Server`.
    Operator(&'static [Scope]),
}
