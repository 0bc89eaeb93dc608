//! Where the work is on its way to, and what nobody does: a pure function of who
//! lives, who holds what and who should.
//!
//! Every worker can tell it of all of them, since all compute the same
//! [`assignment`](super::assignment).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::assignment::Member;
use crate::store::claims::{ClaimRow, LiveRow, Unit};
use crate::store::{LedgerId, Shard};

/// A worker takes part only when it has lived so long, so that one which starts,
/// fails and starts again does not make everything move each time.
const JOIN_DEBOUNCE_S: f64 = 1.5;

/// The workers among which units are shared out: not those that stop, and not
/// those that have only just come, unless there are no others.
pub fn members(live: &[LiveRow]) -> Vec<Member> {
    let settled = live.iter().any(|row| !row.draining && row.age_s >= JOIN_DEBOUNCE_S);
    live.iter()
        .filter(|row| !row.draining && (!settled || row.age_s >= JOIN_DEBOUNCE_S))
        .map(|row| Member {
            worker_id: row.worker_id,
            capacity: u32::try_from(row.capacity).unwrap_or(1),
            sequencer: row.sequencer,
            projector: row.projector,
        })
        .collect()
}

/// Who holds what, of those that live.
pub fn holders(claims: &[ClaimRow], live: &[LiveRow]) -> BTreeMap<Unit, Uuid> {
    let lives = |worker_id: &Uuid| live.iter().any(|row| row.worker_id == *worker_id);
    claims.iter().filter_map(|row| Some((row.unit, row.worker_id.filter(lives)?))).collect()
}

/// Units that go the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Who holds them; nobody, or nobody that lives, when there is none.
    pub from: Option<Uuid>,
    /// Who should.
    pub to: Uuid,
    pub units: BTreeSet<Unit>,
}

/// What is not where it should be, by the way it goes.
pub fn moves(units: &[Unit], holders: &BTreeMap<Unit, Uuid>, assigned: &BTreeMap<Unit, Uuid>) -> Vec<Move> {
    let mut ways: BTreeMap<(Option<Uuid>, Uuid), BTreeSet<Unit>> = BTreeMap::new();
    for unit in units {
        // Without anybody to take it, it stays with the one who is leaving.
        let Some(to) = assigned.get(unit).copied() else { continue };
        let from = holders.get(unit).copied();
        if from != Some(to) {
            ways.entry((from, to)).or_default().insert(*unit);
        }
    }
    ways.into_iter().map(|((from, to), units)| Move { from, to, units }).collect()
}

/// What no worker that lives holds.
pub fn unowned(units: &[Unit], holders: &BTreeMap<Unit, Uuid>) -> BTreeSet<Unit> {
    units.iter().filter(|unit| !holders.contains_key(unit)).copied().collect()
}

/// The ledgers among the units.
pub fn ledgers(units: &BTreeSet<Unit>) -> impl Iterator<Item = LedgerId> + '_ {
    units.iter().filter_map(|unit| match unit {
        Unit::Sequencer(ledger_id) => Some(*ledger_id),
        Unit::Projector(_) => None,
    })
}

/// The shards among the units, neighbours together: `0-15`, `17`, `20-63`.
pub fn ranges(units: &BTreeSet<Unit>) -> Vec<String> {
    let mut ranges: Vec<(Shard, Shard)> = Vec::new();
    for unit in units {
        let Unit::Projector(shard) = unit else { continue };
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *shard => *last = *shard,
            _ => ranges.push((*shard, *shard)),
        }
    }
    let text =
        |(first, last): (Shard, Shard)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.into_iter().map(text).collect()
}

/// Units in words, for the log: `sequencers of ledgers 1, shards 0-15 17`.
pub struct Told<'a>(pub &'a BTreeSet<Unit>);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ledgers: Vec<String> = ledgers(self.0).map(|ledger_id| ledger_id.to_string()).collect();
        let shards = ranges(self.0);
        if !ledgers.is_empty() {
            write!(f, "sequencers of ledgers {}", ledgers.join(" "))?;
        }
        if !ledgers.is_empty() && !shards.is_empty() {
            f.write_str(", ")?;
        }
        if !shards.is_empty() {
            write!(f, "shards {}", shards.join(" "))?;
        }
        Ok(())
    }
}

/// Tells what has gone on for so long that it is worth a line of the log, once,
/// and once when it is over.
#[derive(Debug)]
pub struct Lasting {
    patience: Duration,
    since: BTreeMap<Unit, Instant>,
    told: BTreeSet<Unit>,
}

/// What is new to tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Of these it has become too long.
    pub lasts: BTreeSet<Unit>,
    /// Of these it was told, and is over.
    pub over: BTreeSet<Unit>,
}

impl Lasting {
    pub const fn new(patience: Duration) -> Self {
        Self { patience, since: BTreeMap::new(), told: BTreeSet::new() }
    }

    /// It is so of these units, at this moment.
    pub fn at(&mut self, units: &BTreeSet<Unit>, now: Instant) -> News {
        self.since.retain(|unit, _| units.contains(unit));
        for unit in units {
            self.since.entry(*unit).or_insert(now);
        }
        let over: BTreeSet<Unit> = self.told.difference(units).copied().collect();
        self.told.retain(|unit| units.contains(unit));
        let too_long = |since: &Instant| now.saturating_duration_since(*since) >= self.patience;
        let lasts = self.since.iter().filter(|(unit, since)| !self.told.contains(unit) && too_long(since));
        let lasts: BTreeSet<Unit> = lasts.map(|(unit, _)| *unit).collect();
        self.told.extend(&lasts);
        News { lasts, over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn shards(shards: impl IntoIterator<Item = Shard>) -> BTreeSet<Unit> {
        shards.into_iter().map(Unit::Projector).collect()
    }

    /// The trap: a worker that starts, fails and starts again makes everything move each time.
    #[test]
    fn one_that_has_only_just_come_or_is_leaving_takes_part_only_when_nobody_else_does() {
        let live = |number, age_s, draining| LiveRow {
            worker_id: id(number),
            internal_url: None,
            capacity: 1,
            sequencer: true,
            projector: true,
            draining,
            age_s,
        };
        let taking_part = |live: &[LiveRow]| members(live).iter().map(|m| m.worker_id.as_u128()).collect::<Vec<_>>();
        let (settled, new, leaving) = (live(1, 60.0, false), live(2, 1.4, false), live(3, 60.0, true));
        assert_eq!(taking_part(&[settled.clone(), new.clone(), leaving.clone()]), [1]);
        assert_eq!(taking_part(&[settled.clone(), live(2, 1.5, false)]), [1, 2]);
        // The first of all, and the successor of one that leaves, do not wait.
        assert_eq!(taking_part(&[new.clone(), live(4, 0.0, false)]), [2, 4]);
        assert_eq!(taking_part(&[new, leaving.clone()]), [2]);
        assert_eq!(taking_part(&[leaving]), []);
    }

    #[test]
    fn shards_are_told_as_ranges() {
        for (told, expected) in [
            (vec![], vec![]),
            (vec![5], vec!["5"]),
            ((0..64).collect(), vec!["0-63"]),
            (vec![0, 1, 3, 7, 8, 9, 63], vec!["0-1", "3", "7-9", "63"]),
        ] {
            assert_eq!(ranges(&shards(told)), expected);
        }
        let mut units = shards([0, 1, 7]);
        assert_eq!(Told(&units).to_string(), "shards 0-1 7");
        units.extend([Unit::Sequencer(1), Unit::Sequencer(3)]);
        assert_eq!(Told(&units).to_string(), "sequencers of ledgers 1 3, shards 0-1 7");
        assert_eq!(Told(&BTreeSet::from([Unit::Sequencer(1)])).to_string(), "sequencers of ledgers 1");
    }

    #[test]
    fn a_move_is_what_another_should_hold_and_unowned_is_what_nobody_holds() {
        let units: Vec<Unit> = [Unit::Sequencer(1)].into_iter().chain((0..5).map(Unit::Projector)).collect();
        let holders = BTreeMap::from([
            (Unit::Sequencer(1), id(1)),
            (Unit::Projector(0), id(1)),
            (Unit::Projector(1), id(1)),
            (Unit::Projector(2), id(1)),
        ]);
        let assigned = BTreeMap::from([
            (Unit::Sequencer(1), id(1)),
            (Unit::Projector(0), id(1)),
            (Unit::Projector(1), id(2)),
            (Unit::Projector(2), id(2)),
            (Unit::Projector(3), id(2)),
        ]);
        let way = |from, to, units| Move { from, to, units };
        assert_eq!(
            moves(&units, &holders, &assigned),
            [way(None, id(2), shards([3])), way(Some(id(1)), id(2), shards([1, 2]))]
        );
        assert_eq!(unowned(&units, &holders), shards([3, 4]));
        assert_eq!(moves(&units, &assigned, &assigned), []);
        // The last one leaves: nobody is there to take anything.
        assert_eq!(moves(&units, &holders, &BTreeMap::new()), []);
    }

    #[test]
    fn what_lasts_is_told_once_and_once_when_it_is_over() {
        let began = Instant::now();
        let mut lasting = Lasting::new(Duration::from_secs(5));
        let mut at =
            |units: &[Shard], seconds| lasting.at(&shards(units.iter().copied()), began + Duration::from_secs(seconds));
        let nothing = News::default();
        assert_eq!(at(&[1, 2], 0), nothing);
        assert_eq!(at(&[1], 4), nothing, "2 was short");
        assert_eq!(at(&[1, 2], 5), News { lasts: shards([1]), ..News::default() });
        assert_eq!(at(&[1, 2], 9), nothing, "1 has been told, and 2 began anew");
        assert_eq!(at(&[1, 2], 10), News { lasts: shards([2]), ..News::default() });
        assert_eq!(at(&[2], 11), News { over: shards([1]), ..News::default() });
        assert_eq!(at(&[], 12), News { over: shards([2]), ..News::default() });
        assert_eq!(at(&[1], 13), nothing);
    }
}
