-- Stores acknowledged positions, unless a newer connection owns the session. The first save makes the session.
-- KEYS: session   ARGV: user, node, connection, claim, ttl_s, max_topics, '1' to give the session up afterwards,
--                       how the client is present ('': nothing to keep, '-': as it is), then topic, seq, epoch, …
-- Answers 1, or 0 when the session is somebody else's and nothing was changed.
local META = 4 -- user, node, connection, claim; with 'presence' there may be one more, and a look below is in vain
local owner = redis.call('HMGET', KEYS[1], 'user', 'node', 'connection', 'claim')
local claim = ARGV[4]
if owner[1] then
  local mine = owner[2] == ARGV[2] and owner[3] == ARGV[3]
  -- An older claim than the caller's comes from a replica that was promoted without having heard of the newer one.
  local outdated = (tonumber(owner[4]) or 0) < tonumber(ARGV[4])
  if owner[1] ~= ARGV[1] or not (mine or outdated) then
    return 0
  end
  claim = outdated and claim or owner[4] or claim
end
local release = ARGV[7] == '1'
redis.call('HSET', KEYS[1], 'user', ARGV[1], 'claim', claim,
  'node', release and '' or ARGV[2], 'connection', release and '' or ARGV[3])
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
if ARGV[8] == '' then
  redis.call('HDEL', KEYS[1], 'presence')
elseif ARGV[8] ~= '-' then
  redis.call('HSET', KEYS[1], 'presence', ARGV[8])
end
for i = 9, #ARGV, 3 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ':' .. now .. ':' .. ARGV[i + 2])
end
redis.call('EXPIRE', KEYS[1], ARGV[5])

local max = tonumber(ARGV[6])
if redis.call('HLEN', KEYS[1]) - META > max then
  -- A client that wandered over more topics than a connection may have: those saved longest ago are forgotten.
  local fields = redis.call('HGETALL', KEYS[1])
  local saved = {}
  for i = 1, #fields, 2 do
    if string.find(fields[i], ':', 1, true) then
      saved[#saved + 1] = {fields[i], tonumber(string.match(fields[i + 1], '^%d+:(%d+):'))}
    end
  end
  table.sort(saved, function(a, b) return a[2] > b[2] end)
  for i = max + 1, #saved do
    redis.call('HDEL', KEYS[1], saved[i][1])
  end
end
return 1
