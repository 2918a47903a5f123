-- Makes duties whose leases have ended this node's, those that ended first.
-- ARGV, after those of duty_clock.lua: how many at most. Returns them.
local now = duty_clock()
local ended = redis.call('ZRANGE', ENDS, '-inf', digits(now), 'BYSCORE', 'LIMIT', 0, ARGV[4])
local ends = digits(now + LEASE_MS)
for _, duty in ipairs(ended) do
  redis.call('HSET', HOLDERS, duty, ME)
  redis.call('ZADD', ENDS, ends, duty)
end
return ended
