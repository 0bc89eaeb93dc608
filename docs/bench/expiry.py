"""Authorises payments that all expire in one second: python3 docs/bench/expiry.py [HOLDS] [SECONDS AHEAD].

Between the accounts wallet:1 … wallet:10000, over http://127.0.0.1:8080. Pay meanwhile with wrk, for the latency,
and ask afterwards when the last one had expired (`steelyard psql`):

SELECT count(*), max(recorded_at - effective_at) FROM events WHERE type = 'hold_expired';
"""

import datetime
import json
import sys
import urllib.request

HOLDS = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
AHEAD_S = int(sys.argv[2]) if len(sys.argv) > 2 else 15
ACCOUNTS = 10_000
BATCH = 5_000
URL = "http://127.0.0.1:8080/v1/ledgers/main/payments/batch"

expires_at = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) + datetime.timedelta(seconds=AHEAD_S)
text = expires_at.isoformat().replace("+00:00", "Z")
for first in range(0, HOLDS, BATCH):
    payments = [
        {
            "idempotency_key": f"expiry-{text}-{n}",
            "from": f"wallet:{n % ACCOUNTS + 1}",
            "to": f"wallet:{(n + 1) % ACCOUNTS + 1}",
            "amount": "10",
            "asset": "EUR",
            "capture": "manual",
            "expires_at": text,
        }
        for n in range(first, min(first + BATCH, HOLDS))
    ]
    body = json.dumps({"payments": payments}).encode()
    request = urllib.request.Request(URL, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        refused = [result for result in json.load(answer)["results"] if result["status"] != 201]
    if refused:
        sys.exit(f"refused: {refused[0]}")
print(f"{HOLDS} payments authorised; they expire at {text}")
