-- Charges buckets with what was spent elsewhere, or gives back what was taken and not spent. One atomic step.
--
-- KEYS     one a bucket, all in one slot
-- ARGV[1]  "" for the server's clock; microseconds of a clock that a test hands in
-- ARGV     then three a bucket: interval in microseconds, burst, and how many microseconds later (more than 0: a charge)
--          or earlier (less than 0: given back) it is full. Never later than an empty bucket, never earlier than now.
-- reply    how many buckets there are
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

for i, name in ipairs(KEYS) do
  local at = i * 3 - 1
  local cap = now + tonumber(ARGV[at]) * tonumber(ARGV[at + 1])
  local tat = math.max(tonumber(redis.call('GET', name) or now), now)
  tat = math.min(math.max(tat + tonumber(ARGV[at + 2]), now), cap)
  local ms = math.ceil((tat - now) / 1000)
  if ms > 0 then
    redis.call('SET', name, string.format('%.0f', tat), 'PX', ms)
  else
    redis.call('DEL', name)
  end
end
return #KEYS
