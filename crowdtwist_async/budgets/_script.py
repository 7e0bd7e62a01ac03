"""
What Redis runs: the GCRA clock of `RateBudget`, on the server's time, for everybody who names the key.

Times are microseconds. The key is a hash: `next`, when the next permit would be due, were all of them evenly
spaced; `seen`, when it was last asked. Each permit moves `next` on by the interval of whoever takes it.

1. A key that is not there, as after a restart without persistence, begins with a pause as long as permits
   that were leased before can still be used.
2. A server's clock that was set back takes `next` back with it, so that nobody waits for the difference.
3. A pause ends in evenly spaced permits: the slack on top keeps the burst from following it.
4. What is asked for beyond the permit that is needed is given up to the horizon only, so that a pause or a
   death is felt by everybody soon.
"""

from __future__ import annotations

CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

GRANT = """
local needed, ahead = tonumber(ARGV[1]), tonumber(ARGV[2])
local interval, slack = tonumber(ARGV[3]), tonumber(ARGV[4])
local pause, horizon, lost, life = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local state = redis.call('HMGET', KEYS[1], 'next', 'seen')
local next, seen = tonumber(state[1] or ''), tonumber(state[2] or '')
if not next or not seen then
  next = now + lost + slack
elseif seen > now then
  next = next - (seen - now)
end
if pause >= 0 then
  next = math.max(next, now + pause + slack)
end
local due = math.max(next, now)
local room = math.floor((now + horizon - (due - slack)) / interval) + 1
local granted = needed + math.max(0, math.min(ahead, room - needed))
next = due + granted * interval
redis.call('HSET', KEYS[1], 'next', string.format('%.3f', next), 'seen', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil((next - now + life) / 1000)))
return {granted, string.format('%.3f', due - slack - now)}
"""
"""Gives the number of permits, and the microseconds until the first; less than 0: it is there already."""
