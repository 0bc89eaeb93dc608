//! Who should hold what: a pure function of who lives and who holds it now.
//!
//! Every worker computes it for itself from the same rows and reconciles what it
//! holds with what it should, so there is no leader and nothing to agree on.
//! Sequencers and shards are shared out apart from each other, because they
//! cost different things.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::store::claims::Unit;

/// A worker that lives and does not drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub worker_id: Uuid,
    /// Its weight against the others; at least 1.
    pub capacity: u32,
    /// Whether it takes sequencers.
    pub sequencer: bool,
    /// Whether it takes shards.
    pub projector: bool,
}

/// The worker that should hold each unit; a unit that nobody may take is left out.
///
/// Quotas are the members' weighted shares, rounded down or up, so they differ
/// by at most one between equals. A holder keeps what it has up to its quota,
/// and what is left goes to those that have too little: the fewest moves. The
/// order of `members` and `units` does not matter.
pub fn assign(members: &[Member], holders: &BTreeMap<Unit, Uuid>, units: &[Unit]) -> BTreeMap<Unit, Uuid> {
    let (sequencers, shards): (Vec<Unit>, Vec<Unit>) =
        units.iter().partition(|unit| matches!(unit, Unit::Sequencer(_)));
    let mut assigned = share(members.iter().filter(|member| member.sequencer), holders, sequencers);
    assigned.extend(share(members.iter().filter(|member| member.projector), holders, shards));
    assigned
}

fn share<'a>(
    members: impl Iterator<Item = &'a Member>,
    holders: &BTreeMap<Unit, Uuid>,
    units: Vec<Unit>,
) -> BTreeMap<Unit, Uuid> {
    let members: BTreeMap<Uuid, u64> =
        members.map(|member| (member.worker_id, u64::from(member.capacity.max(1)))).collect();
    let units: BTreeSet<Unit> = units.into_iter().collect();
    let mut held: BTreeMap<Uuid, Vec<Unit>> = members.keys().map(|id| (*id, Vec::new())).collect();
    let mut free = Vec::new();
    for unit in units.iter().copied() {
        match holders.get(&unit).and_then(|holder| held.get_mut(holder)) {
            Some(mine) => mine.push(unit),
            None => free.push(unit),
        }
    }
    let quotas = quotas(&members, units.len(), |id| held.get(id).map_or(0, Vec::len));
    for (id, mine) in &mut held {
        let quota = quotas.get(id).copied().unwrap_or(0);
        free.extend(mine.drain(quota.min(mine.len())..));
    }
    free.sort_unstable();
    let mut free = free.into_iter();
    for (id, mine) in &mut held {
        let quota = quotas.get(id).copied().unwrap_or(0);
        mine.extend(free.by_ref().take(quota.saturating_sub(mine.len())));
    }
    held.into_iter().flat_map(|(id, mine)| mine.into_iter().map(move |unit| (unit, id))).collect()
}

/// How many units each member may hold. They add up to `units`. Of those whose
/// share is not whole, the ones that hold more than it get the unit that is
/// left over, so that it need not move.
fn quotas(members: &BTreeMap<Uuid, u64>, units: usize, held: impl Fn(&Uuid) -> usize) -> BTreeMap<Uuid, usize> {
    let total: u64 = members.values().sum();
    if total == 0 {
        return BTreeMap::new();
    }
    let product = |capacity: u64| u128::from(capacity) * units as u128;
    let mut quotas: BTreeMap<Uuid, usize> =
        members.iter().map(|(id, capacity)| (*id, (product(*capacity) / u128::from(total)) as usize)).collect();
    let mut left = units - quotas.values().sum::<usize>();
    let mut candidates: Vec<_> = members
        .iter()
        .map(|(id, capacity)| (id, product(*capacity) % u128::from(total)))
        .filter(|(_, remainder)| *remainder > 0)
        .map(|(id, remainder)| {
            let keeps = held(id) > quotas.get(id).copied().unwrap_or(0);
            (std::cmp::Reverse((keeps, remainder)), *id)
        })
        .collect();
    candidates.sort_unstable();
    for (_, id) in candidates {
        if left == 0 {
            break;
        }
        if let Some(quota) = quotas.get_mut(&id) {
            *quota += 1;
            left -= 1;
        }
    }
    quotas
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    fn id(number: u8) -> Uuid {
        Uuid::from_u128(u128::from(number))
    }

    fn members() -> impl Strategy<Value = Vec<Member>> {
        btree_map(1_u8..9, (1_u32..5, any::<bool>(), any::<bool>()), 0..6).prop_map(|members| {
            let member = |(number, (capacity, sequencer, projector))| Member {
                worker_id: id(number),
                capacity,
                sequencer,
                projector,
            };
            members.into_iter().map(member).collect()
        })
    }

    fn units() -> Vec<Unit> {
        (1..4).map(Unit::Sequencer).chain((0..64).map(Unit::Projector)).collect()
    }

    fn holders() -> impl Strategy<Value = BTreeMap<Unit, Uuid>> {
        vec(0_u8..12, units().len()).prop_map(|holders| units().into_iter().zip(holders.into_iter().map(id)).collect())
    }

    fn of<'a>(assigned: &'a BTreeMap<Unit, Uuid>, worker_id: Uuid) -> impl Iterator<Item = Unit> + 'a {
        assigned.iter().filter(move |(_, holder)| **holder == worker_id).map(|(unit, _)| *unit)
    }

    fn is_shard(unit: &Unit) -> bool {
        matches!(unit, Unit::Projector(_))
    }

    proptest! {
        #[test]
        fn every_unit_has_one_holder_that_may_hold_it(members in members(), holders in holders()) {
            let assigned = assign(&members, &holders, &units());
            for unit in units() {
                let takers: Vec<_> = members.iter().filter(|m| if is_shard(&unit) { m.projector } else { m.sequencer }).collect();
                match assigned.get(&unit) {
                    Some(holder) => prop_assert!(takers.iter().any(|member| member.worker_id == *holder)),
                    None => prop_assert!(takers.is_empty()),
                }
            }
        }

        #[test]
        fn shares_are_the_weights_to_within_one(members in members(), holders in holders()) {
            let assigned = assign(&members, &holders, &units());
            let total: u32 = members.iter().filter(|member| member.projector).map(|member| member.capacity).sum();
            for member in members.iter().filter(|member| member.projector) {
                let share = 64.0 * f64::from(member.capacity) / f64::from(total);
                let has = of(&assigned, member.worker_id).filter(is_shard).count() as f64;
                prop_assert!((has - share).abs() < 1.0, "{has} of {share}");
            }
        }

        #[test]
        fn all_workers_come_to_the_same(members in members(), holders in holders()) {
            let mut reversed = members.clone();
            reversed.reverse();
            let mut units_reversed = units();
            units_reversed.reverse();
            prop_assert_eq!(assign(&members, &holders, &units()), assign(&reversed, &holders, &units_reversed));
        }

        /// What it says is settled: nothing moves again.
        #[test]
        fn an_assignment_that_is_reached_stays(members in members(), holders in holders()) {
            let assigned = assign(&members, &holders, &units());
            prop_assert_eq!(&assign(&members, &assigned, &units()), &assigned);
        }

        /// No holder gives up a unit while it ends with fewer than it had, but
        /// for what it is over its own share.
        #[test]
        fn only_what_is_over_a_share_moves(members in members(), holders in holders()) {
            let assigned = assign(&members, &holders, &units());
            for member in &members {
                let before: BTreeSet<Unit> = holders.iter().filter(|(_, holder)| **holder == member.worker_id).map(|(unit, _)| *unit).filter(is_shard).collect();
                let after: BTreeSet<Unit> = of(&assigned, member.worker_id).filter(is_shard).collect();
                let lost = before.difference(&after).count();
                let gained = after.difference(&before).count();
                prop_assert!(!member.projector || lost == 0 || gained == 0, "lost {} and gained {}", lost, gained);
            }
        }

        /// A join and a leave move one share, not more.
        #[test]
        fn a_join_moves_one_share_and_a_leave_too(count in 1_u8..8) {
            let all: Vec<Member> = (1..=count + 1)
                .map(|number| Member { worker_id: id(number), capacity: 1, sequencer: true, projector: true })
                .collect();
            let few = &all[..usize::from(count)];
            let before = assign(few, &BTreeMap::new(), &units());
            let joined = assign(&all, &before, &units());
            let moved = before.iter().filter(|(unit, holder)| is_shard(unit) && joined[*unit] != **holder).count();
            prop_assert!(moved <= 64_usize.div_ceil(usize::from(count) + 1));
            let left = assign(few, &joined, &units());
            let moved = joined.iter().filter(|(unit, holder)| is_shard(unit) && left[*unit] != **holder).count();
            prop_assert_eq!(moved, of(&joined, id(count + 1)).filter(is_shard).count());
        }
    }
}
