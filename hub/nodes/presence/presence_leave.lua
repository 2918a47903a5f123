-- Takes users of an instance that is dead out of a topic.
-- ARGV, after those of presence_merge.lua: how many at most. Returns {how many, how many are left}.
local users = redis.call('SRANDMEMBER', USERS, ARGV[9])
local letters, persons = {}, {}
for index = 1, #users do
  letters[index], persons[index] = '', ''
end
local left = redis.call('SCARD', USERS) - #users
-- Nobody of the dead instance will call again to have counts told.
apply(users, letters, persons, left == 0)
return { #users, left }
