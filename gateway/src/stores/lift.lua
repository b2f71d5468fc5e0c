-- Ends a client's block, forgets its violations and makes it known to the other gateways. One atomic step.
--
-- KEYS     as strike.lua has them
-- ARGV[1]  "" for the server's clock; microseconds of a clock that a test hands in
-- ARGV     then client, how long the lift is told at least in microseconds, changes that are remembered
-- reply    1 if a block was on, else 0
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local client = ARGV[2]

local ends = string.match(redis.call('GET', KEYS[2]) or '', '^blocked %d+ (%d+) ')
local was_on = ends and now < tonumber(ends)
-- At least for as long as what it takes the place of.
local told_ms = math.max(math.ceil(ARGV[3] / 1000), redis.call('PTTL', KEYS[2]))
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], string.format('lifted %.0f', now), 'PX', told_ms)

local last = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
redis.call('ZADD', KEYS[3], string.format('%.0f', math.max(now, (last or 0) + 1)), client)
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -(ARGV[4] + 1))
redis.call('PEXPIRE', KEYS[3], math.max(told_ms, redis.call('PTTL', KEYS[3])))
return was_on and 1 or 0
