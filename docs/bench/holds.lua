-- wrk script: payments in two phases. Each request authorises a payment between two of the
-- accounts wallet:1 … wallet:ACCOUNTS (10,000), or captures one that was authorised before.
-- wrk -t1 -c256 -d15 --latency -s docs/bench/holds.lua http://127.0.0.1:8080
-- One thread, since what one connection authorises any of them captures.
local accounts = tonumber(os.getenv("ACCOUNTS") or "10000")
local ledger = "/v1/ledgers/main"
local headers = { ["content-type"] = "application/json" }
local random = math.random
math.randomseed(os.time())
local requests, refused = 0, 0
-- Ids to capture: a queue.
local ids, first, last = {}, 1, 0

request = function()
  requests = requests + 1
  headers["idempotency-key"] = string.format("%08x%08x%08x", random(0, 0x7fffffff), random(0, 0x7fffffff), requests)
  if first <= last then
    local id = ids[first]
    ids[first], first = nil, first + 1
    return wrk.format("POST", ledger .. "/payments/" .. id .. "/capture", headers, "{}")
  end
  local from = random(1, accounts)
  local to = from % accounts + 1
  return wrk.format("POST", ledger .. "/payments", headers, string.format(
    '{"from":"wallet:%d","to":"wallet:%d","amount":"%d","asset":"EUR","capture":"manual","expires_in_s":86400}',
    from, to, random(1, 100)))
end

response = function(status, _, body)
  if status ~= 201 then
    refused = refused + 1
    if refused <= 3 then print(status, body) end
  elseif body:find('"status":"authorised"', 1, true) then
    last = last + 1
    ids[last] = body:match('"id":"([^"]+)"')
  end
end
