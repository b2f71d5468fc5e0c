-- Counts one failed login by the account from its network and, unless the account is known from there, by the account and
-- by the network; each in a sliding window, exactly, and each begins its lock when a step is reached. One atomic step.
-- The arithmetic of plugins/src/login; a test compares the two.
--
-- KEYS[1]  networks that the account is known from, "NETWORK:SINCE NETWORK:SINCE", the last login first
-- KEYS[2]  locks that have changed, by the number of the change: what the gateways follow
-- KEYS     then of the pair, the account and the network each two: times of failures, oldest first, never more than the last
--          step; and the lock, "blocked BEGAN ENDS SCOPE FAILURES", or its lift, "lifted AT"
-- ARGV[1]  "" for the server's clock; microseconds of a clock that a test hands in
-- ARGV     then the network as the account knows it, how long it is known in microseconds, changes that are remembered
-- ARGV     then of each of the three: its name, its scope, window in microseconds, the number of its steps, and of each step
--          failures and lock in microseconds
-- reply    1 if the network is known, else 0; then five of each that was counted: failures; 0 no lock, 1 it begins or 2 it is
--          on; how long ago it began, how long it lasts; its code
--
-- All numbers are whole and below 2^53, where a double is exact.
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local known = 0
for network, since in string.gmatch(redis.call('GET', KEYS[1]) or '', '(%x+):(%d+)') do
  if network == ARGV[2] and now - since < tonumber(ARGV[3]) then known = 1 end
end

-- %.0f: a number's own text would lose digits.
local function begin(lock, name, lasts, code)
  local lasts_ms = math.ceil(lasts / 1000)
  redis.call('SET', lock, string.format('blocked %.0f %.0f %s', now, now + lasts, code), 'PX', lasts_ms)
  local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
  redis.call('ZADD', KEYS[2], string.format('%.0f', math.max(now, (last or 0) + 1)), name)
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -(ARGV[4] + 1))
  redis.call('PEXPIRE', KEYS[2], math.max(lasts_ms, redis.call('PTTL', KEYS[2])))
end

local reply, arg = { known }, 5
for i = 1, known == 1 and 1 or 3 do
  local stamps, lock = KEYS[i * 2 + 1], KEYS[i * 2 + 2]
  local name, scope, window, steps = ARGV[arg], ARGV[arg + 1], tonumber(ARGV[arg + 2]), tonumber(ARGV[arg + 3])

  local oldest = redis.call('LINDEX', stamps, 0)
  while oldest and now - oldest >= window do
    redis.call('LPOP', stamps)
    oldest = redis.call('LINDEX', stamps, 0)
  end
  local failures, most = redis.call('RPUSH', stamps, string.format('%.0f', now)), tonumber(ARGV[arg + 2 + steps * 2])
  while failures > most do
    redis.call('LPOP', stamps)
    failures = failures - 1
  end
  redis.call('PEXPIRE', stamps, math.ceil(window / 1000))

  local lasts = 0
  for step = 1, steps do
    if failures == tonumber(ARGV[arg + 2 + step * 2]) then lasts = tonumber(ARGV[arg + 3 + step * 2]) end
  end
  local began, ends, code = string.match(redis.call('GET', lock) or '', '^blocked (%d+) (%d+) (.+)$')
  local answer, age, left = 0, 0, 0
  if ends and now < tonumber(ends) then answer, age, left = 2, math.max(now - began, 0), ends - now end
  if lasts > left then
    answer, age, left, code = 1, 0, lasts, scope .. ' ' .. failures
    begin(lock, name, lasts, code)
  end

  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4], reply[n + 5] = failures, answer, age, left, code or ''
  arg = arg + 4 + steps * 2
end
return reply
