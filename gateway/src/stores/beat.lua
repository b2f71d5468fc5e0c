-- A gateway says that it is there, and hears how many are.
--
-- KEYS[1]  the gateways that count here, each with the time until which it counts as there
-- ARGV[1]  "" for the server's clock; microseconds of a clock that a test hands in
-- ARGV[2]  this gateway, a random name
-- ARGV[3]  how long it counts as there, in microseconds
-- reply    how many there are, this one among them
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
-- What is too far ahead was written before the clock went back, as after a failover to another server.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now + ARGV[3]), '+inf')
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3]), ARGV[2])
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[3] / 1000))
return redis.call('ZCARD', KEYS[1])
