//! Searches: what they find, and that nothing is missed or comes twice,
//! compared with a look at every event.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::client::{Client, payment, start, start_with_accounts};

/// Accounts of the random books.
const ACCOUNTS: [&str; 4] = ["bank", "alice", "bob", "carol"];

#[tokio::test]
async fn each_filter_and_all_of_them_together() {
    let (_server, client) = start_with_accounts().await;
    let mut ids = Vec::new();
    for (key, from, to, amount, reference, metadata) in [
        ("1", "alice", "bob", 10, "x", json!({"order": 7, "channel": "web", "paid": true, "rate": 2.50})),
        ("2", "bob", "bank", 5, "x", json!({"order": "7", "channel": "shop"})),
        ("3", "bob", "alice", 9_999, "y", json!({"order": 7, "channel": "web", "note": null, "deep": {"order": 9}})),
        ("4", "alice", "bank", 1, "z", json!({})),
        ("5", "alice", "bob", 10, "z", json!({"Größe": "ü &=%", "": "none", "order": 8})),
    ] {
        let mut request = payment(from, to, amount);
        request["reference"] = json!(reference);
        request["metadata"] = metadata;
        let answer = client.pay(key, &request).await;
        let id = [&answer.body["id"], &answer.body["transaction_id"]].into_iter().find(|id| id.is_string());
        ids.push(id.unwrap().clone());
    }
    // The funding is no row of the table.
    for (query, expected) in [
        ("metadata[order]=7", &[0, 1, 2][..]),
        ("metadata%5Border%5D=7", &[0, 1, 2]),
        ("metadata[order]=7&metadata[channel]=web", &[0, 2]),
        ("metadata[channel]=web&metadata[order]=7&status=posted", &[0]),
        ("metadata[paid]=true", &[0]),
        ("metadata[rate]=2.5", &[0]),
        ("metadata[rate]=2.50", &[]),
        ("metadata[order]=9", &[]),
        ("metadata[note]=null", &[]),
        ("metadata[Gr%C3%B6%C3%9Fe]=%C3%BC%20%26%3D%25", &[4]),
        ("metadata[]=none", &[4]),
        ("metadata[order]=", &[]),
        ("status=rejected", &[2]),
        ("status=rejected&account=alice", &[2]),
        ("status=posted&reference=y", &[]),
        ("status=rejected&reference=y", &[2]),
        ("type=payment&reference=x", &[0, 1]),
        ("min_amount=5&max_amount=10", &[0, 1, 4]),
        ("min_amount=9999", &[2]),
        ("max_amount=1", &[3]),
        ("min_amount=10&reference=x", &[0]),
        ("account=bob&min_amount=6&max_amount=100", &[0, 4]),
        ("account=alice&metadata[order]=7&min_amount=10&max_amount=10", &[0]),
        ("idempotency_key=2&metadata[order]=7", &[1]),
        ("idempotency_key=2&metadata[order]=8", &[]),
        ("idempotency_key=2&status=rejected", &[]),
        ("reference=x&order=desc", &[1, 0]),
        ("metadata[order]=7&order=desc", &[2, 1, 0]),
        ("account=bob&order=desc", &[4, 2, 1, 0]),
        ("max_amount=10&order=desc", &[4, 3, 1, 0]),
    ] {
        let found = client.get(&format!("/transactions?{query}")).await.is(200);
        let expected: Vec<Value> = expected.iter().map(|index: &usize| ids[*index].clone()).collect();
        assert_eq!(found.field("id"), expected, "{query}");
        assert_eq!(found.body["next"], Value::Null, "{query}");
    }
    let all = client.get("/transactions").await.is(200);
    let times = all.field("recorded_at");
    let at = |index: usize| times[index].as_str().unwrap();
    for (query, expected) in [
        (format!("from={}", at(2)), &[2, 3, 4, 5][..]),
        (format!("to={}", at(2)), &[0, 1]),
        (format!("from={}&to={}", at(1), at(4)), &[1, 2, 3]),
        (format!("from={}&to={}", at(1), at(1)), &[]),
        (format!("from={}&to={}&order=desc", at(1), at(4)), &[3, 2, 1]),
        (format!("account=bob&from={}", at(3)), &[3, 5]),
        (format!("metadata[order]=7&to={}", at(3)), &[1, 2]),
        (format!("idempotency_key=3&to={}", at(3)), &[]),
        ("from=2026-01-01&to=9999-12-31".to_owned(), &[0, 1, 2, 3, 4, 5]),
        ("from=2999-01-01".to_owned(), &[]),
        ("to=1999-12-31T23:59:59%2B01:00".to_owned(), &[]),
    ] {
        let found = client.get(&format!("/transactions?{query}")).await.is(200);
        let expected: Vec<Value> = expected.iter().map(|index: &usize| all.data()[*index]["id"].clone()).collect();
        assert_eq!(found.field("id"), expected, "{query}");
    }
    let eventual = client.get("/transactions?metadata[order]=7&consistency=eventual").await.is(200);
    assert!(eventual.data().len() <= 3);
    client.get("/transactions?metadata[order]=7&min_position=9").await.is(200);
}

/// A search, and what it means.
#[derive(Debug, Default)]
struct Search {
    account: Option<&'static str>,
    reference: Option<&'static str>,
    metadata: Vec<(&'static str, &'static str)>,
    status: Option<&'static str>,
    least: Option<u64>,
    most: Option<u64>,
    from: Option<String>,
    to: Option<String>,
    is_descending: bool,
}

impl Search {
    fn random(random: &mut SmallRng, events: &[Value]) -> Self {
        let mut search = Self::default();
        let mut coin = |one_in: u32| random.random_range(0..one_in) == 0;
        let (account, reference, order, channel, status) = (coin(3), coin(3), coin(3), coin(4), coin(3));
        let (least, most, from, to) = (coin(4), coin(4), coin(4), coin(4));
        search.is_descending = coin(2);
        let mut pick = |count: usize| random.random_range(0..count);
        search.account = account.then(|| ACCOUNTS[pick(4)]);
        search.reference = reference.then(|| ["r0", "r1", "r2", "none"][pick(4)]);
        if order {
            search.metadata.push(("order", ["0", "1", "2", "3", "x"][pick(5)]));
        }
        if channel {
            search.metadata.push(("channel", ["web", "shop"][pick(2)]));
        }
        search.status = status.then(|| ["posted", "rejected"][pick(2)]);
        search.least = least.then(|| pick(60) as u64);
        search.most = most.then(|| pick(60) as u64).filter(|most| search.least.is_none_or(|least| least <= *most));
        let mut time =
            |wanted: bool| wanted.then(|| events[pick(events.len())]["recorded_at"].as_str().unwrap().to_owned());
        search.from = time(from);
        search.to = time(to).filter(|to| search.from.as_ref().is_none_or(|from| from <= to));
        search
    }

    fn query(&self) -> String {
        let mut parts = vec![format!("order={}", if self.is_descending { "desc" } else { "asc" })];
        let mut add = |name: &str, value: Option<String>| parts.extend(value.map(|value| format!("{name}={value}")));
        add("account", self.account.map(str::to_owned));
        add("reference", self.reference.map(str::to_owned));
        add("status", self.status.map(str::to_owned));
        add("min_amount", self.least.map(|least| least.to_string()));
        add("max_amount", self.most.map(|most| most.to_string()));
        add("from", self.from.clone());
        add("to", self.to.clone());
        for (key, value) in &self.metadata {
            add(&format!("metadata[{key}]"), Some((*value).to_owned()));
        }
        parts.join("&")
    }

    /// Whether an event of the log is what is looked for.
    fn holds(&self, event: &Value) -> bool {
        let status = match event["type"].as_str().unwrap() {
            "transaction_posted" => "posted",
            "transaction_rejected" | "batch_rejected" => "rejected",
            _ => return false,
        };
        let (payload, recorded_at) = (&event["payload"], event["recorded_at"].as_str().unwrap());
        let a_leg = payload["legs"].as_array().unwrap().iter().any(|leg| {
            let amount: u64 = leg["amount"].as_str().unwrap().parse().unwrap();
            self.account.is_none_or(|account| leg["account"] == account)
                && self.least.is_none_or(|least| least <= amount)
                && self.most.is_none_or(|most| amount <= most)
        });
        a_leg
            && self.status.is_none_or(|wanted| status == wanted)
            && self.reference.is_none_or(|wanted| payload["reference"] == wanted)
            && self.from.as_deref().is_none_or(|from| from <= recorded_at)
            && self.to.as_deref().is_none_or(|to| recorded_at < to)
            && self.metadata.iter().all(|(key, wanted)| match &payload["metadata"][key] {
                Value::String(text) => text == wanted,
                Value::Number(number) => number.to_string() == *wanted,
                _ => false,
            })
    }

    /// Positions of what is looked for, in its order.
    fn naive(&self, events: &[Value]) -> Vec<u64> {
        let held = events.iter().filter(|event| self.holds(event));
        let mut positions: Vec<u64> = held.map(|event| event["position"].as_u64().unwrap()).collect();
        if self.is_descending {
            positions.reverse();
        }
        positions
    }
}

async fn events(client: &Client) -> Vec<Value> {
    client.get("/events?limit=1000").await.is(200).data().to_vec()
}

/// Pays, or is declined, or an atomic batch is.
async fn act(client: &Client, random: &mut SmallRng, number: usize) {
    let mut item = || {
        let from = random.random_range(0..4_usize);
        let to = (from + 1 + random.random_range(0..3_usize)) % 4;
        let mut item = payment(ACCOUNTS[from], ACCOUNTS[to], random.random_range(1..60_u64));
        if random.random_range(0..3) > 0 {
            item["reference"] = json!(format!("r{}", random.random_range(0..3)));
        }
        let order: u32 = random.random_range(0..4);
        item["metadata"] = match random.random_range(0..4) {
            0 => json!({}),
            1 => json!({"order": order}),
            2 => json!({"order": order.to_string(), "channel": "web"}),
            _ => json!({"order": order, "channel": "shop", "more": [{"order": 1}]}),
        };
        item
    };
    if number.is_multiple_of(9) {
        let atomic = json!({"atomic": true, "payments": [item(), item()]});
        client.post_with_key("/payments/batch", &format!("batch {number}").replace(' ', "-"), &atomic).await;
    } else {
        client.pay(&format!("act-{number}"), &item()).await;
    }
}

#[tokio::test]
async fn searches_find_what_a_look_at_every_event_finds_while_payments_go_on() {
    let (_server, client) = start_with_accounts().await;
    client.open(json!({"code": "carol", "asset": "EUR"})).await;
    let mut random = SmallRng::seed_from_u64(20_261_124);
    let mut acts = 0;
    let mut more = async |random: &mut SmallRng| {
        acts += 1;
        act(&client, random, acts).await;
    };
    for _ in 0..150 {
        more(&mut random).await;
    }
    for round in 0..250 {
        let before = events(&client).await;
        let search = Search::random(&mut random, &before);
        let (limit, busy) = (random.random_range(1..8_usize), round % 5 == 0);
        let mut found: Vec<u64> = Vec::new();
        let mut after = String::new();
        let mut pages = 0;
        loop {
            let page = client.get(&format!("/transactions?{}&limit={limit}{after}", search.query())).await.is(200);
            found.extend(page.field("position").iter().map(|position| position.as_u64().unwrap()));
            pages += 1;
            let Some(next) = page.body["next"].as_str() else { break };
            assert_eq!(page.data().len(), limit, "so few candidates are looked at in one go: {search:?}");
            after = format!("&after={next}");
            if busy && pages < 8 {
                more(&mut random).await;
            }
        }
        let expected = search.naive(&before);
        let head = before.last().unwrap()["position"].as_u64().unwrap();
        let old: Vec<u64> = found.iter().copied().filter(|position| *position <= head).collect();
        assert_eq!(old, expected, "{search:?}");
        let in_order = |pair: &[u64]| if search.is_descending { pair[0] > pair[1] } else { pair[0] < pair[1] };
        assert!(found.windows(2).all(in_order), "nothing comes twice: {found:?} {search:?}");
        if busy {
            let all = search.naive(&events(&client).await);
            assert!(found.iter().all(|position| all.contains(position)), "{search:?}");
        }
    }
}

/// Trap: a search for what hardly ever occurs must not read the whole log, and
/// must find it all the same.
#[tokio::test]
async fn a_search_looks_at_so_much_and_goes_on_with_its_cursor() {
    let (_server, client) = start_with_accounts().await;
    let mut item = payment("bank", "alice", 3);
    item["metadata"] = json!({"channel": "web"});
    for batch in 0..5 {
        let items: Vec<Value> = (0..9_000)
            .map(|n| {
                let mut item = item.clone();
                item["idempotency_key"] = json!(format!("{batch}/{n}"));
                item
            })
            .collect();
        client.post("/payments/batch", &json!({"payments": items})).await.is(200);
    }
    item["amount"] = json!(777);
    let rare = client.pay("rare", &item).await.is(201);
    for filter in ["", "account=alice&", "metadata[channel]=web&", "type=payment&to=2999-01-01&"] {
        let mut after = String::new();
        let mut pages = Vec::new();
        let found = loop {
            let page = client.get(&format!("/transactions?{filter}min_amount=777&max_amount=777{after}")).await.is(200);
            pages.push(page.data().len());
            if let Some(found) = page.data().first() {
                break found["id"].clone();
            }
            let next = page.body["next"].as_str().unwrap_or_else(|| panic!("{filter}: the end after {pages:?}"));
            after = format!("&after={next}");
        };
        assert_eq!((found, pages), (rare.body["id"].clone(), vec![0, 0, 1]), "{filter}");
        let newest = format!("/transactions?{filter}min_amount=777&max_amount=777&order=desc&limit=1");
        assert_eq!(client.get(&newest).await.is(200).field("id"), [rare.body["id"].clone()], "{filter}");
    }
    // The sparsest index is walked along, whichever is named first.
    let mut item = payment("bank", "alice", 5);
    item["metadata"] = json!({"channel": "web", "order": "rare"});
    item["reference"] = json!("rare");
    client.pay("last", &item).await.is(201);
    for query in [
        "account=alice&metadata[channel]=web&metadata[order]=rare",
        "metadata[channel]=web&metadata[order]=rare&account=bank",
        "metadata[channel]=web&reference=rare",
        "reference=rare&account=alice&order=desc",
    ] {
        let found = client.get(&format!("/transactions?{query}")).await.is(200);
        assert_eq!((found.data().len(), &found.body["next"]), (1, &Value::Null), "{query}");
    }
}

#[tokio::test]
async fn accounts_are_found_by_what_is_known() {
    let (_server, client) = start().await;
    for (code, normal, floor, metadata) in [
        ("bank", "debit", Value::Null, json!({})),
        ("w:1", "credit", json!("0"), json!({"customer": 17, "tier": "gold"})),
        ("w:2", "credit", json!("0"), json!({"customer": "17", "tier": "silver", "vip": true})),
        ("w:3", "credit", json!("-50"), json!({"customer": 18, "tier": "gold", "deep": {"customer": 17}})),
        ("w:4", "credit", json!("0"), json!({"tier": "gold", "rate": 1e300})),
    ] {
        let open = json!({"code": code, "asset": "EUR", "normal": normal, "min_balance": floor, "metadata": metadata});
        client.open(open).await;
    }
    client.open(json!({"code": "w:5", "asset": "USD"})).await;
    for (key, from, to, amount) in [("1", "bank", "w:1", 100), ("2", "bank", "w:2", 250), ("3", "w:3", "w:2", 50)] {
        client.pay(key, &payment(from, to, amount)).await.is(201);
    }
    let opened = client.get("/accounts/w:3").await.body["opened_at"].as_str().unwrap().to_owned();
    for (query, expected) in [
        ("metadata[customer]=17", &["w:1", "w:2"][..]),
        ("metadata[customer]=17&metadata[tier]=gold", &["w:1"]),
        ("metadata[tier]=gold", &["w:1", "w:3", "w:4"]),
        ("metadata[tier]=gold&prefix=w:4", &["w:4"]),
        ("metadata[tier]=gold&prefix=v", &[]),
        ("metadata[vip]=true", &["w:2"]),
        ("metadata[rate]=1e%2B300", &["w:4"]),
        ("metadata[tier]=lead", &[]),
        ("normal=debit", &["bank"]),
        ("normal=credit&asset=USD", &["w:5"]),
        ("status=open&prefix=w:&asset=EUR", &["w:1", "w:2", "w:3", "w:4"]),
        ("status=frozen", &[]),
        ("min_posted=100", &["bank", "w:1", "w:2"]),
        ("min_posted=100&max_posted=299&prefix=w", &["w:1"]),
        ("max_posted=-1", &["w:3"]),
        ("max_posted=0&metadata[tier]=gold", &["w:3", "w:4"]),
    ] {
        let found = client.get(&format!("/accounts?{query}")).await.is(200);
        assert_eq!(found.field("code"), expected, "{query}");
        let mut paged = Vec::new();
        let mut after = String::new();
        loop {
            let page = client.get(&format!("/accounts?{query}&limit=1{after}")).await.is(200);
            paged.extend(page.field("code"));
            let Some(next) = page.body["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!(paged, expected, "{query}");
    }
    let codes = async |query: String| client.get(&format!("/accounts?{query}")).await.is(200).field("code");
    assert_eq!(codes(format!("opened_from={opened}")).await, ["w:3", "w:4", "w:5"]);
    assert_eq!(codes(format!("opened_to={opened}")).await, ["bank", "w:1", "w:2"]);
    assert_eq!(codes(format!("opened_from={opened}&opened_to={opened}")).await, Vec::<Value>::new());
}

/// The same of accounts: what is rare is found by its index, what is common by
/// a walk, and what has no index by as many walks as it takes.
#[tokio::test]
async fn a_search_of_accounts_looks_at_so_many_and_goes_on_with_its_cursor() {
    let (_server, client) = start().await;
    for batch in 0..3 {
        let account = |n: u32| {
            let metadata = if n == 20_500 { json!({"tier": "gold", "rare": 1}) } else { json!({"tier": "gold"}) };
            json!({"code": format!("w:{n:05}"), "asset": "EUR", "min_balance": null, "metadata": metadata})
        };
        let accounts: Vec<Value> = (batch * 7_000..(batch + 1) * 7_000).map(account).collect();
        client.post("/accounts/batch", &json!({"accounts": accounts})).await.is(200);
    }
    client.pay("k", &payment("w:00000", "w:20500", 5)).await.is(201);
    let mut after = String::new();
    let mut pages = Vec::new();
    loop {
        let page = client.get(&format!("/accounts?min_posted=1{after}")).await.is(200);
        pages.push(page.field("code"));
        let Some(next) = page.body["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(pages, [vec![], vec![json!("w:20500")]]);
    for query in ["metadata[rare]=1", "metadata[rare]=1&metadata[tier]=gold", "metadata[rare]=1&min_posted=5"] {
        let found = client.get(&format!("/accounts?{query}")).await.is(200);
        assert_eq!((found.field("code"), &found.body["next"]), (vec![json!("w:20500")], &Value::Null), "{query}");
    }
    let common = client.get("/accounts?metadata[tier]=gold&limit=2&after=aw:00006").await.is(200);
    assert_eq!(
        (common.field("code"), &common.body["next"]),
        (vec![json!("w:00007"), json!("w:00008")], &json!("aw:00008"))
    );
    let last = client.get("/accounts?metadata[tier]=gold&limit=1000&after=aw:20998").await.is(200);
    assert_eq!((last.field("code"), &last.body["next"]), (vec![json!("w:20999")], &Value::Null));
}

#[tokio::test]
async fn what_cannot_be_searched_for_is_refused_with_its_place() {
    let (_server, client) = start_with_accounts().await;
    let long = "x".repeat(256);
    let nine: String = (0..9).map(|n| format!("&metadata[k{n}]=1")).collect();
    let both = [
        ("metadata[a]=1&metadata[a]=2".to_owned(), "/query/metadata[a]"),
        (format!("metadata[a]={long}"), "/query/metadata[a]"),
        (format!("metadata[{long}]=1"), &*format!("/query/metadata[{long}]")),
        ("metadata[a]=%00".to_owned(), "/query/metadata[a]"),
        ("metadata[a~b/c]=%00".to_owned(), "/query/metadata[a~0b~1c]"),
        (nine[1..].to_owned(), "/query/metadata[k8]"),
        ("metadata=1".to_owned(), "/query/metadata"),
        ("metadata.a=1".to_owned(), "/query/metadata.a"),
        ("metadata[a=1".to_owned(), "/query/metadata[a"),
        ("status=pending%00".to_owned(), "/query/status"),
        ("status=".to_owned(), "/query/status"),
        ("status=open&status=open".to_owned(), "/query/status"),
        ("order=up".to_owned(), "/query/order"),
    ]
    .map(|(query, pointer)| (query, pointer.to_owned()));
    let times = ["", "x", "2026-13-01", "2026-11-24T00:00", "2026-11-24T00:00:00+01:00", "24.11.2026", "0", "%00"];
    let amounts = ["", "x", "1.5", "1e3", "%00", "999999999999999999999999999999999999999", "0x1", "+1"];
    let mut cases: Vec<(String, String, String)> = Vec::new();
    for list in ["transactions", "accounts"] {
        for (query, pointer) in &both {
            cases.push((list.to_owned(), query.clone(), pointer.clone()));
        }
        let (period, bounds) = if list == "accounts" {
            (["opened_from", "opened_to"], ["min_posted", "max_posted"])
        } else {
            (["from", "to"], ["min_amount", "max_amount"])
        };
        let mut add = |query: String, name: &str| cases.push((list.to_owned(), query, format!("/query/{name}")));
        for name in period {
            times.iter().for_each(|time| add(format!("{name}={time}"), name));
        }
        for name in bounds {
            amounts.iter().for_each(|amount| add(format!("{name}={amount}"), name));
        }
        add(format!("{}=2026-01-02&{}=2026-01-01", period[0], period[1]), period[0]);
        add(format!("{}=2&{}=1", bounds[0], bounds[1]), bounds[0]);
    }
    for (list, query, name) in [
        ("transactions", "type=", "type"),
        ("transactions", "type=Payment", "type"),
        ("transactions", "type=payment%00", "type"),
        ("transactions", "status=open", "status"),
        ("transactions", "normal=debit", "normal"),
        ("transactions", "after=a1", "after"),
        ("accounts", "normal=", "normal"),
        ("accounts", "normal=left", "normal"),
        ("accounts", "status=posted", "status"),
        ("accounts", "min_amount=1", "min_amount"),
    ] {
        cases.push((list.to_owned(), query.to_owned(), format!("/query/{name}")));
    }
    for (list, query, pointer) in cases {
        let answer = client.get(&format!("/{list}?{query}")).await.is_problem(422, "validation_failed");
        assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{list} {query}: {}", answer.text);
    }
    let unknown = client.get("/transactions?metadata=1").await.is(422);
    assert!(unknown.body["detail"].as_str().unwrap().ends_with(", metadata[name]"), "{}", unknown.text);
    client.get("//readyz").await.is(200);
}
