//! The rules of a ledger, found by their keys, and account types by what begins
//! with their prefix.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::ledger::event::Position;
use crate::ledger::name::AccountCode;
use crate::ledger::rule::{AccountType, Rule, RuleKey, Scope, VelocityLimit};

type ByName = BTreeMap<Arc<str>, (Rule, Position)>;

/// At most [`crate::ledger::rule::RULES_MAX`] of each sort, with the position of the
/// event that set each.
#[derive(Debug, Default)]
pub(super) struct Rules {
    account_types: ByName,
    velocity_limits: ByName,
    /// The velocity limits of single accounts and those of prefixes, in the order in
    /// which they were set.
    on_account: HashMap<Arc<str>, Vec<(VelocityLimit, Position)>>,
    on_prefix: Vec<(VelocityLimit, Position)>,
    /// There is, or was, a velocity limit: that one was removed may be taken back.
    had_velocity_limits: bool,
}

impl Rules {
    pub fn iter(&self) -> impl Iterator<Item = (&Rule, Position)> {
        self.account_types.values().chain(self.velocity_limits.values()).map(|(rule, position)| (rule, *position))
    }

    pub fn get(&self, key: &RuleKey) -> Option<&(Rule, Position)> {
        match key {
            RuleKey::AccountType(prefix) => self.account_types.get(prefix),
            RuleKey::VelocityLimit(name) => self.velocity_limits.get(name),
        }
    }

    pub fn of_its_sort(&self, key: &RuleKey) -> usize {
        match key {
            RuleKey::AccountType(_) => self.account_types.len(),
            RuleKey::VelocityLimit(_) => self.velocity_limits.len(),
        }
    }

    /// Sets a rule or, with `None`, removes it; gives back what there was.
    pub fn put(&mut self, key: &RuleKey, rule: Option<(Rule, Position)>) -> Option<(Rule, Position)> {
        let (rules, name) = match key {
            RuleKey::AccountType(prefix) => (&mut self.account_types, prefix),
            RuleKey::VelocityLimit(name) => (&mut self.velocity_limits, name),
        };
        let before = match rule {
            Some(rule) => rules.insert(Arc::clone(name), rule),
            None => rules.remove(name),
        };
        if matches!(key, RuleKey::VelocityLimit(_)) {
            self.arrange();
            self.had_velocity_limits |= self.has_velocity_limits();
        }
        before
    }

    pub fn had_velocity_limits(&self) -> bool {
        self.had_velocity_limits
    }

    pub fn has_velocity_limits(&self) -> bool {
        !self.velocity_limits.is_empty()
    }

    /// The limits that may cover an account: all on itself, and those on prefixes,
    /// which have still to be asked; each sort in the order in which they were set.
    pub fn velocity_limits(&self, code: &AccountCode) -> impl Iterator<Item = (&VelocityLimit, Position)> {
        let own = self.on_account.get(code.as_str()).map_or(&[] as &[_], Vec::as_slice);
        own.iter().chain(&self.on_prefix).map(|(limit, position)| (limit, *position))
    }

    /// Sorts the velocity limits by what they are about, anew: they change seldom.
    fn arrange(&mut self) {
        self.on_account.clear();
        self.on_prefix.clear();
        let mut limits: Vec<&(Rule, Position)> = self.velocity_limits.values().collect();
        limits.sort_unstable_by_key(|(_, position)| *position);
        for (rule, position) in limits {
            let Rule::VelocityLimit(limit) = rule else { continue };
            let entry = (limit.clone(), *position);
            match &limit.scope {
                Scope::Account(code) => self.on_account.entry(Arc::clone(code)).or_default().push(entry),
                Scope::Prefix(_) => self.on_prefix.push(entry),
            }
        }
    }

    /// All prefixes of a code sort before it or with it, longer ones later. So the
    /// last one up to it is the longest, unless another name is between; then the
    /// search goes on from what that name and the code have in common.
    pub fn account_type(&self, code: &AccountCode) -> Option<&AccountType> {
        let mut from = code.as_str();
        loop {
            let up_to = (Bound::Unbounded, Bound::Included(from));
            let (prefix, (rule, _)) = self.account_types.range::<str, _>(up_to).next_back()?;
            let common = from.bytes().zip(prefix.bytes()).take_while(|(a, b)| a == b).count();
            if common == prefix.len() {
                let Rule::AccountType(rule) = rule else { return None };
                return Some(rule);
            }
            from = &from[..common];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::account::Limits;
    use crate::ledger::transaction::Side;

    proptest! {
        #[test]
        fn the_longest_prefix_counts(prefixes in proptest::collection::vec("[ab:]{1,5}", 0..12), code in "[ab:]{1,7}") {
            let mut rules = Rules::default();
            for prefix in &prefixes {
                let prefix: Arc<str> = Arc::from(prefix.as_str());
                let rule = AccountType { prefix, normal: Side::Credit, limits: Limits::default() };
                let rule = Rule::AccountType(rule);
                rules.put(&rule.key(), Some((rule, 1)));
            }
            let code = AccountCode::new(&code).unwrap();
            let found = rules.account_type(&code).map(|rule| rule.prefix.to_string());
            let longest = prefixes.into_iter().filter(|prefix| code.as_str().starts_with(prefix)).max_by_key(String::len);
            prop_assert_eq!(found, longest);
        }
    }
}
