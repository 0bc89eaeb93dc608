//! A check that cannot fail is none: each rule is shown a history that breaks it.

use std::time::Instant;

use super::*;

/// Writes a log and what clients asked and were told, as a right ledger would,
/// with one event in a second.
struct Story {
    rows: Vec<Row>,
    asked: BTreeMap<String, Asked>,
    freezes: BTreeMap<String, FreezeAsked>,
    totals: BTreeMap<&'static str, Totals>,
    /// Seconds since the beginning.
    now: i64,
}

fn moment(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

fn id(key: &str) -> String {
    format!("id of {key}")
}

impl Story {
    /// Two accounts, of which `a` has a floor of 0 and is given 100.
    fn begin() -> Self {
        let (asked, freezes, totals) = Default::default();
        let mut story = Self { rows: Vec::new(), asked, freezes, totals, now: 0 };
        story.event("account_opened", None, None, json!({"account": "bank", "normal": "credit"}));
        let opened = json!({"account": "a", "normal": "credit", "min_balance": "0"});
        story.event("account_opened", None, None, opened);
        story.pay("fund", "bank", "a", 100);
        story
    }

    fn event(&mut self, type_name: &str, key: Option<&str>, id: Option<String>, payload: Value) -> &mut Row {
        self.now += 1;
        let position = self.rows.len() as i64 + 1;
        self.rows.push(Row {
            position,
            epoch: 1 + position / 3,
            recorded_at: moment(self.now),
            effective_at: moment(self.now),
            type_name: type_name.to_owned(),
            transaction_id: id,
            idempotency_key: key.map(str::to_owned),
            payload: payload.to_string(),
        });
        self.rows.last_mut().unwrap()
    }

    fn ask(&mut self, key: &str, wish: Wish, status: u16, id: String, mut body: Value) {
        body["position"] = json!(self.rows.len());
        let mut asked = Asked::now(wish, false);
        asked.answer = Some(Answer { status, transaction: Some(id), body });
        asked.answered = Some(Instant::now());
        self.asked.insert(key.to_owned(), asked);
    }

    /// Moves from one account to the other, or pending amounts alone, and gives the
    /// legs with what they leave behind, and that as balances of an answer.
    fn legs(&mut self, from: &'static str, to: &'static str, amount: i64, posted: i64, pending: i64) -> (Value, Value) {
        let mut balances = json!({});
        let mut leg = |account: &'static str, side: &str| {
            let totals = self.totals.entry(account).or_default();
            let debit = side == "debit";
            *(if debit { &mut totals.debits } else { &mut totals.credits }) += i128::from(posted);
            *(if debit { &mut totals.debits_pending } else { &mut totals.credits_pending }) += i128::from(pending);
            totals.version += u64::from(posted > 0);
            let mut leg = stated_leg(account, side, amount);
            leg["debits"] = json!(totals.debits.to_string());
            leg["credits"] = json!(totals.credits.to_string());
            leg["version"] = json!(totals.version);
            for (name, pending) in
                [("debits_pending", totals.debits_pending), ("credits_pending", totals.credits_pending)]
            {
                if pending > 0 {
                    leg[name] = json!(pending.to_string());
                }
            }
            balances[account] = json!({
                "version": totals.version,
                "posted": totals.posted().to_string(),
                "available": totals.available().to_string(),
                "pending_in": totals.credits_pending.to_string(),
                "pending_out": totals.debits_pending.to_string(),
            });
            leg
        };
        (json!([leg(from, "debit"), leg(to, "credit")]), balances)
    }

    fn pay(&mut self, key: &str, from: &'static str, to: &'static str, amount: u32) {
        let (legs, balances) = self.legs(from, to, amount.into(), amount.into(), 0);
        let payload = json!({"kind": "payment", "legs": legs});
        self.event("transaction_posted", Some(key), Some(id(key)), payload);
        let told = json!({"type": "payment", "status": "posted", "balances": balances});
        self.ask(key, Wish::pay(from, to, amount), 201, id(key), told);
    }

    /// A wish that is declined, with legs from `a` to the bank, or mirrored.
    fn decline(&mut self, key: &str, wish: Wish, amount: i64, reason: Value) {
        let kind = match wish {
            Wish::Capture { .. } => "capture",
            Wish::Void { .. } => "void",
            Wish::Reverse { .. } => "reversal",
            _ => "payment",
        };
        let sides = if kind == "reversal" { ["credit", "debit"] } else { ["debit", "credit"] };
        let legs = [stated_leg("a", sides[0], amount), stated_leg("bank", sides[1], amount)];
        let mut payload = json!({"kind": kind, "legs": legs, "rejection": reason});
        if let Some(subject) = subject(&wish) {
            payload["subject_id"] = json!(subject);
        }
        self.event("transaction_rejected", Some(key), Some(id(key)), payload);
        self.ask(key, wish, 422, id(key), json!({"code": reason["code"]}));
    }

    /// From `a` to the bank.
    fn authorise(&mut self, key: &str, amount: u32, expires_in_s: Option<u32>) {
        let (legs, balances) = self.legs("a", "bank", amount.into(), 0, amount.into());
        let expires_at = expires_in_s.map(|seconds| time(moment(self.now + 1 + i64::from(seconds))));
        let payload = json!({"kind": "payment", "legs": legs, "expires_at": expires_at});
        self.event("transaction_authorised", Some(key), Some(id(key)), payload);
        let told = json!({"status": "authorised", "amount": amount.to_string(), "captured": "0",
                          "remaining": amount.to_string(), "expires_at": expires_at, "balances": balances});
        let (from, to) = ("a".to_owned(), "bank".to_owned());
        let wish = Wish::Authorise { from, to, amount: amount.into(), expires_in_s };
        self.ask(key, wish, 201, id(key), told);
    }

    /// The position of what began under a key.
    fn position(&self, key: &str) -> i64 {
        self.rows.iter().find(|row| row.idempotency_key.as_deref() == Some(key)).unwrap().position
    }

    /// The first capture of a hold, which leaves so much, and gives back so much.
    fn capture(&mut self, key: &str, hold: &str, amount: i64, remaining: i64, released: i64) {
        let (legs, balances) = self.legs("a", "bank", amount, amount, -amount - released);
        let hold_then = json!({"id": id(hold), "position": self.position(hold),
                               "captured": amount.to_string(), "remaining": remaining.to_string()});
        let payload = json!({"kind": "capture", "legs": legs, "hold": hold_then});
        self.event("transaction_posted", Some(key), Some(id(key)), payload);
        let status = if remaining > 0 { "authorised" } else { "captured" };
        let payment = json!({"id": id(hold), "status": status, "captured": amount.to_string(),
                             "remaining": remaining.to_string()});
        let told = json!({"type": "capture", "amount": amount.to_string(), "payment": payment, "balances": balances});
        self.ask(key, capture(hold, amount, released > 0), 201, id(key), told);
    }

    /// Voids what remains of a hold, or lets it expire if there is no key.
    fn release(&mut self, key: Option<&str>, hold: &str, captured: i64, remaining: i64) -> &mut Row {
        let (legs, balances) = self.legs("a", "bank", remaining, 0, -remaining);
        let hold_then = json!({"id": id(hold), "position": self.position(hold), "captured": captured.to_string()});
        let payload = json!({"legs": legs, "hold": hold_then});
        let type_name = if key.is_some() { "hold_voided" } else { "hold_expired" };
        self.event(type_name, key, Some(id(hold)), payload);
        if let Some(key) = key {
            let told = json!({"status": "voided", "captured": captured.to_string(), "released": remaining.to_string(),
                              "balances": balances});
            self.ask(key, Wish::Void { hold: id(hold) }, 200, id(hold), told);
        }
        self.rows.last_mut().unwrap()
    }

    /// Reverses a payment of `a` to the bank, of which so much is left.
    fn reverse(&mut self, key: &str, transaction: &str, amount: i64, left: i64) {
        let (legs, balances) = self.legs("bank", "a", amount, amount, 0);
        let remaining = [left.to_string(), left.to_string()];
        let payload = json!({"kind": "reversal", "legs": [legs[1], legs[0]],
                             "reversal": {"transaction_id": id(transaction), "remaining": remaining}});
        self.event("transaction_posted", Some(key), Some(id(key)), payload);
        let told = json!({"type": "reversal", "reverses": {"id": id(transaction), "remaining": remaining},
                          "balances": balances});
        self.ask(key, reversal(transaction, amount), 201, id(key), told);
    }

    /// A payment of `a` to the bank that waits for so many seconds.
    fn schedule(&mut self, key: &str, amount: u32, wait: i64) {
        let at = moment(self.now + 1 + wait);
        let legs = [stated_leg("a", "debit", amount.into()), stated_leg("bank", "credit", amount.into())];
        let payload = json!({"kind": "payment", "legs": legs, "effective_at": time(at)});
        self.event("transaction_scheduled", Some(key), Some(id(key)), payload).effective_at = at;
        let (from, to) = ("a".to_owned(), "bank".to_owned());
        let wish = Wish::Pay { from, to, amount: amount.into(), effective_at: Some(at) };
        self.ask(key, wish, 201, id(key), json!({"status": "scheduled"}));
    }

    fn post_scheduled(&mut self, key: &str, amount: i64) -> &mut Row {
        let (legs, _) = self.legs("a", "bank", amount, amount, 0);
        let position = self.position(key);
        let effective_at = self.rows[position as usize - 1].effective_at;
        let payload = json!({"kind": "payment", "legs": legs, "scheduled_position": position});
        let row = self.event("transaction_posted", None, Some(id(key)), payload);
        row.effective_at = effective_at;
        row
    }

    fn cancel(&mut self, key: &str, schedule: &str) {
        let payload = json!({"account": "a", "account_id": 2, "transaction_id": id(schedule),
                             "scheduled_position": self.position(schedule)});
        self.event("schedule_cancelled", Some(key), Some(id(schedule)), payload);
        self.ask(key, Wish::Cancel { schedule: id(schedule) }, 200, id(schedule), json!({"status": "cancelled"}));
    }

    /// Freezes `a`, or ends that.
    fn freeze(&mut self, scope: Option<Scope>, reason: &str) {
        let mut payload = json!({"account": "a", "account_id": 2, "min_balance": "0", "reason": reason});
        if let Some(scope) = scope {
            payload["freeze"] = json!({"scope": scope.as_str(), "reason": reason});
        }
        self.event(if scope.is_some() { "account_frozen" } else { "account_unfrozen" }, None, None, payload);
        let now = Instant::now();
        let asked = FreezeAsked { account: "a".to_owned(), scope, called: now, answered: Some(now) };
        self.freezes.insert(reason.to_owned(), asked);
    }

    fn follow(&self) -> Result<Log, Finding> {
        Log::follow(&self.rows, Requests { asked: &self.asked, freezes: &self.freezes })
    }

    /// Which rule it breaks.
    fn broken(&self) -> Option<Rule> {
        self.follow().err().map(|finding| finding.rule)
    }

    fn answer(&mut self, key: &str) -> &mut Answer {
        self.asked.get_mut(key).unwrap().answer.as_mut().unwrap()
    }

    /// Changes the payload of the last event, or of the one under a key.
    fn replace(&mut self, key: Option<&str>, from: &str, to: &str) {
        let position = key.map_or(self.rows.len() as i64, |key| self.position(key));
        let payload = &mut self.rows[position as usize - 1].payload;
        assert!(payload.contains(from), "{from} in {payload}");
        *payload = payload.replace(from, to);
    }
}

fn stated_leg(account: &str, side: &str, amount: i64) -> Value {
    let account_id = if account == "a" { 2 } else { 1 };
    json!({"account": account, "account_id": account_id, "side": side, "amount": amount.to_string()})
}

fn capture(hold: &str, amount: i64, last: bool) -> Wish {
    Wish::Capture { hold: id(hold), amount: Some(amount.into()), last }
}

fn reversal(transaction: &str, amount: i64) -> Wish {
    Wish::Reverse { transaction: id(transaction), amount: Some(amount.into()), force: false }
}

fn insufficient(available: i64, would_be: i64) -> Value {
    json!({"code": "insufficient_funds", "account": "a", "available": available.to_string(),
           "would_be": would_be.to_string(), "min_balance": "0"})
}

fn not_open(state: &str) -> Value {
    json!({"code": "hold_not_open", "account": "a", "state": state})
}

/// `a` pays 30, and then cannot pay 80.
fn history() -> Story {
    let mut story = Story::begin();
    story.pay("pay", "a", "bank", 30);
    story.decline("decline", Wish::pay("a", "bank", 80), 80, insufficient(70, -10));
    story
}

/// Each change to the last event of a right history breaks the rule.
fn each_breaks<const N: usize>(rule: Rule, tell: impl Fn() -> Story, changes: [(&str, &str); N]) {
    assert_eq!(tell().broken(), None);
    for (from, to) in changes {
        let mut story = tell();
        story.replace(None, from, to);
        assert_eq!(story.broken(), Some(rule), "{from} to {to}");
    }
}

#[test]
fn a_right_history_passes() {
    let mut story = history();
    assert_eq!(story.broken(), None);
    // What was not answered may be in the log, or not.
    story.asked.get_mut("pay").unwrap().answer = None;
    assert_eq!(story.broken(), None);
    story.asked.insert("never".to_owned(), Asked::now(Wish::pay("a", "bank", 1), false));
    assert_eq!(story.broken(), None);
}

#[test]
fn positions_are_contiguous_epochs_rise_and_time_does_not_run_backwards() {
    let mut story = history();
    story.rows.remove(2);
    assert_eq!(story.broken(), Some(Rule::Positions));
    let mut story = history();
    story.rows[4].epoch = 1;
    assert_eq!(story.broken(), Some(Rule::Epochs));
    let mut story = history();
    story.rows[4].recorded_at = story.rows[2].recorded_at;
    assert_eq!(story.broken(), Some(Rule::Time));
}

#[test]
fn what_was_acknowledged_is_in_the_log_exactly_once() {
    let mut story = history();
    story.rows.pop();
    assert_eq!(story.broken(), Some(Rule::ExactlyOnce));
    let mut story = history();
    story.rows[4] = Row { position: 5, recorded_at: story.rows[4].recorded_at, ..story.rows[3].clone() };
    assert_eq!(story.broken(), Some(Rule::ExactlyOnce));
    let mut story = history();
    story.asked.remove("pay");
    assert_eq!(story.broken(), Some(Rule::Requests));
    let mut story = history();
    story.asked.get_mut("pay").unwrap().wish = Wish::pay("a", "bank", 31);
    assert_eq!(story.broken(), Some(Rule::Requests));
    let mut story = history();
    story.event("asset_defined", None, None, json!({"asset": "X", "scale": 2}));
    assert_eq!(story.broken(), Some(Rule::Requests));
}

#[test]
fn answers_are_what_the_log_says() {
    for change in [
        (|answer: &mut Answer| answer.status = 422) as fn(&mut Answer),
        |answer| answer.transaction = Some("another".to_owned()),
        |answer| answer.body["position"] = json!(5),
        |answer| answer.body["status"] = json!("scheduled"),
        |answer| answer.body["balances"]["a"]["version"] = json!(3),
        |answer| answer.body["balances"]["a"]["available"] = json!("71"),
        |answer| answer.body["balances"]["a"]["pending_out"] = json!("1"),
        |answer| answer.body["balances"]["bank"]["posted"] = json!("-71"),
    ] {
        let mut story = history();
        change(story.answer("pay"));
        assert_eq!(story.broken(), Some(Rule::Answers));
    }
    let mut story = history();
    story.answer("decline").body["code"] = json!("account_frozen");
    assert_eq!(story.broken(), Some(Rule::Answers));
    // Nothing else than a cancellation may be refused without a record.
    let mut story = Story::begin();
    story.ask("late", Wish::pay("a", "bank", 1), 422, String::new(), json!({}));
    story.answer("late").transaction = None;
    assert_eq!(story.broken(), Some(Rule::Rejections));
}

#[test]
fn balances_follow_from_the_amounts_and_keep_their_floors() {
    for (from, to) in [("\"credits\":\"100\"", "\"credits\":\"101\""), ("\"version\":2", "\"version\":3")] {
        let mut story = history();
        story.replace(Some("pay"), from, to);
        assert_eq!(story.broken(), Some(Rule::Balances));
    }
    let mut story = history();
    story.rows[1].payload = story.rows[1].payload.replace("\"min_balance\":\"0\"", "\"min_balance\":\"71\"");
    assert_eq!(story.broken(), Some(Rule::Floors));
    // The bank has none.
    let mut story = history();
    story.rows[0].payload = story.rows[0].payload.replace("\"normal\"", "\"min_balance\":\"-99\",\"normal\"");
    assert_eq!(story.broken(), Some(Rule::Floors));
}

#[test]
fn a_rejection_is_justified_at_its_position() {
    let changes = [
        ("insufficient_funds", "account_frozen"),
        ("\"available\":\"70\"", "\"available\":\"60\""),
        ("\"would_be\":\"-10\"", "\"would_be\":\"-20\""),
        ("\"min_balance\":\"0\"", "\"min_balance\":\"1\""),
    ];
    each_breaks(Rule::Rejections, history, changes);
    // Before the payment there was enough.
    let mut story = history();
    story.rows.remove(3);
    story.asked.remove("pay");
    story.rows[3].position = 4;
    assert_eq!(story.broken(), Some(Rule::Answers));
    story.asked.get_mut("decline").unwrap().answer = None;
    assert_eq!(story.broken(), Some(Rule::Rejections));
}

#[test]
fn pending_totals_follow_from_the_amounts_and_count_against_the_floor() {
    let authorised = || {
        let mut story = Story::begin();
        story.authorise("hold", 40, None);
        story
    };
    let changes = [
        ("\"debits_pending\":\"40\"", "\"debits_pending\":\"41\""),
        ("credits_pending", "of_old"),
        ("\"version\":1", "\"version\":2"),
    ];
    each_breaks(Rule::Balances, authorised, changes);
    let tight = || {
        let mut story = authorised();
        story.decline("tight", Wish::pay("a", "bank", 61), 61, insufficient(60, -1));
        story
    };
    each_breaks(Rule::Rejections, tight, [("\"60\"", "\"100\"")]);
    for pay in [true, false] {
        let mut story = authorised();
        if pay {
            story.pay("pay", "a", "bank", 61);
        } else {
            story.authorise("second", 61, None);
        }
        assert_eq!(story.broken(), Some(Rule::Floors));
    }
    for (member, told) in [("remaining", "39"), ("expires_at", "never"), ("captured", "1"), ("status", "posted")] {
        let mut story = authorised();
        story.answer("hold").body[member] = json!(told);
        assert_eq!(story.broken(), Some(Rule::Answers));
    }
}

#[test]
fn no_hold_is_captured_beyond_its_amount_or_after_its_end() {
    let captured = || {
        let mut story = Story::begin();
        story.authorise("hold", 40, None);
        story.capture("part", "hold", 15, 25, 0);
        story
    };
    let changes = [
        ("\"captured\":\"15\"", "\"captured\":\"14\""),
        ("\"remaining\":\"25\"", "\"remaining\":\"26\""),
        ("id of hold", "another"),
    ];
    each_breaks(Rule::Holds, captured, changes);
    each_breaks(Rule::Balances, captured, [("debits_pending\":\"25\"", "debits_pending\":\"40\"")]);
    let mut story = captured();
    story.answer("part").body["payment"]["remaining"] = json!("26");
    assert_eq!(story.broken(), Some(Rule::Answers));

    let mut story = captured();
    story.capture("much", "hold", 26, -1, 0);
    assert_eq!(story.broken(), Some(Rule::Holds));
    let declined = || {
        let mut story = captured();
        let reason = json!({"code": "capture_exceeds_hold", "account": "a", "remaining": "25"});
        story.decline("much", capture("hold", 26, false), 26, reason);
        story
    };
    each_breaks(Rule::Rejections, declined, [("remaining\":\"25\"", "remaining\":\"26\""), ("exceeds", "is_more")]);
    each_breaks(Rule::Requests, declined, [("id of hold", "another"), ("\"kind\":\"capture\"", "\"kind\":\"void\"")]);

    // The last capture gives the rest back.
    let mut story = Story::begin();
    story.authorise("hold", 40, None);
    story.capture("last", "hold", 15, 0, 25);
    assert_eq!(story.broken(), None);
    story.capture("after", "hold", 1, 0, 0);
    assert_eq!(story.broken(), Some(Rule::Holds));
}

#[test]
fn a_void_gives_back_what_remains_and_ends_the_hold() {
    let voided = || {
        let mut story = Story::begin();
        story.authorise("hold", 40, Some(60));
        story.capture("part", "hold", 15, 25, 0);
        story.release(Some("void"), "hold", 15, 25);
        story
    };
    each_breaks(Rule::Requests, voided, [("\"amount\":\"25\"", "\"amount\":\"24\"")]);
    each_breaks(Rule::Holds, voided, [("\"captured\":\"15\"", "\"captured\":\"0\"")]);
    let declined = || {
        let mut story = voided();
        story.decline("late", capture("hold", 5, false), 5, not_open("voided"));
        story.decline("again", Wish::Void { hold: id("hold") }, 40, not_open("voided"));
        story
    };
    each_breaks(Rule::Rejections, declined, [("voided", "expired")]);
    let mut story = voided();
    story.release(Some("again"), "hold", 15, 0);
    assert_eq!(story.broken(), Some(Rule::Holds));
    // It does not expire later.
    let mut story = voided();
    story.now += 60;
    story.pay("pay", "a", "bank", 1);
    assert_eq!(story.broken(), None);
    // A rejection while it is open is not justified.
    let mut story = Story::begin();
    story.authorise("hold", 40, None);
    story.decline("early", capture("hold", 5, false), 5, not_open("captured"));
    assert_eq!(story.broken(), Some(Rule::Rejections));
}

#[test]
fn a_hold_expires_at_its_moment_before_anything_that_sees_its_accounts() {
    let due = || {
        let mut story = Story::begin();
        story.authorise("hold", 40, Some(2));
        story.now += 1;
        story
    };
    // Until its moment it holds.
    let mut story = Story::begin();
    story.authorise("hold", 40, Some(2));
    story.decline("tight", Wish::pay("a", "bank", 61), 61, insufficient(60, -1));
    assert_eq!(story.broken(), None);
    assert!(story.follow().unwrap().overdue(moment(story.now)).is_none());
    assert!(story.follow().unwrap().overdue(moment(story.now + 1)).is_some());

    let expired = || {
        let mut story = due();
        story.release(None, "hold", 0, 40);
        story
    };
    let mut story = expired();
    assert_eq!(story.broken(), None);
    assert!(story.follow().unwrap().overdue(moment(1_000)).is_none());
    story.decline("late", capture("hold", 5, false), 5, not_open("expired"));
    assert_eq!(story.broken(), None);
    // Twice.
    story.release(None, "hold", 0, 0);
    assert_eq!(story.broken(), Some(Rule::Requests));
    // With effect from another moment, or too early.
    let mut story = expired();
    story.rows.last_mut().unwrap().effective_at = moment(7);
    assert_eq!(story.broken(), Some(Rule::Due));
    let mut story = Story::begin();
    story.authorise("hold", 40, Some(3));
    story.release(None, "hold", 0, 40);
    assert_eq!(story.broken(), Some(Rule::Due));

    // Whatever sees its accounts without that: a payment, a rejection, a freeze, the end of the hold itself.
    for (number, late) in [
        (|story| story.pay("late", "a", "bank", 1)) as fn(&mut Story),
        |story| story.pay("late", "bank", "a", 1),
        |story| story.decline("late", Wish::pay("a", "bank", 61), 61, insufficient(60, -1)),
        |story| story.authorise("late", 1, None),
        |story| story.capture("late", "hold", 40, 0, 0),
        |story| _ = story.release(Some("late"), "hold", 0, 40),
        |story| story.schedule("late", 1, 5),
        |story| story.freeze(Some(Scope::All), "late"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut story = due();
        late(&mut story);
        assert_eq!(story.broken(), Some(Rule::Due), "{number}");
    }
    // For so long as was asked for.
    let mut story = due();
    story.replace(Some("hold"), &time(moment(6)).to_string(), &time(moment(7)).to_string());
    assert_eq!(story.broken(), Some(Rule::Due));
}

#[test]
fn a_scheduled_transaction_is_decided_at_its_moment_and_once() {
    let scheduled = || {
        let mut story = Story::begin();
        story.schedule("later", 7, 2);
        story.pay("pay", "a", "bank", 1);
        story
    };
    let posted = || {
        let mut story = scheduled();
        story.post_scheduled("later", 7);
        story
    };
    each_breaks(Rule::Requests, posted, [("\"scheduled_position\":4", "\"scheduled_position\":5")]);
    let mut story = posted();
    assert!(story.follow().unwrap().overdue(moment(1_000)).is_none());
    story.post_scheduled("later", 7);
    assert_eq!(story.broken(), Some(Rule::Requests));
    let mut story = posted();
    story.reverse("back", "later", 7, 0);
    assert_eq!(story.broken(), None);

    let mut story = scheduled();
    story.pay("second", "a", "bank", 1);
    assert_eq!(story.broken(), Some(Rule::Due));
    let mut story = Story::begin();
    story.schedule("later", 7, 2);
    story.post_scheduled("later", 7);
    assert_eq!(story.broken(), Some(Rule::Due));
    // Of what could have been posted then: it is rejected with a reason alone.
    let mut story = scheduled();
    let legs = [stated_leg("a", "debit", 7), stated_leg("bank", "credit", 7)];
    let payload = json!({"kind": "payment", "legs": legs, "scheduled_position": 4, "rejection": insufficient(99, 92)});
    story.event("transaction_rejected", None, Some(id("later")), payload);
    assert_eq!(story.broken(), Some(Rule::Rejections));
    // What is due earlier comes earlier.
    let mut story = Story::begin();
    story.schedule("second", 7, 3);
    story.authorise("first", 40, Some(1));
    story.now += 1;
    story.post_scheduled("second", 7);
    assert_eq!(story.broken(), Some(Rule::Due));
    // In its past a payment is made at once, with effect from then.
    let mut story = Story::begin();
    story.pay("late", "a", "bank", 1);
    let at = moment(2);
    story.rows.last_mut().unwrap().effective_at = at;
    if let Wish::Pay { effective_at, .. } = &mut story.asked.get_mut("late").unwrap().wish {
        *effective_at = Some(at);
    }
    assert_eq!(story.broken(), None);
    story.rows.last_mut().unwrap().effective_at = moment(3);
    assert_eq!(story.broken(), Some(Rule::Due));
}

#[test]
fn ends_of_holds_do_not_mind_each_other_but_postings_do() {
    let tell = |postings: bool| {
        let mut story = Story::begin();
        story.authorise("first", 1, Some(5));
        story.authorise("second", 1, Some(5));
        if postings {
            story.schedule("between", 1, 1);
        }
        story.now += 10;
        story.release(None, "second", 0, 1).effective_at = moment(10);
        story.release(None, "first", 0, 1).effective_at = moment(9);
        story
    };
    assert_eq!(tell(false).broken(), None);
    assert_eq!(tell(true).broken(), Some(Rule::Due));
}

#[test]
fn a_schedule_is_cancelled_before_its_moment_or_not_at_all() {
    let cancelled = || {
        let mut story = Story::begin();
        story.schedule("later", 7, 5);
        story.cancel("cancel", "later");
        story
    };
    each_breaks(Rule::Requests, cancelled, [("\"scheduled_position\":4", "\"scheduled_position\":5")]);
    let mut story = cancelled();
    story.post_scheduled("later", 7);
    assert_eq!(story.broken(), Some(Rule::Requests));
    // A second one comes too late, and is not recorded.
    let too_late = |mut story: Story| {
        story.ask("late", Wish::Cancel { schedule: id("later") }, 422, String::new(), json!({"code": "not_scheduled"}));
        story.answer("late").transaction = None;
        story
    };
    assert_eq!(too_late(cancelled()).broken(), None);
    let mut story = Story::begin();
    story.schedule("later", 7, 5);
    assert_eq!(too_late(story).broken(), Some(Rule::Rejections));
    let mut story = cancelled();
    story.cancel("again", "later");
    assert_eq!(story.broken(), Some(Rule::Requests));
}

#[test]
fn no_more_is_reversed_than_is_left() {
    let reversed = || {
        let mut story = history();
        story.reverse("back", "pay", 10, 20);
        story
    };
    let changes =
        [("[\"20\",\"20\"]", "[\"20\",\"21\"]"), ("id of pay", "another"), ("{\"rem", "{\"forced\":true,\"rem")];
    each_breaks(Rule::Reversals, reversed, changes);
    let mut story = reversed();
    story.reverse("much", "pay", 21, -1);
    assert_eq!(story.broken(), Some(Rule::Reversals));
    let declined = || {
        let mut story = reversed();
        let reason = json!({"code": "reversal_exceeds_transaction", "account": "a", "remaining": "20"});
        story.decline("much", reversal("pay", 21), 21, reason);
        story
    };
    each_breaks(Rule::Rejections, declined, [("\"remaining\":\"20\"", "\"remaining\":\"21\"")]);
    let mut story = reversed();
    story.answer("back").body["reverses"]["remaining"] = json!(["20"]);
    assert_eq!(story.broken(), Some(Rule::Answers));
}

#[test]
fn a_reversal_breaks_a_floor_by_force_alone() {
    let mut story = history();
    let (legs, balances) = story.legs("a", "bank", 80, 80, 0);
    let payload = json!({"kind": "reversal", "legs": [legs[1], legs[0]],
                         "reversal": {"forced": true, "transaction_id": id("fund"), "remaining": ["20", "20"]}});
    story.event("transaction_posted", Some("back"), Some(id("back")), payload);
    let told = json!({"type": "reversal", "reverses": {"id": id("fund"), "remaining": ["20", "20"]},
                      "balances": balances});
    let wish = |force| Wish::Reverse { transaction: id("fund"), amount: Some(80), force };
    story.ask("back", wish(true), 201, id("back"), told);
    assert_eq!(story.broken(), None);
    story.asked.get_mut("back").unwrap().wish = wish(false);
    assert_eq!(story.broken(), Some(Rule::Floors));
}

#[test]
fn a_frozen_account_declines_what_it_is_frozen_for() {
    let frozen = |scope| {
        let mut story = Story::begin();
        story.authorise("hold", 40, None);
        story.freeze(Some(scope), "r");
        story
    };
    let reason = || json!({"code": "account_frozen", "account": "a"});
    for (scope, stops_debits, stops_credits) in
        [(Scope::All, true, true), (Scope::Debits, true, false), (Scope::Credits, false, true)]
    {
        let mut story = frozen(scope);
        story.pay("pay", "a", "bank", 1);
        assert_eq!(story.broken(), stops_debits.then_some(Rule::Freezes));
        let mut story = frozen(scope);
        story.pay("pay", "bank", "a", 1);
        assert_eq!(story.broken(), stops_credits.then_some(Rule::Freezes));
        let mut story = frozen(scope);
        story.decline("pay", Wish::pay("a", "bank", 1), 1, reason());
        assert_eq!(story.broken(), (!stops_debits).then_some(Rule::Rejections));
        let mut story = frozen(scope);
        story.capture("part", "hold", 15, 25, 0);
        assert_eq!(story.broken(), stops_debits.then_some(Rule::Freezes));
        // What is reserved can be given back all the same, and after it all is as before.
        let mut story = frozen(scope);
        story.release(Some("void"), "hold", 0, 40);
        story.freeze(None, "end");
        story.pay("pay", "a", "bank", 1);
        assert_eq!(story.broken(), None);
    }
    let mut story = frozen(Scope::Debits);
    story.replace(None, "debits", "all");
    assert_eq!(story.broken(), Some(Rule::Requests));
    let mut story = frozen(Scope::All);
    story.freezes.clear();
    assert_eq!(story.broken(), Some(Rule::Requests));
    let mut story = frozen(Scope::All);
    story.rows.pop();
    assert_eq!(story.broken(), Some(Rule::ExactlyOnce));
    let mut story = frozen(Scope::All);
    story.freeze(Some(Scope::All), "r");
    assert_eq!(story.broken(), Some(Rule::ExactlyOnce));
}

#[test]
fn a_read_is_what_the_log_says_as_of_its_position() {
    let story = history();
    let log = story.follow().unwrap();
    let totals = |version, debits, credits| Totals { debits, credits, version, ..Totals::default() };
    let read = |position, balance_position, totals| {
        log.check_read(&read(position, balance_position, totals), TimeDelta::zero()).is_ok()
    };
    let [opened, funded, paid] = [totals(0, 0, 0), totals(1, 0, 100), totals(2, 30, 100)];
    assert!(read(2, 2, opened) && read(3, 3, funded) && read(4, 4, paid) && read(5, 4, paid));
    assert!(!read(1, 1, opened), "not opened yet");
    assert!(!read(4, 3, funded), "one version old");
    assert!(!read(3, 4, paid), "one version too new");
    assert!(!read(4, 4, totals(2, 30, 101)) && !read(5, 5, paid));
}

#[test]
fn a_read_has_what_is_pending_and_frozen_and_nothing_that_was_due() {
    let mut story = Story::begin();
    story.authorise("hold", 40, Some(3));
    story.freeze(Some(Scope::All), "r");
    story.now += 5;
    story.release(None, "hold", 0, 40).effective_at = moment(7);
    let log = story.follow().unwrap();
    let check = |read: Read, apart| log.check_read(&read, TimeDelta::seconds(apart)).map_err(|found| found.rule);
    let pending = Totals { credits: 100, version: 1, debits_pending: 40, ..Totals::default() };
    let authorised = || read(4, 4, pending);
    let frozen = || Read { frozen: true, ..read(5, 4, pending) };
    assert_eq!(check(authorised(), 0), Ok(()));
    assert_eq!(check(frozen(), 0), Ok(()));
    assert_eq!(check(Read { available: 100, ..authorised() }, 0), Err(Rule::Reads));
    assert_eq!(check(read(4, 4, Totals { debits_pending: 0, ..pending }), 0), Err(Rule::Reads));
    assert_eq!(check(Read { frozen: false, ..frozen() }, 0), Err(Rule::Reads));
    assert_eq!(check(Read { frozen: true, ..authorised() }, 0), Err(Rule::Reads));
    // Who asks after its moment must not see it.
    assert_eq!(check(Read { asked_at: moment(7), ..frozen() }, 0), Ok(()));
    assert_eq!(check(Read { asked_at: moment(8), ..frozen() }, 0), Err(Rule::Due));
    assert_eq!(check(Read { asked_at: moment(8), ..frozen() }, 60), Ok(()));
    let expired = Read { frozen: true, ..read(6, 6, Totals { debits_pending: 0, ..pending }) };
    assert_eq!(check(Read { asked_at: moment(8), ..expired }, 0), Ok(()));
}

/// A read of `a` that was asked for when nothing was due.
fn read(position: u64, balance_position: u64, totals: Totals) -> Read {
    let now = Instant::now();
    Read {
        account: "a".to_owned(),
        totals,
        available: totals.available(),
        frozen: false,
        balance_position,
        position,
        called: now,
        asked_at: moment(0),
        answered: now,
    }
}
