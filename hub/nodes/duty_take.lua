-- Takes a duty, unless another node has it and lives.
-- ARGV, after those of duty_clock.lua: the duty. Returns 1 when it is this node's now.
local duty = ARGV[4]
local now = duty_clock()
local holder = redis.call('HGET', HOLDERS, duty)
if holder and holder ~= ME and tonumber(redis.call('ZSCORE', ENDS, duty) or 0) > now then
  return 0
end
redis.call('HSET', HOLDERS, duty, ME)
redis.call('ZADD', ENDS, digits(now + LEASE_MS), duty)
return 1
