-- Renews the leases of open connections of one organisation. Also brings back what a restarted Redis has forgotten.
-- KEYS: connections of the organisation, then for each connection the connections of its user
-- ARGV: lease_ms, then the connections in the same order
local time = redis.call('TIME')
local lease = tonumber(ARGV[1])
local ends = time[1] * 1000 + math.floor(time[2] / 1000) + lease
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], ends, ARGV[i])
  redis.call('ZADD', KEYS[i], ends, ARGV[i])
  redis.call('PEXPIRE', KEYS[i], lease)
end
redis.call('PEXPIRE', KEYS[1], lease)
return #ARGV - 1
