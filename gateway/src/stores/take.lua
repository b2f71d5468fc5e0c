-- Takes tokens for a batch of calls, one after the other. Of each call: what it costs of each bucket, all or none of
-- those bound together, each of the others by itself. One atomic step.
-- The arithmetic of plugins/src/rate_limit/gcra.rs; a test compares the two.
--
-- KEYS     one a bucket, call after call, all in one slot; each once in a call
-- ARGV[1]  "" for the server's clock; microseconds of a clock that a test hands in
-- ARGV     then for each call the number of its buckets, and four a bucket: interval in microseconds, burst, cost,
--          "t" (together) or "a" (alone)
-- reply    four integers a bucket: 0 spared, 1 charged or 2 short; remaining; retry after and reset after in microseconds
--
-- All numbers are whole and below 2^53, where a double is exact.
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

-- A bucket that several calls ask is one number, which the next call finds as the one before left it.
local tats, changed = {}, {}
for i, tat in ipairs(redis.call('MGET', unpack(KEYS))) do tats[KEYS[i]] = tonumber(tat or now) end

local reply, key, arg = {}, 0, 2
while arg <= #ARGV do
  local count = tonumber(ARGV[arg])
  local buckets, all = {}, true
  for i = 1, count do
    local at = arg + i * 4 - 3
    local interval, burst, alone = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 3] == 'a'
    local need = interval * tonumber(ARGV[at + 2])
    local name = KEYS[key + i]
    local cap = now + interval * burst
    -- The clamp survives a clock that went back, as after a failover to another server.
    local tat = math.min(math.max(tats[name], now), cap)
    local enough = cap - tat >= need
    if not alone and not enough then all = false end
    buckets[i] = { name = name, interval = interval, need = need, cap = cap, tat = tat, alone = alone, enough = enough }
  end
  for _, b in ipairs(buckets) do
    local answer, tat = 2, b.tat
    if b.enough and (all or b.alone) then
      answer, tat = 1, b.tat + b.need
      tats[b.name], changed[b.name] = tat, true
    elseif b.enough then
      answer = 0
    end
    local remaining = math.floor((b.cap - tat) / b.interval)
    local retry_after = math.max(0, tat + b.need - b.cap)
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = answer, remaining, retry_after, tat - now
  end
  key, arg = key + count, arg + 1 + count * 4
end

for name in pairs(changed) do
  -- Full again equals absent, so a bucket goes by itself. %.0f: a number's own text would lose digits.
  redis.call('SET', name, string.format('%.0f', tats[name]), 'PX', math.ceil((tats[name] - now) / 1000))
end
return reply
