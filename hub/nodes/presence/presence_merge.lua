-- After presence_record.lua: how one instance's view of its users becomes the topic's, and what is published of it.
-- ARGV, after those of presence_record.lua: how often counts are told (ms), channel, PUBLISH or SPUBLISH, the beginning
-- of event ids, the instance.
local COUNT_MS, CHANNEL, PUBLISH = tonumber(ARGV[4]), ARGV[5], ARGV[6]
local EVENT_ID, INSTANCE = ARGV[7], ARGV[8]
-- 'o' (online) counts more than 'a' (away), and that more than '' (absent).
local WORDS = { o = 'online', a = 'away', [''] = 'offline' }

-- What a user becomes when this instance has it as `letter`: the status over all instances before and after, who has it
-- afterwards, and the user in JSON.
local function merged(stored, letter, person)
  local change = { before = '', after = letter, held = '', person = person }
  if stored then
    local held, known = string.match(stored, '^([^\n]*)\n(.*)$')
    for status, instance in string.gmatch(held, '(%l)(%S+)') do
      if status > change.before then change.before = status end
      if instance ~= INSTANCE then
        change.held = change.held .. status .. instance .. ' '
        if status > change.after then change.after = status end
      end
    end
    if letter == '' then change.person = known end
    change.renamed = change.person ~= known
  end
  if letter ~= '' then
    change.held = change.held .. letter .. INSTANCE .. ' '
  end
  return change
end

local function count(record, letter, number)
  if letter == 'o' then
    record.online = record.online + number
  elseif letter == 'a' then
    record.away = record.away + number
  end
end

local function counts(record)
  return ',"epoch":"' .. record.epoch .. '","version":' .. digits(record.version)
    .. ',"online":' .. digits(record.online) .. ',"away":' .. digits(record.away) .. '}'
end

-- Counts the change, and appends its event to `events` if members are listed.
local function note_change(record, change, events)
  local action = 'update'
  if change.before == change.after then
    -- Where nobody is named, a new name is no news.
    if change.after == '' or not change.renamed or not record.listed then return end
  elseif change.before == '' then
    action = 'join'
  elseif change.after == '' then
    action = 'leave'
  end
  count(record, change.before, -1)
  count(record, change.after, 1)
  record.version = record.version + 1
  local members = record.online + record.away
  if members > MOST_LISTED then
    record.listed = false
  elseif members <= MOST_LISTED * LISTED_AGAIN then
    record.listed = true
  end
  if record.listed then
    events[#events + 1] = '{"action":"' .. action .. '",' .. change.person
      .. ',"status":"' .. WORDS[change.after] .. '"' .. counts(record)
  end
end

-- Appends the counts to `events` if they have changed and it is time, or `at_once`. Returns in how many ms it is.
local function note_counts(record, events, now, at_once)
  if record.listed or record.told == record.version then return 0 end
  local wait = record.told_ms + COUNT_MS - now
  -- A clock that was set back keeps nobody waiting.
  if wait > 0 and wait <= COUNT_MS and not at_once then return wait end
  record.told, record.told_ms = record.version, now
  events[#events + 1] = '{"action":"count"' .. counts(record)
  return 0
end

-- As publish.lua does it with what is not kept.
local function publish(events, now)
  for index, data in ipairs(events) do
    local body = '{"id":"' .. EVENT_ID .. string.format('%04x', index) .. '","name":"presence","data":' .. data .. '}'
    redis.call(PUBLISH, CHANNEL, '- 0 ' .. digits(now) .. '\n' .. body)
  end
end

-- Applies what this instance says of different users: letters and persons by index. Returns the record and again_ms.
local function apply(users, letters, persons, at_once)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local record, changed = load_record()
  local events, set, gone, come, left = {}, {}, {}, {}, {}
  local stored = {}
  if #users > 0 then
    local fields = {}
    for index, user in ipairs(users) do fields[index] = 'u' .. user end
    stored = redis.call('HMGET', MEMBERS, unpack(fields))
  end
  for index, user in ipairs(users) do
    local before, letter = stored[index], letters[index]
    local change = merged(before, letter, persons[index])
    local value = change.held .. '\n' .. change.person
    if change.after == '' then
      if before then gone[#gone + 1] = 'u' .. user end
    elseif value ~= before then
      set[#set + 1], set[#set + 2] = 'u' .. user, value
    end
    if letter == '' then
      left[#left + 1] = user
    else
      come[#come + 1] = user
    end
    note_change(record, change, events)
  end
  local again_ms = note_counts(record, events, now, at_once)
  if changed or #set > 0 or #gone > 0 or #events > 0 then
    save_record(record, set)
  end
  if #gone > 0 then redis.call('HDEL', MEMBERS, unpack(gone)) end
  if #come > 0 then redis.call('SADD', USERS, unpack(come)) end
  if #left > 0 then redis.call('SREM', USERS, unpack(left)) end
  redis.call('PEXPIRE', MEMBERS, KEEP_MS)
  redis.call('PEXPIRE', USERS, KEEP_MS)
  publish(events, now)
  return record, again_ms
end
