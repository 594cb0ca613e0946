//! Shows what a wait without an answer says about a connection.

use super::super::command::Command;
use super::super::topology::Topology;
use super::*;
use crate::session::testing::RedisServer;

/// Until it answers.
async fn up(topology: &Topology) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while ping(topology, DIAL).await.is_err() {
        assert!(Instant::now() < deadline, "not up");
        // Refused at once when an outage lasts: whoever dials has to run, too.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn ping(topology: &Topology, wait: Duration) -> Result<(), LinkError> {
    let mut pipe = redis::pipe();
    pipe.cmd("PING");
    let deadline = Instant::now() + wait;
    let answer = topology.ask_once::<(String,)>(Command::Pipe(&pipe), deadline);
    answer.await.map(drop)
}

#[tokio::test]
async fn only_who_had_time_to_answer_is_taken_for_silent() {
    let server = RedisServer::start();
    let metrics = Arc::new(Metrics::new().unwrap());
    let topology = Topology::new(&server.store(), metrics).unwrap();
    let dialled = topology.dialled();
    // Gives up on a frozen server after this time, and asks again. Whether that took a new connection.
    let gives_up_after = async |wait| {
        up(&topology).await;
        let before = *dialled.borrow();
        server.signal("STOP");
        assert_eq!(ping(&topology, wait).await, Err(LinkError::Timeout));
        server.signal("CONT");
        up(&topology).await;
        *dialled.borrow() > before
    };
    for _ in 0..3 {
        assert!(gives_up_after(FAIR * 3 / 2).await, "it had its time");
    }
    // A machine may stand still meanwhile, but not each time.
    let mut tries = 0;
    while gives_up_after(FAIR / 10).await {
        tries += 1;
        assert!(tries < 5, "sent at the last moment");
    }
}
