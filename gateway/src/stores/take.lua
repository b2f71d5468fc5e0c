-- Takes one token of each bucket: all or none of those bound together, each of the others by itself. One atomic step.
-- The arithmetic of plugins/src/rate_limit/gcra.rs; a test compares the two.
--
-- KEYS     one a bucket, each once, all in one slot
-- ARGV[1]  "" for the server's clock; microseconds of a clock that a test hands in
-- ARGV     then three a bucket: interval in microseconds, burst, "t" (together) or "a" (alone)
-- reply    four integers a bucket: 0 spared, 1 charged or 2 short; remaining; retry after and reset after in microseconds
--
-- All numbers are whole and below 2^53, where a double is exact.
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local stored = redis.call('MGET', unpack(KEYS))
local buckets, all = {}, true
for i = 1, #KEYS do
  local interval, burst = tonumber(ARGV[i * 3 - 1]), tonumber(ARGV[i * 3])
  local alone = ARGV[i * 3 + 1] == 'a'
  local cap = now + interval * burst
  -- The clamp survives a clock that went back, as after a failover to another server.
  local tat = math.min(math.max(tonumber(stored[i] or now), now), cap)
  local has_token = cap - tat >= interval
  if not alone and not has_token then all = false end
  buckets[i] = { interval = interval, cap = cap, tat = tat, alone = alone, has_token = has_token }
end

local reply = {}
for i, b in ipairs(buckets) do
  local answer, tat = 2, b.tat
  if b.has_token and (all or b.alone) then
    answer, tat = 1, b.tat + b.interval
    -- Full again equals absent, so a bucket goes by itself. %.0f: a number's own text would lose digits.
    redis.call('SET', KEYS[i], string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000))
  elseif b.has_token then
    answer = 0
  end
  local remaining = math.floor((b.cap - tat) / b.interval)
  local retry_after = 0
  if remaining == 0 then retry_after = tat + b.interval - b.cap end
  reply[i * 4 - 3], reply[i * 4 - 2], reply[i * 4 - 1], reply[i * 4] = answer, remaining, retry_after, tat - now
end
return reply
