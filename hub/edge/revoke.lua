-- Throws a user out: tokens issued until now, by the clock of Redis, are refused from now on.
-- KEYS: cutoff of the user   ARGV: ttl_ms
local time = redis.call('TIME')
local cutoff = string.format('%d.%06d', time[1], time[2])
redis.call('SET', KEYS[1], cutoff, 'PX', ARGV[1])
return cutoff
