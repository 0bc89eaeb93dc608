//! The requests of the benchmark: who pays whom, and the bytes of it.
//!
//! Bodies are written with plain byte copies, because the load generator shares the machine with what it measures.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::Shape;

/// The asset of all accounts of the benchmark.
pub(super) const ASSET: &str = "EUR";

/// Whom everybody pays in the shape [`Shape::Hot`].
pub(super) const HOT_ACCOUNT: &str = "merchant:1";

/// Payments are of 1 to this many units, so that a funded wallet lasts for thousands of them.
const AMOUNT_MAX: u32 = 100;

/// The exponent of the Zipf distribution: that of YCSB (Cooper et al., SoCC 2010).
const ZIPF_EXPONENT: f64 = 0.99;

/// How often a second wallet is drawn before its neighbour is taken: with two wallets the rare one comes up in every
/// third draw.
const REDRAWS_MAX: u32 = 8;

/// Who pays whom.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    shape: Shape,
    accounts: u32,
    zipf: Option<Arc<Zipf>>,
}

impl Workload {
    pub(super) fn new(shape: Shape, accounts: u32) -> Workload {
        let zipf = (shape == Shape::Zipf).then(|| Arc::new(Zipf::new(accounts, ZIPF_EXPONENT)));
        Workload { shape, accounts, zipf }
    }

    /// A payer, and a payee that is another wallet, or `None` for the hot account.
    fn draw(&self, rng: &mut SmallRng) -> (u32, Option<u32>) {
        match (self.shape, &self.zipf) {
            (Shape::Hot, _) => (rng.random_range(1..=self.accounts), None),
            (_, Some(zipf)) => {
                let from = zipf.draw(rng);
                let to = (0..REDRAWS_MAX).map(|_| zipf.draw(rng)).find(|to| *to != from);
                (from, Some(to.unwrap_or(from % self.accounts + 1)))
            }
            (_, None) => {
                let from = rng.random_range(1..=self.accounts);
                let to = rng.random_range(1..self.accounts);
                (from, Some(to + u32::from(to >= from)))
            }
        }
    }
}

/// Ranks 1 to n, rank k with a probability proportional to 1 / k^s.
///
/// Drawn in constant time from Walker's alias table, in the form of Vose (IEEE Transactions on Software Engineering,
/// 1991): each slot keeps its own rank with some probability and otherwise gives its alias.
#[derive(Debug)]
pub(super) struct Zipf {
    slots: Vec<AliasSlot>,
}

#[derive(Debug, Clone, Copy)]
struct AliasSlot {
    keep: f64,
    alias: u32,
}

impl Zipf {
    pub(super) fn new(ranks: u32, exponent: f64) -> Zipf {
        assert!(ranks > 0, "a distribution over nothing");
        let weights: Vec<f64> = (1..=ranks).map(|rank| f64::from(rank).powf(-exponent)).collect();
        let mean = weights.iter().sum::<f64>() / f64::from(ranks);
        let mut slots: Vec<AliasSlot> =
            weights.iter().zip(0..).map(|(weight, index)| AliasSlot { keep: weight / mean, alias: index }).collect();

        let (mut poor, mut rich): (Vec<usize>, Vec<usize>) = (0..slots.len()).partition(|&slot| slots[slot].keep < 1.0);
        while let (Some(&giver), Some(receiver)) = (rich.last(), poor.pop()) {
            slots[receiver].alias = giver as u32;
            slots[giver].keep -= 1.0 - slots[receiver].keep;
            if slots[giver].keep < 1.0 {
                rich.pop();
                poor.push(giver);
            }
        }
        // What is left over differs from 1 by rounding only.
        for slot in poor.into_iter().chain(rich) {
            slots[slot].keep = 1.0;
        }
        Zipf { slots }
    }

    pub(super) fn draw(&self, rng: &mut SmallRng) -> u32 {
        let index = rng.random_range(0..self.slots.len() as u32);
        let slot = self.slots[index as usize];
        let rank = if rng.random::<f64>() < slot.keep { index } else { slot.alias };
        rank + 1
    }
}

/// Makes the requests of one connection. No two generators of any run make the same idempotency key.
pub(super) struct Generator {
    workload: Workload,
    batch: u32,
    rng: SmallRng,
    key_prefix: String,
    payments: u64,
    buffer: BytesMut,
}

/// A request that is ready to be sent.
pub(super) struct PreparedRequest {
    /// For the header; a batch has a key in each of its items instead.
    pub(super) key: Option<String>,
    pub(super) body: Bytes,
}

impl Generator {
    /// `run` is a number that no other run has.
    pub(super) fn new(workload: Workload, batch: u32, run: u64, connection: u16) -> Generator {
        Generator {
            workload,
            batch,
            rng: SmallRng::seed_from_u64(run ^ (u64::from(connection) << 48)),
            key_prefix: format!("{run:016x}-{connection:x}-"),
            payments: 0,
            buffer: BytesMut::new(),
        }
    }

    pub(super) fn next_request(&mut self) -> PreparedRequest {
        if self.batch == 1 {
            self.payments += 1;
            let mut number = itoa::Buffer::new();
            let digits = number.format(self.payments);
            let mut key = String::with_capacity(self.key_prefix.len() + digits.len());
            key.push_str(&self.key_prefix);
            key.push_str(digits);
            self.push(b"{");
            self.push_payment();
            return PreparedRequest { key: Some(key), body: self.take_body() };
        }
        self.push(br#"{"payments":["#);
        for item in 0..self.batch {
            self.payments += 1;
            self.push(if item == 0 { br#"{"idempotency_key":""#.as_slice() } else { br#",{"idempotency_key":""# });
            self.buffer.extend_from_slice(self.key_prefix.as_bytes());
            self.push_number(self.payments);
            self.push(br#"","#);
            self.push_payment();
        }
        self.push(b"]}");
        PreparedRequest { key: None, body: self.take_body() }
    }

    /// The members of a payment and the closing brace.
    fn push_payment(&mut self) {
        let (from, to) = self.workload.draw(&mut self.rng);
        let amount = self.rng.random_range(1..=AMOUNT_MAX);
        self.push(br#""from":"wallet:"#);
        self.push_number(from.into());
        self.push(br#"","to":""#);
        match to {
            Some(to) => {
                self.push(b"wallet:");
                self.push_number(to.into());
            }
            None => self.push(HOT_ACCOUNT.as_bytes()),
        }
        self.push(br#"","amount":""#);
        self.push_number(amount.into());
        self.push(br#"","asset":""#);
        self.push(ASSET.as_bytes());
        self.push(br#"","reference":"inv-"#);
        self.push_number(self.payments);
        self.push(br#""}"#);
    }

    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    fn push_number(&mut self, number: u64) {
        let mut digits = itoa::Buffer::new();
        self.buffer.extend_from_slice(digits.format(number).as_bytes());
    }

    /// The body, split off: the buffer's memory is used again once the body has been sent.
    fn take_body(&mut self) -> Bytes {
        let body = self.buffer.split().freeze();
        self.buffer.reserve(body.len() + body.len() / 8);
        body
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn zipf_draws_ranks_in_proportion() {
        const RANKS: u32 = 1_000;
        const DRAWS: u32 = 400_000;
        let zipf = Zipf::new(RANKS, ZIPF_EXPONENT);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut counts = vec![0_u32; RANKS as usize + 1];
        for _ in 0..DRAWS {
            counts[zipf.draw(&mut rng) as usize] += 1;
        }
        assert_eq!(counts[0], 0, "ranks begin at 1");
        let total: f64 = (1..=RANKS).map(|rank| f64::from(rank).powf(-ZIPF_EXPONENT)).sum();
        for rank in [1, 2, 3, 10, 50, 200] {
            let expected = f64::from(DRAWS) * f64::from(rank).powf(-ZIPF_EXPONENT) / total;
            let drawn = f64::from(counts[rank as usize]);
            // Five standard deviations of a Poisson count.
            assert!(
                (drawn - expected).abs() < 5.0 * expected.sqrt(),
                "rank {rank}: {drawn} drawn, {expected} expected"
            );
        }
    }

    #[test]
    fn the_alias_table_gives_each_rank_its_weight() {
        for ranks in [1, 2, 7, 500] {
            let zipf = Zipf::new(ranks, ZIPF_EXPONENT);
            let mut mass = vec![0.0; ranks as usize];
            for (index, slot) in zipf.slots.iter().enumerate() {
                mass[index] += slot.keep;
                mass[slot.alias as usize] += 1.0 - slot.keep;
            }
            for rank in 1..=ranks {
                let expected = mass[0] * f64::from(rank).powf(-ZIPF_EXPONENT);
                assert!((mass[rank as usize - 1] - expected).abs() < 1e-6, "rank {rank} of {ranks}");
            }
        }
    }

    #[test]
    fn nobody_pays_himself_and_all_take_part() {
        for shape in [Shape::Uniform, Shape::Zipf] {
            for accounts in [2, 3, 50] {
                let workload = Workload::new(shape, accounts);
                let mut rng = SmallRng::seed_from_u64(7);
                let mut seen = HashSet::new();
                for _ in 0..5_000 {
                    let (from, to) = workload.draw(&mut rng);
                    let to = to.expect("only the hot shape has a merchant");
                    assert_ne!(from, to);
                    for wallet in [from, to] {
                        assert!((1..=accounts).contains(&wallet));
                        seen.insert(wallet);
                    }
                }
                assert_eq!(seen.len(), accounts as usize, "{shape:?}");
            }
        }
    }

    #[test]
    fn a_single_payment_is_the_json_of_the_api() {
        let mut generator = Generator::new(Workload::new(Shape::Hot, 10), 1, 0xabc, 17);
        let request = generator.next_request();
        assert_eq!(request.key.as_deref(), Some("0000000000000abc-11-1"));
        let payment: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(payment["to"], HOT_ACCOUNT);
        assert_eq!(payment["asset"], "EUR");
        assert_eq!(payment["reference"], "inv-1");
        assert!(payment["from"].as_str().unwrap().starts_with("wallet:"));
        assert!((1..=100).contains(&payment["amount"].as_str().unwrap().parse::<u32>().unwrap()));
        assert_eq!(generator.next_request().key.as_deref(), Some("0000000000000abc-11-2"));
    }

    #[test]
    fn the_keys_of_batches_are_unique() {
        let mut keys = HashSet::new();
        for connection in [1, 17] {
            let mut generator = Generator::new(Workload::new(Shape::Uniform, 10), 3, 0xabc, connection);
            for _ in 0..2 {
                let request = generator.next_request();
                assert_eq!(request.key, None);
                let body: Value = serde_json::from_slice(&request.body).unwrap();
                for payment in body["payments"].as_array().unwrap() {
                    assert!(keys.insert(payment["idempotency_key"].as_str().unwrap().to_owned()));
                }
            }
        }
        assert_eq!(keys.len(), 12);
    }
}
