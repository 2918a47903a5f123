-- Claims a session for a new connection, atomically: whoever runs this last owns it.
-- KEYS: session   ARGV: user, node, connection, ttl_s
-- Answers false for an unknown session or another user's, else {previous node, previous connection, topic, position, …}.
if redis.call('HGET', KEYS[1], 'user') ~= ARGV[1] then
  return false
end
local fields = redis.call('HGETALL', KEYS[1])
local answer = {'', ''}
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  if name == 'node' then
    answer[1] = value
  elseif name == 'connection' then
    answer[2] = value
  elseif string.find(name, ':', 1, true) then
    answer[#answer + 1] = name
    answer[#answer + 1] = value
  end
end
redis.call('HSET', KEYS[1], 'node', ARGV[2], 'connection', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return answer
