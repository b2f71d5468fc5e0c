-- A gateway says up to which entry it has heard what is revoked, and hears it of all of them.
--
-- KEYS[1]  the gateways, each with the time until which it counts as there and the last entry it has heard
-- ARGV[1]  "" for the server's clock; microseconds of a clock that a test hands in
-- ARGV[2]  this gateway, or "" to hear of the others only
-- ARGV[3]  the last entry that it has heard, or "-" for none
-- ARGV[4]  how long it counts as there, in microseconds
-- ARGV[5]  the longest that any gateway does
-- reply    each that is there, and the last entry that it has heard
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[2], string.format('%.0f %s', now + ARGV[4], ARGV[3]))
  redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[5] / 1000))
end
local there = {}
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local ends, heard = string.match(all[at + 1], '^(%d+) (%S+)$')
  ends = tonumber(ends)
  -- What is too far ahead was written before the clock went back, as after a failover to another server.
  if ends and ends > now and ends <= now + ARGV[5] then
    there[#there + 1] = all[at]
    there[#there + 1] = heard
  else
    redis.call('HDEL', KEYS[1], all[at])
  end
end
return there
