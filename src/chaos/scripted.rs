//! Members for tests that do what they are told.

use std::io;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{Connecting, Reach, Stream};

/// What a member does.
#[derive(Clone, Copy)]
pub(super) enum Does {
    /// Refuses connections.
    Refuse,
    /// Takes requests and never answers.
    Nothing,
    /// Takes a request and closes the connection.
    Break,
    /// Answers every request with this.
    Answer(&'static str),
}

/// To a put.
pub(super) const WRITTEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 46\r\n\r\n\
                                  {\"revision\":7,\"create_revision\":7,\"version\":1}";
/// A refusal that is certainly without effect.
pub(super) const NO_LEADER: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 110\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"\",\"status\":503,\"detail\":\"none here\",\"code\":\"no_leader\",\"outcome\":\"not_applied\"}";

/// Members, each with what it does.
pub(super) struct Scripted {
    members: Vec<(&'static str, Does)>,
    /// Whom connections were made to, in that order.
    pub(super) connected: Mutex<Vec<String>>,
}

impl Scripted {
    pub(super) fn new(members: &[(&'static str, Does)]) -> Self {
        Self { members: members.to_vec(), connected: Mutex::default() }
    }
}

impl Reach for Scripted {
    fn members(&self) -> Vec<String> {
        self.members.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    fn connect<'a>(&'a self, member: &'a str) -> Connecting<'a> {
        self.connected.lock().unwrap().push(member.to_owned());
        let does = self.members.iter().find(|(name, _)| *name == member).unwrap().1;
        Box::pin(async move {
            if matches!(does, Does::Refuse) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (near, far) = duplex(1 << 16);
            tokio::spawn(serve(far, does));
            Ok(Box::new(near) as Stream)
        })
    }
}

/// Takes whatever arrives at once as a request: the clients here send one in one piece.
async fn serve(mut stream: DuplexStream, does: Does) {
    let mut request = [0; 4096];
    while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
        match does {
            Does::Refuse | Does::Nothing => {}
            Does::Break => return,
            Does::Answer(answer) => drop(stream.write_all(answer.as_bytes()).await),
        }
    }
}
