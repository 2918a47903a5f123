-- May this connection be let in: not thrown out, and within the limits of its user and organisation. Takes the lease.
-- KEYS: connections of the organisation, connections of the user, cutoff of the user
-- ARGV: connection, lease_ms, max per user, max per organisation, issued_at of the token (0: it does not say)
-- Answers {'ok'}, {'revoked'}, {'user', wait_ms} or {'organisation', wait_ms}; wait_ms: until the oldest lease may run out.
local cutoff = redis.call('GET', KEYS[3])
if cutoff and tonumber(ARGV[5]) <= tonumber(cutoff) then
  return {'revoked'}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = tonumber(ARGV[2])

local function full(key, max)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  if redis.call('ZCARD', key) < max or redis.call('ZSCORE', key, ARGV[1]) then
    return nil
  end
  local oldest = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return math.ceil(tonumber(oldest[2]) - now)
end

local wait = full(KEYS[2], tonumber(ARGV[3]))
if wait then
  return {'user', wait}
end
wait = full(KEYS[1], tonumber(ARGV[4]))
if wait then
  return {'organisation', wait}
end
for i = 1, 2 do
  redis.call('ZADD', KEYS[i], now + lease, ARGV[1])
  redis.call('PEXPIRE', KEYS[i], lease)
end
return {'ok'}
