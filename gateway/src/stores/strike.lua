-- Counts one violation of a client in a sliding window, exactly, and begins the client's block when there are enough.
-- While a block is on nothing is counted. One atomic step.
-- The arithmetic of plugins/src/bans.rs; a test compares the two.
--
-- KEYS[1]  times of the client's violations, oldest first, never more than are needed for a block
-- KEYS[2]  the client's block, "blocked BEGAN ENDS CODE", or its lift, "lifted AT"
-- KEYS[3]  clients that have changed, by the number of the change: what the gateways follow
-- ARGV[1]  "" for the server's clock; microseconds of a clock that a test hands in
-- ARGV     then client, violations that block, window and block in microseconds, code, changes that are remembered
-- reply    0 counted, 1 the block begins or 2 a block is on; how long ago it began, how long it lasts; its code
--
-- All numbers are whole and below 2^53, where a double is exact.
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local client, max, window, block, code = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]

local began, ends, reason = string.match(redis.call('GET', KEYS[2]) or '', '^blocked (%d+) (%d+) (.+)$')
if ends and now < tonumber(ends) then return { 2, math.max(now - began, 0), ends - now, reason } end

local oldest = redis.call('LINDEX', KEYS[1], 0)
while oldest and now - oldest >= window do
  redis.call('LPOP', KEYS[1])
  oldest = redis.call('LINDEX', KEYS[1], 0)
end
-- %.0f: a number's own text would lose digits.
if redis.call('RPUSH', KEYS[1], string.format('%.0f', now)) < max then
  redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
  return { 0, 0, 0, '' }
end

redis.call('DEL', KEYS[1])
local lasts_ms = math.ceil(block / 1000)
redis.call('SET', KEYS[2], string.format('blocked %.0f %.0f %s', now, now + block, code), 'PX', lasts_ms)

-- Numbers grow also when the clock goes back, and after all changes were forgotten. They are remembered until the last
-- block has ended, so that a gateway which was cut off for long finds what it missed.
local last = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
redis.call('ZADD', KEYS[3], string.format('%.0f', math.max(now, (last or 0) + 1)), client)
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -(ARGV[7] + 1))
redis.call('PEXPIRE', KEYS[3], math.max(lasts_ms, redis.call('PTTL', KEYS[3])))
return { 1, 0, block, code }
