//! From a frame to messages for the core: all checks of what a stream carries.

use tonic::Status;

use super::convert;
use super::outbox::FRAME_MESSAGES_MAX;
use super::peers::Contact;
use super::proto;
use super::senders::is_answered_to_removed;
use super::service::Sink;
use crate::raft::Message;
use crate::replica::admission;
use crate::types::{FeatureLevel, NodeId};

/// Checks a whole frame, then hands its messages on. `is_gone`: the cluster has removed the sender for good.
pub(super) fn deliver(
    frame: proto::Frame,
    route: &proto::Route,
    is_gone: bool,
    sink: &Sink,
    (contact, understood): (&Contact, FeatureLevel),
) -> Result<(), Status> {
    if frame.route.as_ref() != Some(route) {
        return Err(Status::invalid_argument("a frame's route differs from its stream's first"));
    }
    if frame.messages.len() > FRAME_MESSAGES_MAX {
        return Err(Status::invalid_argument("too many messages in one frame"));
    }
    let messages = checked(frame.messages, understood).inspect_err(|_| contact.count_refused())?;
    for message in messages.into_iter().filter(|message| !is_gone || is_answered_to_removed(message)) {
        if !sink(NodeId(route.from), message) {
            contact.count_drop();
        }
    }
    Ok(())
}

/// All messages of a frame, if a correct peer could have sent each of them and this node could apply what they carry.
fn checked(messages: Vec<proto::Message>, understood: FeatureLevel) -> Result<Vec<Message>, Status> {
    let check = |wire| {
        let message =
            convert::from_wire(wire).map_err(|error| Status::invalid_argument(error.to_string()))?;
        admission::check_content(&message, understood)
            .map_err(|refused| Status::invalid_argument(refused.to_string()))?;
        Ok(message)
    };
    messages.into_iter().map(check).collect()
}
