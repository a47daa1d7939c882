//! A community that rules can ask for, add and remove: standard (RFC 1997) or large (RFC 8092).

use std::fmt;

use crate::wire::{LargeCommunity, PathAttributes};

/// One community, of either size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Community {
    /// RFC 1997: the AS in the upper 16 bits.
    Standard(u32),
    /// RFC 8092.
    Large(LargeCommunity),
}

impl Community {
    /// Whether a route bears it.
    #[must_use]
    pub fn is_in(&self, attributes: &PathAttributes) -> bool {
        match self {
            Self::Standard(community) => attributes.communities.contains(community),
            Self::Large(community) => attributes.large_communities.contains(community),
        }
    }

    pub(super) fn add_to(self, attributes: &mut PathAttributes) {
        if self.is_in(attributes) {
            return;
        }
        match self {
            Self::Standard(community) => attributes.communities.push(community),
            Self::Large(community) => attributes.large_communities.push(community),
        }
    }

    pub(super) fn remove_from(self, attributes: &mut PathAttributes) {
        match self {
            Self::Standard(community) => attributes.communities.retain(|one| *one != community),
            Self::Large(community) => attributes.large_communities.retain(|one| *one != community),
        }
    }
}

impl fmt::Display for Community {
    /// `aa:nn`, or `global:local1:local2` for a large one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(community) => write!(f, "{}:{}", community >> 16, community & 0xFFFF),
            Self::Large(large) => write!(f, "{}:{}:{}", large.global, large.local1, large.local2),
        }
    }
}
