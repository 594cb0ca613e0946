//! Plays the same random game on both stores: three holders, one session, and every answer must be the same.

use proptest::prelude::*;

use super::*;

/// What one of the holders does, from what it knows.
#[derive(Debug, Clone, Copy)]
enum Move {
    Lease,
    Renew,
    Commit,
    GiveUp,
    End,
    Delete,
    /// Time passes, and every lease and pause runs out.
    RunOut,
}

fn moves() -> impl Strategy<Value = Vec<(usize, Move)>> {
    let one = prop_oneof![
        6 => Just(Move::Lease),
        2 => Just(Move::Renew),
        4 => Just(Move::Commit),
        2 => Just(Move::GiveUp),
        1 => Just(Move::End),
        1 => Just(Move::Delete),
        3 => Just(Move::RunOut),
    ];
    proptest::collection::vec((0..3usize, one), 1..40)
}

/// A store, and what each of three holders knows and has: a lease, and the number of the tokens that the provider gives
/// for it. They are the same however often they are committed.
struct Side {
    sessions: Sessions,
    id: SessionId,
    known: [u64; 3],
    leases: [Option<(Lease, u64)>; 3],
    run_out: Box<dyn Fn()>,
}

impl Side {
    async fn new(sessions: Sessions, begin: Timestamp, run_out: Box<dyn Fn()>) -> Self {
        let id = sessions.create(session_at(begin)).await.unwrap();
        Self {
            sessions,
            id,
            known: [0; 3],
            leases: [None, None, None],
            run_out,
        }
    }

    /// The answer as text, without what differs by nature: owners and what is left of times.
    async fn play(&mut self, who: usize, what: Move, n: u64) -> String {
        let (sessions, id) = (&self.sessions, &self.id);
        let lease = &self.leases[who];
        match (what, lease) {
            (Move::RunOut, _) => {
                (self.run_out)();
                String::new()
            }
            (Move::Delete, _) => {
                let deleted = sessions.delete(id).await.unwrap();
                format!("{:?}", deleted.map(|s| s.generation))
            }
            (Move::Lease, _) => match sessions.lease(id, self.known[who]).await.unwrap() {
                LeaseAnswer::Granted(lease) => {
                    let text = format!("granted {}", lease.session.generation);
                    self.leases[who] = Some((lease, n));
                    text
                }
                LeaseAnswer::Newer(session) => {
                    self.known[who] = session.generation;
                    format!("newer {}", session.generation)
                }
                LeaseAnswer::Held { .. } => "held".into(),
                LeaseAnswer::CoolingDown { .. } => "cooling".into(),
                LeaseAnswer::Gone => "gone".into(),
            },
            (_, None) => "no lease".into(),
            (Move::Renew, Some((lease, _))) => sessions.renew(id, lease).await.unwrap().to_string(),
            (Move::Commit, Some((lease, given))) => {
                let tokens = tokens(*given, START);
                let answer = sessions.commit(id, lease, &tokens).await.unwrap();
                let text = match &answer {
                    CommitAnswer::Stored(s) | CommitAnswer::Superseded(s) => {
                        self.known[who] = s.generation;
                        format!("{} {}", s.generation, s.tokens.access.expose())
                    }
                    CommitAnswer::Gone => "gone".into(),
                    CommitAnswer::Held { .. } => "held".into(),
                };
                let stored = matches!(answer, CommitAnswer::Stored(_));
                // A lease is used up by a commit; committing twice is Redis' own matter (a lost answer).
                if stored {
                    self.leases[who] = None;
                }
                format!("stored: {stored}, {text}")
            }
            (Move::GiveUp, Some(_)) => {
                let (lease, _) = self.leases[who].take().unwrap();
                sessions.give_up(id, lease, PAUSE).await.unwrap();
                "gave up".into()
            }
            (Move::End, Some((lease, _))) => match sessions.end(id, lease).await.unwrap() {
                EndAnswer::Ended => "ended".into(),
                EndAnswer::Newer(s) => format!("newer {}", s.generation),
                EndAnswer::Held { .. } => "held".into(),
                EndAnswer::Disputed { .. } => "disputed".into(),
            },
        }
    }

    async fn state(&self) -> String {
        match self.sessions.peek(&self.id).await.unwrap() {
            Lookup::Found(found) => {
                let s = &found.session;
                format!("{} {}", s.generation, s.tokens.access.expose())
            }
            Lookup::Missing(gone) => format!("{gone:?}"),
        }
    }
}

/// Less than passes at once, and longer than a game takes on a real clock.
const PAUSE: Duration = Duration::from_secs(9);

/// Plays one game on both.
async fn play(server: &Arc<RedisServer>, moves: Vec<(usize, Move)>) -> Result<(), TestCaseError> {
    let clock = ManualClock::at(START);
    let memory = Sessions::open(&memory_config(10), clock.clone(), metrics()).unwrap();
    let pass = Box::new(move || clock.advance(Sessions::LEASE));
    let mut memory = Side::new(memory, START, pass).await;
    let system: SharedClock = Arc::new(SystemClock);
    let redis = Sessions::open(&server.config(), system.clone(), metrics()).unwrap();
    let cli = Arc::clone(server);
    let forget = "for _, k in ipairs(redis.call('KEYS', 'daypass:l:*')) do redis.call('DEL', k) end \
         for _, k in ipairs(redis.call('KEYS', 'daypass:s:*')) do redis.call('HSET', k, 'u', '0') end";
    let run_out = Box::new(move || drop(cli.cli(&["EVAL", forget, "0"])));
    let mut redis = Side::new(redis, system.now(), run_out).await;
    for (n, (who, what)) in moves.iter().enumerate() {
        let n = n as u64 + 1;
        let (one, two) = (
            memory.play(*who, *what, n).await,
            redis.play(*who, *what, n).await,
        );
        prop_assert_eq!(one, two, "move {} of {:?}", n, &moves);
        prop_assert_eq!(
            memory.state().await,
            redis.state().await,
            "after {} of {:?}",
            n,
            &moves
        );
    }
    Ok(())
}

#[test]
fn memory_and_redis_play_the_same_game() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = Arc::new(RedisServer::start());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 64,
        ..ProptestConfig::default()
    });
    let game = |moves| runtime.block_on(play(&server, moves));
    runner.run(&moves(), game).unwrap();
}

#[tokio::test]
async fn games_that_once_differed_are_the_same_now() {
    use Move::{Commit, GiveUp, Lease, RunOut};
    let server = Arc::new(RedisServer::start());
    // One who is late with a failure took away the pause of another's.
    let late = [(0, Lease), (0, RunOut), (1, Lease), (1, Commit), (1, Lease)];
    let pauses = [(1, GiveUp), (0, GiveUp), (0, Lease), (0, Lease)];
    play(&server, [&late[..], &pauses].concat()).await.unwrap();
}
