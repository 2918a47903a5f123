-- One use of a session that all nodes share. It is there from its first use until its life is over or it was idle.
-- KEYS: session   ARGV: most uses, life_ms, idle_ms
-- Answers 0, or the milliseconds until a refused user may begin a new session.
local most, life, idle = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local session = redis.call('HMGET', KEYS[1], 'uses', 'ends')
local uses = tonumber(session[1]) or 0
local ends = tonumber(session[2]) or now + life
if uses >= most then
  -- Nothing is written: a refused use does not prolong the session. A key outlives its last millisecond.
  return math.max(0, redis.call('PTTL', KEYS[1])) + 1
end
redis.call('HSET', KEYS[1], 'uses', uses + 1, 'ends', string.format('%.0f', ends))
-- After a failover the clock may be behind; the session then gets no longer than it is.
redis.call('PEXPIRE', KEYS[1], math.max(1, math.min(ends - now, life, idle)))
return 0
