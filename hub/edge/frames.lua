-- Takes frames from the token bucket that all connections of a user share.
-- KEYS: bucket   ARGV: frames per second, size of the bucket, frames spent in advance, frames wanted
-- Answers {granted, wait_ms}; wait_ms, when nothing was granted: until the wanted number is there.
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local spent, wanted = tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local bucket = redis.call('HMGET', KEYS[1], 'frames', 'at')
local frames = tonumber(bucket[1]) or burst
-- After a failover the clock may be behind; time never takes frames away.
local passed = math.max(0, now - (tonumber(bucket[2]) or now))
frames = math.max(-burst, math.min(burst, frames + passed * rate / 1000) - spent)

local granted = math.max(0, math.min(wanted, math.floor(frames)))
frames = frames - granted
redis.call('HSET', KEYS[1], 'frames', string.format('%.3f', frames), 'at', string.format('%.0f', now))
-- By then it is full again, which is what a missing one means.
redis.call('PEXPIRE', KEYS[1], math.ceil((burst - frames) * 1000 / rate) + 1000)
if granted > 0 then
  return {granted, 0}
end
return {0, math.max(1, math.ceil((wanted - frames) * 1000 / rate))}
