//! BGP roles (RFC 9234 §4.2): which pairs may speak, and what a mismatch is answered with.

use super::config::SessionConfig;
use crate::wire::notification::open::ROLE_MISMATCH;
use crate::wire::{Capability, Notification, Open, Role};

/// The roles of a session with an external peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Roles {
    pub(super) ours: Option<Role>,
    pub(super) theirs: Option<Role>,
}

/// What the roles in two OPENs make of the session.
///
/// # Errors
/// Role Mismatch: the peer tells several roles, one that does not go with ours, or none where it must.
pub(super) fn agree(
    config: &SessionConfig,
    internal: bool,
    sent: &Open,
    received: &Open,
) -> Result<Roles, Notification> {
    if internal {
        return Ok(Roles::default());
    }
    let mismatch = || Notification::open_error(ROLE_MISMATCH);
    let ours = roles(sent).next();
    let mut told = roles(received);
    let theirs = told.next();
    if told.any(|other| Some(other) != theirs) {
        return Err(mismatch());
    }
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if Some(theirs) != counterpart(ours) => Err(mismatch()),
        (_, None) if config.role.is_some() && config.strict_role => Err(mismatch()),
        (ours, theirs) => Ok(Roles { ours, theirs }),
    }
}

/// The roles an OPEN tells.
fn roles(open: &Open) -> impl Iterator<Item = Role> {
    open.capabilities
        .iter()
        .filter_map(|capability| match capability {
            Capability::Role(role) => Some(*role),
            _ => None,
        })
}

fn counterpart(role: Role) -> Option<Role> {
    match role {
        Role::Provider => Some(Role::Customer),
        Role::Customer => Some(Role::Provider),
        Role::RouteServer => Some(Role::RouteServerClient),
        Role::RouteServerClient => Some(Role::RouteServer),
        Role::Peer => Some(Role::Peer),
        Role::Unassigned(_) => None,
    }
}
