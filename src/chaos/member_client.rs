//! A client that knows all members: asks one of them, and after a failure the next one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Reach;
use crate::api::Consistency;
use crate::api::client::{
    Client, ClientError, delete_request, get_request, parse_delete, parse_get, parse_put, put_request,
};
use crate::sim::checker::{Answer, Call};

/// One request at a time, each sent once and to one member. What failed is never sent again by itself.
pub(super) struct MemberClient {
    reach: Arc<dyn Reach>,
    request_timeout: Duration,
    /// Where in the list to begin, so that the clients of a load do not all ask the same member.
    place: usize,
    /// The member in use.
    member: Option<String>,
    connection: Option<Client>,
}

impl MemberClient {
    pub(super) fn new(reach: Arc<dyn Reach>, request_timeout: Duration, place: usize) -> Self {
        Self { reach, request_timeout, place, member: None, connection: None }
    }

    /// Sends one operation; ends within the time for a request. After a failure the next request goes to another
    /// member.
    pub(super) async fn perform(&mut self, key: &str, call: &Call) -> Result<Answer, ClientError> {
        let (connection, mut is_sent) = (self.connection.take(), false);
        let limit = self.request_timeout;
        let performed = timeout(limit, async {
            let mut client = match connection.filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => self.connect().await?,
            };
            is_sent = true;
            let result = exchange(&mut client, key.as_bytes(), call, limit).await;
            Ok((client, result))
        });
        let result = match performed.await {
            Err(_elapsed) => Err(ClientError::Timeout { sent: is_sent }),
            Ok(Err(error)) => Err(error),
            Ok(Ok((client, result))) => {
                // Only a connection whose last answer was read to its end can take the next request.
                if matches!(&result, Ok(_) | Err(ClientError::Problem(_))) {
                    self.connection = Some(client);
                }
                result
            }
        };
        if let Err(error) = &result {
            self.move_on(error);
        }
        result
    }

    /// To the next member, unless the refusal is one that any would give.
    fn move_on(&mut self, error: &ClientError) {
        if !matches!(error, ClientError::Problem(problem) if problem.status < 500 && problem.status != 429) {
            self.connection = None;
            let members = self.reach.members();
            let used = self.member.take();
            let at = used.and_then(|used| members.iter().position(|member| *member == used));
            self.place = at.unwrap_or(self.place).wrapping_add(1);
        }
    }

    async fn connect(&mut self) -> Result<Client, ClientError> {
        let mut members = self.reach.members();
        if members.is_empty() {
            let source = io::Error::new(io::ErrorKind::NotFound, "no address of any member is known");
            return Err(ClientError::Connect { endpoint: "the members".to_owned(), source });
        }
        let known = self.member.take().filter(|used| members.contains(used));
        let member = known.unwrap_or_else(|| members.swap_remove(self.place % members.len()));
        // Also if it does not answer in time: then the next one is another one.
        self.member = Some(member.clone());
        let stream = self
            .reach
            .connect(&member)
            .await
            .map_err(|source| ClientError::Connect { endpoint: member.clone(), source })?;
        Client::over(stream, &member).await
    }
}

/// Sends the request that asks for `call`, and reads the answer. The server is given a little less than `limit`, so that
/// its definite answer comes before the client stops waiting.
async fn exchange(
    client: &mut Client,
    key: &[u8],
    call: &Call,
    limit: Duration,
) -> Result<Answer, ClientError> {
    let for_server = Some(limit * 9 / 10);
    let written = |revision| Answer::Written { mod_revision: Some(revision) };
    let result = match call {
        Call::Get => {
            let request = get_request(key, Consistency::Linearizable, for_server)?;
            let found = parse_get(client.request(request).await)?;
            return Ok(found.map_or(Answer::Missing, |found| Answer::Found {
                value: found.content.value,
                mod_revision: Some(found.content.mod_revision),
            }));
        }
        Call::Put { value, condition } => {
            let request = put_request(key, value.clone(), *condition, for_server)?;
            parse_put(client.request(request).await).map(|done| written(done.revision))
        }
        Call::Delete { condition } => {
            let request = delete_request(key, *condition, for_server)?;
            parse_delete(client.request(request).await).map(written)
        }
    };
    match result {
        Err(ClientError::Problem(problem)) if problem.code == "precondition_failed" => Ok(Answer::Refused),
        Err(ClientError::Problem(problem)) if problem.code == "key_not_found" => Ok(Answer::Missing),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::chaos::scripted::{Does, NO_LEADER, Scripted, WRITTEN};
    use crate::driver::Outcome;
    use crate::kv::Condition;
    use crate::types::Revision;

    const REQUEST_TIMEOUT: Duration = Duration::from_millis(200);

    fn put() -> Call {
        Call::Put { value: Bytes::from_static(b"1"), condition: Condition::Always }
    }

    #[tokio::test]
    async fn after_each_failure_the_next_member_is_asked_and_nothing_is_sent_twice() {
        let members = [
            ("a", Does::Refuse),
            ("b", Does::Nothing),
            ("c", Does::Break),
            ("d", Does::Answer(NO_LEADER)),
            ("e", Does::Answer(WRITTEN)),
        ];
        let reach = Arc::new(Scripted::new(&members));
        let mut client = MemberClient::new(reach.clone(), REQUEST_TIMEOUT, 0);
        let mut outcomes = Vec::new();
        for _ in 0..4 {
            outcomes.push(client.perform("k", &put()).await.unwrap_err().outcome());
        }
        assert_eq!(outcomes, [Outcome::NotApplied, Outcome::Unknown, Outcome::Unknown, Outcome::NotApplied]);
        for _ in 0..2 {
            let written = Answer::Written { mod_revision: Some(Revision(7)) };
            assert_eq!(client.perform("k", &put()).await.unwrap(), written);
        }
        assert_eq!(*reach.connected.lock().unwrap(), ["a", "b", "c", "d", "e"], "each once");
    }

    #[tokio::test]
    async fn without_any_member_nothing_is_sent() {
        let mut client = MemberClient::new(Arc::new(Scripted::new(&[])), REQUEST_TIMEOUT, 0);
        let error = client.perform("k", &put()).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotApplied);
        assert!(error.to_string().contains("no address of any member is known"), "{error}");
    }
}
