//! Holds the Lua scripts: each step that must be one step in Redis.
//!
//! A record is a hash: `d` the sealed session, `g` its generation, `w` the lease owner who wrote it last. `p`, when not
//! empty, is a sealed next generation that is parked: its owner `o` lost the lease, and whether it counts depends on what
//! the present holder hears. `q`, when not empty, is an owner who lost the lease while the provider was still to answer,
//! and `u` until when that is believed (Redis' clock, in ms): renewed as leases are, for as long as they wait.
//! `m` is what an operator may see of the session, sealed under the configured keys only.
//! A lease is a string: `h` and the owner while a refresh is under way, `c` while everyone
//! pauses after a failed one. Its key outlives a lease by [`LINGER`], so that one that lapsed can be told from one that was
//! given back: its holder may only have been cut off, by an outage that is just over.
//! No script ever creates a record but `create`, so that none can bring back what a logout deleted; and each may be
//! run twice with the same arguments, because an answer can get lost with its connection.
//! Every answer is `{tag, payload}`.

use std::time::Duration;

use super::command::Script;

/// The scripts, hashed once.
#[derive(Debug)]
pub(super) struct Scripts {
    /// `KEYS` record; `ARGV` data, generation, TTL, what an operator may see.
    pub(super) create: Script,
    /// `KEYS` record, lease.
    pub(super) delete: Script,
    /// `KEYS` record, lease; `ARGV` known generation, owner, TTL of the lease, `1` if the store was away a moment ago, and, for who
    /// has let another go first for long enough, how many ms ago that was (see `applications`).
    pub(super) lease: Script,
    /// `KEYS` record, lease; `ARGV` generation read, owner, TTL of the lease.
    pub(super) renew: Script,
    /// `KEYS` record, lease; `ARGV` generation read, owner, new generation, data.
    pub(super) commit: Script,
    /// `KEYS` record, lease; `ARGV` owner, pause in ms, generation read.
    pub(super) give_up: Script,
    /// `KEYS` record, lease; `ARGV` generation read, owner.
    pub(super) end: Script,
    /// `KEYS` record, lease, marker; `ARGV` what the marker says (or nothing), TTL of the marker.
    pub(super) revoke: Script,
    /// `KEYS` marker; `ARGV` generation known.
    pub(super) take_mark: Script,
    /// `KEYS` index; `ARGV` member, its end, now, members at most.
    pub(super) index: Script,
    /// `KEYS` note; `ARGV` ours, TTL.
    pub(super) once: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            create: Script::new(CREATE),
            delete: Script::new(DELETE),
            lease: with_lease(LEASE),
            renew: with_lease(RENEW),
            commit: with_lease(COMMIT),
            give_up: with_lease(GIVE_UP),
            end: with_lease(END),
            revoke: Script::new(REVOKE),
            take_mark: Script::new(TAKE_MARK),
            index: Script::new(INDEX),
            once: Script::new(ONCE),
        }
    }
}

/// For how long a lease that lapsed is remembered.
pub(super) const LINGER: Duration = Duration::from_secs(300);

fn with_lease(script: &str) -> Script {
    let linger = LINGER.as_millis();
    Script::new(format!("local linger = {linger}{READ_LEASE}{script}"))
}

// `lease` as far as it is in force, and for how long it is; `lapsed` is what was in force and ran out.
const READ_LEASE: &str = r"
local lease = redis.call('GET', KEYS[2])
local left = redis.call('PTTL', KEYS[2])
local lapsed = false
if lease and lease ~= 'c' then
  left = left - linger
  if left <= 0 then lapsed, lease = lease, false end
end";

// The key is fresh and random: if it is there, this very script has made it a moment ago.
const CREATE: &str = r"
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'd', ARGV[1], 'g', ARGV[2], 'm', ARGV[4])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return {'ok', ''}";

// What is parked is newer: the tokens to revoke.
const DELETE: &str = r"
local r = redis.call('HMGET', KEYS[1], 'd', 'p')
redis.call('DEL', KEYS[1], KEYS[2])
if not r[1] then return {'gone', ''} end
if r[2] and r[2] ~= '' then return {'deleted', r[2]} end
return {'deleted', r[1]}";

// With tokens parked and nobody left who could bring better ones, the old token is not presented again; nor while someone
// who lost the lease still waits for their answer. Just after an outage a lease that lapsed is left to whoever had it; and
// so is one of our own that we did not hear of: a frozen Redis may have granted it on waking, over one that lapsed.
const LEASE: &str = r"
local r = redis.call('HMGET', KEYS[1], 'g', 'd', 'p', 'o', 'q', 'u')
if not r[1] or not r[2] then return {'gone', ''} end
if r[1] ~= ARGV[1] then return {'newer', r[2]} end
local mine = 'h' .. ARGV[2]
if lease and lease ~= mine and lease ~= 'c' then
  return {'held', tostring(left)}
end
if r[3] and r[3] ~= '' then
  local next = string.format('%.0f', tonumber(r[1]) + 1)
  redis.call('HSET', KEYS[1], 'd', r[3], 'g', next, 'w', r[4], 'p', '', 'q', '')
  redis.call('DEL', KEYS[2])
  return {'newer', r[3]}
end
if lease == 'c' then
  return {'cooling', tostring(left)}
end
if r[5] and r[5] ~= '' and r[5] ~= ARGV[2] then
  local t = redis.call('TIME')
  local waits = tonumber(r[6]) - (t[1] * 1000 + math.floor(t[2] / 1000))
  if waits > 0 then return {'held', string.format('%.0f', waits)} end
end
if ARGV[4] == '1' and (lapsed or lease == mine) then
  local age = -left
  if lease == mine then age = ARGV[3] - left end
  if ARGV[5] == '' or age < tonumber(ARGV[5]) then return {'yield', string.format('%.0f', math.max(age, 0))} end
end
redis.call('SET', KEYS[2], mine, 'PX', ARGV[3] + linger)
return {'granted', r[2]}";

// A lease that vanished is taken again: nobody else has it, and the token is on its way. One that another has now is lost,
// but they are told that the token is on its way by our hand, too: what they hear of it is not the last word.
const RENEW: &str = r"
local mine = 'h' .. ARGV[2]
if lease == mine then
  redis.call('PEXPIRE', KEYS[2], ARGV[3] + linger)
  return {'ok', ''}
end
if redis.call('HGET', KEYS[1], 'g') ~= ARGV[1] then return {'lost', ''} end
if not lease then
  redis.call('SET', KEYS[2], mine, 'PX', ARGV[3] + linger)
  return {'ok', ''}
end
local t = redis.call('TIME')
local till = t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[3]
redis.call('HSET', KEYS[1], 'q', ARGV[2], 'u', string.format('%.0f', till))
return {'lost', ''}";

// The TTL stays as it is: a refresh is no use of the session. Whoever finds another at it parks what they have, and asks
// again: should the other hear `invalid_grant`, END puts it in force. Who parked first stays: they answer the same token.
const COMMIT: &str = r"
local r = redis.call('HMGET', KEYS[1], 'g', 'w', 'd', 'p', 'q')
local mine = lease == 'h' .. ARGV[2]
if not r[1] then
  if mine then redis.call('DEL', KEYS[2]) end
  return {'gone', ''}
end
if r[1] == ARGV[3] and r[2] == ARGV[2] then
  if mine then redis.call('DEL', KEYS[2]) end
  return {'stored', ''}
end
if r[1] ~= ARGV[1] then
  if mine then redis.call('DEL', KEYS[2]) end
  return {'superseded', r[3] or ''}
end
if lease and not mine and lease ~= 'c' then
  if not r[4] or r[4] == '' then
    redis.call('HSET', KEYS[1], 'p', ARGV[4], 'o', ARGV[2])
  end
  if r[5] == ARGV[2] then redis.call('HSET', KEYS[1], 'q', '') end
  return {'held', tostring(left)}
end
redis.call('HSET', KEYS[1], 'd', ARGV[4], 'g', ARGV[3], 'w', ARGV[2], 'p', '', 'q', '')
redis.call('DEL', KEYS[2])
return {'stored', ''}";

// A pause is for the token that failed: nobody pauses over one that a sibling has brought meanwhile.
const GIVE_UP: &str = r"
local r = redis.call('HMGET', KEYS[1], 'q', 'g')
if r[1] == ARGV[1] then redis.call('HSET', KEYS[1], 'q', '') end
if lease and lease ~= 'h' .. ARGV[1] then return {'lost', ''} end
if tonumber(ARGV[2]) > 0 and r[2] == ARGV[3] then
  redis.call('SET', KEYS[2], 'c', 'PX', ARGV[2])
else
  redis.call('DEL', KEYS[2])
end
return {'ok', ''}";

// Whoever else holds the lease has presented the same token: what became of it, only they know. And who has parked tokens
// got them for it: that is why it is dead, and the session is not. Who lost the lease and still waits for an answer may be
// about to.
const END: &str = r"
local r = redis.call('HMGET', KEYS[1], 'g', 'd', 'p', 'o', 'q', 'u')
local mine = lease == 'h' .. ARGV[2]
if not r[1] then
  if mine then redis.call('DEL', KEYS[2]) end
  return {'ended', ''}
end
if r[1] ~= ARGV[1] then
  if mine then redis.call('DEL', KEYS[2]) end
  return {'newer', r[2] or ''}
end
if r[5] == ARGV[2] then redis.call('HSET', KEYS[1], 'q', '') end
if lease and not mine and lease ~= 'c' then
  return {'held', tostring(left)}
end
if r[3] and r[3] ~= '' then
  local next = string.format('%.0f', tonumber(r[1]) + 1)
  redis.call('HSET', KEYS[1], 'd', r[3], 'g', next, 'w', r[4], 'p', '', 'q', '')
  redis.call('DEL', KEYS[2])
  return {'newer', r[3]}
end
if r[5] and r[5] ~= '' and r[5] ~= ARGV[2] then
  local t = redis.call('TIME')
  local waits = tonumber(r[6]) - (t[1] * 1000 + math.floor(t[2] / 1000))
  if waits > 0 then return {'disputed', string.format('%.0f', waits)} end
end
redis.call('DEL', KEYS[1], KEYS[2])
return {'ended', ''}";

// Without the cookie nobody can open what was deleted: the marker tells those who hold the session, in that very
// generation, that its tokens are to be revoked at the provider. What is parked is a generation further; whoever parked it
// is about to ask, and revokes it. `pcall`, so that a key that somebody else has spoilt is deleted as well.
const REVOKE: &str = r"
local r = redis.pcall('HMGET', KEYS[1], 'm', 'g', 'p')
local there = redis.call('DEL', KEYS[1])
redis.call('DEL', KEYS[2])
if there == 0 then return {'gone', ''} end
local parked = r[3] and r[3] ~= ''
if ARGV[1] ~= '' and r[2] and not parked then
  redis.call('SET', KEYS[3], ARGV[1] .. ':' .. r[2], 'PX', ARGV[2])
end
return {'deleted', r[1] or ''}";

const TAKE_MARK: &str = r"
local mark = redis.call('GET', KEYS[1])
if not mark then return {'gone', ''} end
local kind, generation = string.match(mark, '^(.*):(%d+)$')
if generation ~= ARGV[1] then return {'other', ''} end
redis.call('DEL', KEYS[1])
return {'taken', kind}";

// Members that have ended go as others come, a few at a time, and a set that has grown too large loses those that end
// first: no call takes long. The set lives as long as its last member, and a little longer, for clocks differ.
const INDEX: &str = r"
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
local ended = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[3], 'LIMIT', 0, 100)
if #ended > 0 then redis.call('ZREM', KEYS[1], unpack(ended)) end
local more = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[4])
local cut = 0
if more > 0 then
  cut = redis.call('ZREMRANGEBYRANK', KEYS[1], 0, math.min(more, 100) - 1)
end
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if last[2] then
  local left = tonumber(last[2]) - tonumber(ARGV[3]) + 300000
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(left, 1)))
end
return {'ok', tostring(cut)}";

// As `SET NX`, but safe to send again when the answer got lost.
const ONCE: &str = r"
local there = redis.call('GET', KEYS[1])
if there and there ~= ARGV[1] then return {'seen', ''} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'first', ''}";

#[cfg(test)]
mod tests {
    use crate::session::testing::documented_rights;

    #[test]
    fn every_command_of_a_script_is_among_the_documented_rights() {
        let (code, _) = include_str!("scripts.rs")
            .split_once("#[cfg(test)]")
            .expect("tests come last");
        let calls = code.split("call('").skip(1);
        let commands: Vec<_> = calls.filter_map(|rest| rest.split('\'').next()).collect();
        assert!(commands.len() > 30, "{commands:?}");
        for section in ["### Servers", "### Cluster"] {
            let rights: Vec<_> = documented_rights(section).split(' ').collect();
            for command in &commands {
                let right = format!("+{}", command.to_lowercase());
                assert!(rights.contains(&&*right), "{section}: {right}");
            }
        }
    }
}
