-- Takes tokens for a batch of calls, one after the other. Of each call: what it costs of each bucket, all or none of
-- those bound together, each of the others by itself; and ahead of coming calls, where that is wanted. One atomic step.
-- The arithmetic of plugins/src/rate_limit/gcra.rs; a test compares the two.
--
-- KEYS     one a bucket, call after call, all in one slot; each once in a call
-- ARGV[1]  "" for the server's clock; microseconds of a clock that a test hands in
-- ARGV[2]  how many gateways share what is left of a bucket: behind a request half of an equal part is given ahead, and
--          where no request waits an equal part, or one
-- ARGV     then for each call the number of its buckets, and five a bucket: interval in microseconds, burst, cost,
--          "t" (together), "a" (alone) or "l" (no request, only ahead), for how many requests tokens are wanted ahead
-- reply    five integers a bucket: 0 spared, 1 charged or 2 short; for how many requests tokens were given ahead;
--          remaining; retry after and reset after in microseconds
--
-- All numbers are whole and below 2^53, where a double is exact.
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local gateways = tonumber(ARGV[2])

-- A bucket that several calls ask is one number, which the next call finds as the one before left it.
local tats, changed = {}, {}
for i, tat in ipairs(redis.call('MGET', unpack(KEYS))) do tats[KEYS[i]] = tonumber(tat or now) end

local reply, key, arg = {}, 0, 3
while arg <= #ARGV do
  local count = tonumber(ARGV[arg])
  local buckets, all = {}, true
  for i = 1, count do
    local at = arg + i * 5 - 4
    local interval, burst, kind = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 3]
    local need = interval * tonumber(ARGV[at + 2])
    local name = KEYS[key + i]
    local cap = now + interval * burst
    -- The clamp survives a clock that went back, as after a failover to another server.
    local tat = math.min(math.max(tats[name], now), cap)
    local enough = cap - tat >= need
    if kind == 't' and not enough then all = false end
    buckets[i] = { name = name, interval = interval, need = need, cap = cap, tat = tat, kind = kind, enough = enough,
      want = tonumber(ARGV[at + 4]) }
  end
  for _, b in ipairs(buckets) do
    local answer, ahead, tat = 2, 0, b.tat
    if b.enough and (all or b.kind ~= 't') then
      answer = 1
      -- Of little everybody gets a small part, so that nobody holds what another one's client is refused for.
      local part
      if b.kind == 'l' then
        part = math.max(1, math.floor((b.cap - tat) / b.need / gateways))
      else
        tat = tat + b.need
        part = math.floor((b.cap - tat) / b.need / gateways / 2)
      end
      ahead = math.min(b.want, part)
      tat = tat + ahead * b.need
      tats[b.name], changed[b.name] = tat, true
    elseif b.enough then
      answer = 0
    end
    local remaining = math.floor((b.cap - tat) / b.interval)
    local retry_after = math.max(0, tat + b.need - b.cap)
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4], reply[n + 5] =
      answer, ahead, remaining, retry_after, tat - now
  end
  key, arg = key + count, arg + 1 + count * 5
end

for name in pairs(changed) do
  local ms = math.ceil((tats[name] - now) / 1000)
  -- Full again equals absent, so a bucket goes by itself. %.0f: a number's own text would lose digits.
  if ms > 0 then redis.call('SET', name, string.format('%.0f', tats[name]), 'PX', ms) end
end
return reply
