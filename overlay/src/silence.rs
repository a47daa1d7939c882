//! Whether a node answers what is sent to it by a tunnel: pure.

use std::time::Duration;

use crate::keys::Time;

/// What was sent to a peer, and whether anything came back. A peer that is there sends something within seconds of what
/// it gets, if only to say that it has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    received: u64,
    sent: u64,
    /// The first and the last time that more was sent since something came.
    unanswered: Option<(Time, Time)>,
}

impl Silence {
    /// For how long must have been sent without an answer until that is told.
    const LONGEST: Duration = Duration::from_secs(180);

    /// So many octets have come and gone so far.
    pub fn note(&mut self, now: Time, received: u64, sent: u64) {
        if received != self.received || sent < self.sent {
            self.unanswered = None;
        } else if sent > self.sent {
            let first = self.unanswered.map_or(now, |(first, _)| first);
            self.unanswered = Some((first, now));
        }
        (self.received, self.sent) = (received, sent);
    }

    /// For how long it was sent to without an answer, if that is too long.
    #[must_use]
    pub fn is_too_long(&self) -> Option<Duration> {
        let (first, last) = self.unanswered?;
        Some(last.saturating_sub(first)).filter(|time| *time >= Self::LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Duration::from_secs(1_700_000_000 + seconds)
    }

    #[test]
    fn who_is_sent_to_for_three_minutes_and_says_nothing_is_told_of_until_something_comes() {
        let mut silence = Silence::default();
        for seconds in (0..=170).step_by(10) {
            silence.note(at(seconds), 0, 148 * (seconds + 1));
            assert_eq!(silence.is_too_long(), None, "{seconds}");
        }
        silence.note(at(180), 0, 148 * 181);
        assert_eq!(silence.is_too_long(), Some(Duration::from_secs(180)));
        silence.note(at(190), 92, 148 * 182);
        assert_eq!(silence.is_too_long(), None);
    }

    #[test]
    fn who_is_not_sent_to_may_say_nothing_and_a_last_word_needs_no_answer() {
        let mut silence = Silence::default();
        silence.note(at(0), 500, 400);
        // An acknowledgement that ends it, and then an hour of nothing.
        for seconds in (10..3600).step_by(10) {
            silence.note(at(seconds), 500, 432);
            assert_eq!(silence.is_too_long(), None);
        }
        // Another device of the same name counts anew.
        silence.note(at(3600), 500, 20);
        assert_eq!(silence.is_too_long(), None);
    }
}
