//! Whether what clients saw is linearizable: each operation takes effect at one
//! moment between its call and its answer.
//!
//! In general that is a search over all orders. Here the log is the order: a
//! payment stands at its position, and a read says as of which position it was
//! answered, so it stands behind that position and before the next. What is left
//! to check is that this order never contradicts the clock of the clients: an
//! operation that had been answered before another was called stands before it.
//! One order for the ledger is more than one for each account.

/// Where an operation stands in the order of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A payment, posted or declined, at its position.
    At(u64),
    /// A read of what is there up to a position, with that.
    Behind(u64),
}

impl Place {
    const fn rank(self) -> (u64, bool) {
        match self {
            Self::At(position) => (position, false),
            Self::Behind(position) => (position, true),
        }
    }
}

/// What a client did, and when by one clock. Without an answer it may have
/// taken effect at any time since it was called.
#[derive(Clone, Debug)]
pub struct Operation<T> {
    pub what: String,
    pub called: T,
    pub answered: Option<T>,
    pub place: Place,
}

/// The first pair that contradicts: the former had been answered before the
/// latter was called, and stands behind it.
pub fn contradiction<T: Ord + Copy>(operations: &[Operation<T>]) -> Option<(&Operation<T>, &Operation<T>)> {
    let mut called: Vec<&Operation<T>> = operations.iter().collect();
    called.sort_by_key(|operation| operation.called);
    let mut answered: Vec<(T, &Operation<T>)> =
        operations.iter().filter_map(|operation| Some((operation.answered?, operation))).collect();
    answered.sort_by_key(|(at, _)| *at);
    let mut answered = answered.into_iter().peekable();
    // Of all that had been answered before: the one that stands last.
    let mut last: Option<&Operation<T>> = None;
    for operation in called {
        while let Some((_, before)) = answered.next_if(|(at, _)| *at < operation.called) {
            if last.is_none_or(|last| last.place.rank() < before.place.rank()) {
                last = Some(before);
            }
        }
        if let Some(last) = last.filter(|last| last.place.rank() > operation.place.rank()) {
            return Some((last, operation));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::Place::{At, Behind};
    use super::*;

    /// Operations as (called, answered, place); the indices of those that contradict.
    fn check(operations: &[(u32, Option<u32>, Place)]) -> Option<(usize, usize)> {
        let operations: Vec<Operation<u32>> = operations
            .iter()
            .enumerate()
            .map(|(index, (called, answered, place))| Operation {
                what: index.to_string(),
                called: *called,
                answered: *answered,
                place: *place,
            })
            .collect();
        contradiction(&operations).map(|(first, second)| (first.what.parse().unwrap(), second.what.parse().unwrap()))
    }

    #[test]
    fn operations_at_the_same_time_may_take_effect_in_any_order() {
        assert_eq!(check(&[]), None);
        assert_eq!(check(&[(0, Some(9), At(2)), (1, Some(8), At(1)), (2, Some(7), Behind(2))]), None);
        assert_eq!(check(&[(0, Some(9), Behind(0)), (1, Some(2), At(1))]), None);
        // Answered at the very moment at which the other was called: before it or not.
        assert_eq!(check(&[(0, Some(3), At(2)), (3, Some(4), At(1))]), None);
    }

    #[test]
    fn a_payment_stands_behind_what_was_answered_before_it_was_called() {
        assert_eq!(check(&[(0, Some(1), At(1)), (2, Some(3), At(2))]), None);
        assert_eq!(check(&[(0, Some(1), At(2)), (2, Some(3), At(1))]), Some((0, 1)));
        // Whatever came between.
        assert_eq!(check(&[(0, Some(1), At(3)), (2, Some(5), At(4)), (6, Some(7), At(2))]), Some((1, 2)));
    }

    #[test]
    fn a_read_sees_what_was_answered_before_it_was_called() {
        assert_eq!(check(&[(0, Some(1), At(7)), (2, Some(3), Behind(7))]), None);
        assert_eq!(check(&[(0, Some(1), At(7)), (2, Some(3), Behind(9))]), None);
        assert_eq!(check(&[(0, Some(1), At(7)), (2, Some(3), Behind(6))]), Some((0, 1)));
    }

    #[test]
    fn a_read_does_not_see_what_was_called_after_its_answer() {
        assert_eq!(check(&[(0, Some(1), Behind(7)), (2, Some(3), At(8))]), None);
        assert_eq!(check(&[(0, Some(1), Behind(8)), (2, Some(3), At(8))]), Some((0, 1)));
    }

    #[test]
    fn reads_never_go_back() {
        assert_eq!(check(&[(0, Some(1), Behind(7)), (2, Some(3), Behind(7))]), None);
        assert_eq!(check(&[(0, Some(1), Behind(8)), (2, Some(3), Behind(7))]), Some((0, 1)));
    }

    #[test]
    fn what_was_not_answered_may_take_effect_late_but_not_before_it_was_called() {
        assert_eq!(check(&[(0, None, At(9)), (1, Some(2), Behind(8)), (3, Some(4), Behind(9))]), None);
        assert_eq!(check(&[(0, Some(1), Behind(9)), (2, None, At(9))]), Some((0, 1)));
    }
}
