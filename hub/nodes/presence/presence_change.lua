-- What an instance of a node says of users in a topic; each user once.
-- ARGV, after those of presence_merge.lua: for each user its status' letter ('': not here), the user, and it in JSON.
-- Returns {epoch, version, again_ms}; again_ms: 0, or when counts that were held back may be told.
local users, letters, persons = {}, {}, {}
for index = 9, #ARGV, 3 do
  letters[#letters + 1], users[#users + 1], persons[#persons + 1] = ARGV[index], ARGV[index + 1], ARGV[index + 2]
end
local record, again_ms = apply(users, letters, persons, false)
return { record.epoch, record.version, again_ms }
