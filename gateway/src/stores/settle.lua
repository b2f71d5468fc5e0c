-- Changes buckets behind their requests: takes of each, down to nothing, or gives back, up to full. One atomic step.
-- For costs that an upstream tells, for what shares admitted while Redis was away, and for tokens that nobody spent.
-- The arithmetic of `Rate::charge` in plugins/src/rate_limit/gcra.rs; a test compares the two.
--
-- KEYS     one a bucket, all in one slot; one that stands several times is changed several times
-- ARGV[1]  "" for the server's clock; microseconds of a clock that a test hands in
-- ARGV     then for each bucket three: interval in microseconds, burst, and what is taken in microseconds (tokens times
--          interval), negative for what is given back
-- reply    the number of buckets
--
-- All numbers are whole and below 2^53, where a double is exact.
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

for i, name in ipairs(KEYS) do
  local at = i * 3 - 1
  local cap = now + tonumber(ARGV[at]) * tonumber(ARGV[at + 1])
  -- The clamp survives a clock that went back, as after a failover to another server.
  local tat = math.min(math.max(tonumber(redis.call('GET', name) or now), now), cap)
  tat = math.min(math.max(tat + tonumber(ARGV[at + 2]), now), cap)
  if tat > now then
    -- Full again equals absent, so a bucket goes by itself. %.0f: a number's own text would lose digits.
    redis.call('SET', name, string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000))
  else
    redis.call('DEL', name)
  end
end
return #KEYS
