-- Ends this node's leases.
-- ARGV, after those of duty_clock.lua: 'done' (nobody shall have the duties) or 'open' (whoever sweeps next), the duties.
for i = 5, #ARGV do
  local duty = ARGV[i]
  if redis.call('HGET', HOLDERS, duty) == ME then
    if ARGV[4] == 'done' then
      redis.call('HDEL', HOLDERS, duty)
      redis.call('ZREM', ENDS, duty)
    else
      redis.call('ZADD', ENDS, 0, duty)
    end
  end
end
return 0
