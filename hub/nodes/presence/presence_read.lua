-- Who is present in a topic.
-- Returns {epoch, version, online, away, listed, then for each member the letter of its status and it in JSON}.
-- Where nobody is, the epoch stays for whoever comes in a moment; it is not kept for all the topics that were asked for.
local ASKED_ONLY_MS = 60000
local record, changed = load_record()
if changed then
  -- An epoch begins when it is found to be due, whoever finds it.
  local asked_only = redis.call('EXISTS', MEMBERS) == 0
  save_record(record, {})
  redis.call('PEXPIRE', MEMBERS, asked_only and ASKED_ONLY_MS or KEEP_MS)
end
local reply = { record.epoch, record.version, record.online, record.away, record.listed and 1 or 0 }
if record.listed and record.online + record.away > 0 then
  local fields = redis.call('HGETALL', MEMBERS)
  for index = 1, #fields, 2 do
    if string.sub(fields[index], 1, 1) == 'u' then
      local held, person = string.match(fields[index + 1], '^([^\n]*)\n(.*)$')
      reply[#reply + 1] = (string.find(' ' .. held, ' o', 1, true) and 'o' or 'a') .. person
    end
  end
end
return reply
