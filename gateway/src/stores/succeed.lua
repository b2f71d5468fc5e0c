-- Takes note of a login that succeeded: what failed before it is forgotten, of the account from its network and, unless the
-- account is known from there, of the account; their locks end; the network is known. The network's own failures stay. One
-- atomic step.
--
-- KEYS     as fail.lua has them, without those of the network
-- ARGV[1]  "" for the server's clock; microseconds of a clock that a test hands in
-- ARGV     then the network as the account knows it, how long it is known in microseconds, changes that are remembered,
--          networks that are known of one account, how long the end of a lock is told at least in microseconds, and the names
--          of pair and account
-- reply    the number of locks that ended
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local lasts, most = tonumber(ARGV[3]), tonumber(ARGV[5])

local known, kept = false, { string.format('%s:%.0f', ARGV[2], now) }
for network, since in string.gmatch(redis.call('GET', KEYS[1]) or '', '(%x+):(%d+)') do
  if now - since < lasts then
    if network == ARGV[2] then
      known = true
    elseif #kept < most then
      kept[#kept + 1] = network .. ':' .. since
    end
  end
end
redis.call('SET', KEYS[1], table.concat(kept, ' '), 'PX', math.ceil(lasts / 1000))

local ended = 0
for i = 1, known and 1 or 2 do
  local stamps, lock = KEYS[i * 2 + 1], KEYS[i * 2 + 2]
  redis.call('DEL', stamps)
  local ends = string.match(redis.call('GET', lock) or '', '^blocked %d+ (%d+) ')
  if ends and now < tonumber(ends) then
    ended = ended + 1
    local told_ms = math.max(math.ceil(ARGV[6] / 1000), redis.call('PTTL', lock))
    redis.call('SET', lock, string.format('lifted %.0f', now), 'PX', told_ms)
    local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
    redis.call('ZADD', KEYS[2], string.format('%.0f', math.max(now, (last or 0) + 1)), ARGV[6 + i])
    redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -(ARGV[4] + 1))
    redis.call('PEXPIRE', KEYS[2], math.max(told_ms, redis.call('PTTL', KEYS[2])))
  end
end
return ended
