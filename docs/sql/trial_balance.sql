-- Do the books balance, and what do they hold?
--
-- Parameters:
--   ledger   main if not given
--   depth    how many parts of the codes to tell apart (1: assets, income, …); 1 if not given
--
-- A row per asset and path prefix, with the accounts' debits and credits in the asset's main unit, and a row `total`
-- per asset. In a total, `net_debit` is zero, in every snapshot: anything else is a defect, and `steelyard verify`
-- says where. Accounts with fewer parts than `depth` stand under their whole code.

\if :{?ledger} \else \set ledger main \endif
\if :{?depth} \else \set depth 1 \endif

WITH parts AS (
    SELECT array_to_string((string_to_array(account, ':'))[1 : :depth], ':') AS prefix, asset,
           debits_posted, credits_posted, net_debit
    FROM reporting.trial_balance
    WHERE ledger = :'ledger'
)
SELECT
    p.asset,
    coalesce(p.prefix, 'total') AS accounts,
    round(sum(p.debits_posted) / 10::numeric ^ s.scale, s.scale) AS debits,
    round(sum(p.credits_posted) / 10::numeric ^ s.scale, s.scale) AS credits,
    round(sum(p.net_debit) / 10::numeric ^ s.scale, s.scale) AS net_debit
FROM parts p
JOIN reporting.assets s ON s.ledger = :'ledger' AND s.asset = p.asset
GROUP BY GROUPING SETS ((p.asset, s.scale, p.prefix), (p.asset, s.scale))
ORDER BY p.asset, GROUPING(p.prefix), p.prefix;
