-- Takes tokens from a bucket that all nodes share.
-- KEYS: bucket
-- ARGV: tokens per second, size of the bucket, tokens spent in advance, tokens wanted, fewest that are of use
-- Answers {granted, wait_ms}; wait_ms, when nothing was granted: until the wanted number is there.
local rate, burst, spent = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local wanted, fewest = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(bucket[1]) or burst
-- After a failover the clock may be behind; time never takes tokens away.
local passed = math.max(0, now - (tonumber(bucket[2]) or now))
tokens = math.max(-burst, math.min(burst, tokens + passed * rate / 1000) - spent)

-- Whoever waited as long as he was told must not be refused for a rounding error.
local granted = math.max(0, math.min(wanted, math.floor(tokens + 1e-6)))
if granted < fewest then
  granted = 0
end
tokens = tokens - granted
-- Every digit counts: of a slow bucket hardly anything comes back between two questions, and it must add up.
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', string.format('%.0f', now))
-- By then it is full again, which is what a missing one means.
redis.call('PEXPIRE', KEYS[1], math.ceil((burst - tokens) * 1000 / rate) + 1000)
if granted > 0 then
  return {granted, 0}
end
return {0, math.max(1, math.ceil((wanted - tokens) * 1000 / rate))}
